"""What Honeycomb has of a design, and how it differs from what is to be. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bk_pipeline.honeycomb.design import Design
from bk_pipeline.honeycomb.resources import Item
from bk_pipeline.text import compact_json, shortened

LONGEST_VALUE = 60
# Not compared: Honeycomb makes them, or does not return them.
IGNORED = frozenset({"id", "created_at", "updated_at", "dataset", "layout_generation"})
# Values that Honeycomb adds where a request has none.
DEFAULTS: tuple[Any, ...] = (None, False, 0, "", "default", "graph", "AND", [], {})


@dataclass(slots=True)
class State:
    """What Honeycomb has: all columns and calculated fields by name, of the rest only what is ours."""

    has_dataset: bool = False
    columns: dict[str, Item] = field(default_factory=dict)
    fields: dict[str, Item] = field(default_factory=dict)
    annotations: list[Item] = field(default_factory=list)
    boards: list[Item] = field(default_factory=list)
    triggers: list[Item] = field(default_factory=list)
    slos: list[Item] = field(default_factory=list)

    @property
    def board(self) -> Item | None:
        """Our board; others like it are duplicates."""
        return self.boards[0] if self.boards else None


def made_queries(state: State, wanted: Design) -> dict[str, Item]:
    """Return the annotations of the queries that exist as they are to be, by tag."""
    used = annotations_of(state.board or {})
    tags = {wanted.query_tag(one) for one in wanted.queries}
    # Of several the one on the board.
    ordered = sorted(state.annotations, key=lambda one: one["id"] in used)
    found = {text_of(one, "description").rpartition(" ")[2]: one for one in ordered}
    return {tag: one for tag, one in found.items() if tag in tags}


def annotations_of(board: Item) -> set[str]:
    """Return the ids of the annotations of a board's queries."""
    panels = board.get("panels") or []
    return {text_of(one.get("query_panel") or {}, "query_annotation_id") for one in panels}


def differences(present: Item, body: Item) -> Iterator[str]:
    """Yield a text for each field of `body` with another value in `present`."""
    for name, old, new in unlike(present, body):
        yield f"{name} {shown(old)} instead of {shown(new)}"


def unlike(present: Item, body: Item) -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields of `body` with another value in `present`, and both values."""
    for name, new in body.items():
        old = present.get(name)
        if name not in IGNORED and significant(old) != significant(new):
            yield name, old, new


def significant(value: Any) -> Any:
    """Return a value without what Honeycomb adds, and without defaults."""
    if isinstance(value, dict):
        kept = {name: significant(one) for name, one in value.items() if name not in IGNORED}
        return {name: one for name, one in kept.items() if one not in DEFAULTS}
    if isinstance(value, list):
        kept_items = [significant(one) for one in value]
        return [one for one in kept_items if one not in DEFAULTS]
    return " ".join(value.split()) if isinstance(value, str) else value


def shown(value: Any) -> str:
    """Return a value as short JSON."""
    return shortened(compact_json(value), LONGEST_VALUE)


def text_of(one: Item, name: str) -> str:
    """Return a field that is a text; empty if it is absent or null."""
    return str(one.get(name) or "")

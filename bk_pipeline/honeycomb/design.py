"""What a dataset's board, columns, calculated fields, triggers and SLO are to be. Pure.

What we made is recognized by its name and by a tag at the end of its description. Boards, triggers,
SLOs and queries have one of their dataset, columns and calculated fields are in it anyway. Queries
cannot be changed or listed: the tag in the annotation that names a query has a digest of the
query's definition, so that an annotation says whether its query is as it should be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest
from typing import Any

import msgspec

from bk_pipeline.honeycomb import queries
from bk_pipeline.honeycomb.account import dataset_slug
from bk_pipeline.honeycomb.queries import Calculated, Query, Slo, Text, Trigger
from bk_pipeline.spans.fields import FIELDS, IDENTITY, Field, FieldType
from bk_pipeline.text import shortened

# Returns a value of an attribute as the privacy settings leave it; None if it is not sent.
Shown = Callable[[str, str | int], str | None]

TAG = "[bk_pipeline]"
DEFAULT_DATASET = "buildkite"
LONGEST_COLUMN, LONGEST_NAME = 255, 255
GRID, TEXT_HEIGHT, QUERY_HEIGHT = 12, 2, 5
TYPES = {FieldType.INT: "integer", FieldType.FLOAT: "float", FieldType.BOOL: "boolean"}
_VARIABLE = re.compile(r"\$([\w.]+)")


@dataclass(frozen=True, slots=True)
class Column:
    """The type and description of a column."""

    type: str
    description: str


# Columns that every event has, whatever the settings.
EVENT_COLUMNS = {
    "name": Column("string", IDENTITY["name"][1]),
    "duration_ms": Column("float", "How long the span lasted, in ms."),
    "error": Column("boolean", "True on spans that failed, else absent."),
    "trace.trace_id": Column("string", "The build's UUID; docs/spans.md says in which form."),
    "trace.span_id": Column("string", "The span's id."),
    "trace.parent_id": Column("string", IDENTITY["parent_span_id"][1]),
    "trace.link.trace_id": Column("string", "Of a link: the trace that caused the span."),
    "trace.link.span_id": Column("string", "Of a link: the span that caused the span."),
    "meta.annotation_type": Column("string", "link on links, which are rows of their own."),
    "parent_name": Column("string", "Of a link: the kind of its span."),
    "service.name": Column("string", "The dataset, or what names the service in the settings."),
    "span.kind": Column("string", "server on builds, internal on other spans."),
    "span.num_links": Column("integer", "The number of the span's links."),
    "status_code": Column("integer", "0: unset, 1: ok, 2: error."),
}
# Descriptions of columns that maps give, by the beginning of their names.
MAPS = {one.name.removesuffix("*"): one for one in FIELDS if one.type is FieldType.MAP}


@dataclass(frozen=True, slots=True)
class Design:
    """What is to be, for one dataset.

    Attributes:
        dataset: The dataset's name.
        columns: The columns that are sent, with types and descriptions.
        fields: The calculated fields that are needed.
        panels: The board's panels, in order.
        triggers: The triggers that are asked for.
        slo: The SLO, if it is asked for.
        preset_filters: Column and label of filters of the board.
        left_out: Names of what is left out because a column is not sent, and that column.
        shown: Returns a value as the privacy settings leave it.
    """

    dataset: str
    columns: dict[str, Column]
    fields: tuple[Calculated, ...]
    panels: tuple[Text | Query, ...]
    triggers: tuple[Trigger, ...]
    slo: Slo | None
    preset_filters: tuple[tuple[str, str], ...]
    left_out: dict[str, str]
    shown: Shown = field(repr=False)

    @property
    def slug(self) -> str:
        """The dataset in paths of the API."""
        return dataset_slug(self.dataset)

    @property
    def board_name(self) -> str:
        """The board's name; other datasets than the default one are in it."""
        more = "" if self.dataset == DEFAULT_DATASET else f" ({self.dataset})"
        return shortened(f"Buildkite{more}", LONGEST_NAME)

    @property
    def tag(self) -> str:
        """The tag of what is outside of the dataset."""
        return f"[bk_pipeline:{self.slug}]"

    @property
    def queries(self) -> tuple[Query, ...]:
        """The queries of the panels."""
        return tuple(one for one in self.panels if isinstance(one, Query))

    @property
    def needed(self) -> list[str]:
        """The columns without which Honeycomb refuses the queries."""
        aliases = {one.alias for one in self.fields}
        used = {name for one in self.queries for name in columns_of(one)}
        used |= {name for one in self.triggers for name in columns_of(one.query)}
        used |= {name for one in self.fields for name in variables_of(one)}
        used |= {name for name, _ in self.preset_filters}
        return sorted(used - aliases)

    def column(self, name: str) -> Column | None:
        """Return what a column is to be, if it is one of ours; the type of map entries is empty."""
        entry = next((one for prefix, one in MAPS.items() if name.startswith(prefix)), None)
        return self.columns.get(name) or (Column("", _description(entry)) if entry else None)

    def definition(self, query: Query) -> dict[str, Any]:
        """Return a query as the API has it."""
        calculations = [_calculation(one) for one in query.calculations]
        filters = [{"column": "name", "op": "=", "value": query.of}]
        filters += [self._filter(*one) for one in query.where]
        spec: dict[str, Any] = {"calculations": calculations, "filters": filters}
        if query.by:
            spec["breakdowns"] = list(query.by)
        if query.ordered:
            spec["orders"] = [calculations[0] | {"order": "descending"}]
        if query.having:
            calculation, op, value = query.having
            first, _, column = calculation.partition(" ")
            having = {"calculate_op": first, "column": column, "op": op, "value": value}
            spec["havings"] = [having]
        return spec | {"limit": query.limit, "time_range": query.range_s}

    def trigger_query(self, trigger: Trigger) -> dict[str, Any]:
        """Return a trigger's query, which has no order and no limit."""
        spec = self.definition(trigger.query)
        return {name: spec[name] for name in spec if name not in {"orders", "limit"}}

    def query_tag(self, query: Query) -> str:
        """Return the tag of a query: it changes with the query and the formulas in it.

        Honeycomb keeps the formulas that calculated fields have when a query is made.
        """
        formulas = [one.formula for one in self.fields if one.alias in columns_of(query)]
        content = msgspec.json.encode([self.definition(query), formulas], order="sorted")
        return f"{self.tag[:-1]}#{sha256(content).hexdigest()[:8]}]"

    def _filter(self, column: str, op: str, *value: Any) -> dict[str, Any]:
        """Return a filter; values that are sent hashed are hashed in it too."""
        made: dict[str, Any] = {"column": column, "op": op}
        for one in value:
            if isinstance(one, tuple):
                made["value"] = [self.shown(column, each) or each for each in one]
            elif isinstance(one, str) and column not in EVENT_COLUMNS:
                made["value"] = self.shown(column, one) or one
            else:
                made["value"] = one
        return made


def design(
    dataset: str, *, left_out: Iterable[str], shown: Shown, triggers: bool, slo: bool
) -> Design:
    """Return what is to be for a dataset.

    Args:
        dataset: Its name.
        left_out: Attributes that the settings turn off.
        shown: Returns a value of an attribute as the privacy settings leave it.
        triggers: Whether triggers are asked for.
        slo: Whether the SLO is asked for.
    """
    columns = _sent_columns(set(left_out), shown)
    # A formula compares values as they are, so its columns must not be hashed.
    intact = {name for name in columns if name in EVENT_COLUMNS or shown(name, "1") == "1"}
    missing: dict[str, str] = {}
    possible = {
        one.alias: one
        for one in queries.CALCULATED
        if not _note_missing(one.alias, variables_of(one), intact, missing)
    }
    known = columns.keys() | possible.keys()
    panels = [
        one
        for one in queries.PANELS
        if isinstance(one, Text) or not _note_missing(one.name, columns_of(one), known, missing)
    ]
    wanted = [
        one
        for one in (queries.TRIGGERS if triggers else ())
        if not _note_missing(one.name, columns_of(one.query), known, missing)
    ]
    goals = [
        one
        for one in ([queries.SLO] if slo else [])
        if not _note_missing(one.name, [one.sli.alias], known, missing)
    ]
    asked = [one for one in panels if isinstance(one, Query)] + [one.query for one in wanted]
    used = {name for one in asked for name in columns_of(one)} | {one.sli.alias for one in goals}
    return Design(
        dataset=dataset,
        columns=columns,
        fields=tuple(one for alias, one in possible.items() if alias in used),
        panels=_without_empty_sections(panels),
        triggers=tuple(wanted),
        slo=goals[0] if goals else None,
        preset_filters=tuple(one for one in queries.PRESET_FILTERS if one[0] in columns),
        left_out={name: column for name, column in missing.items() if name not in ALIASES},
        shown=shown,
    )


def _sent_columns(left_out: set[str], shown: Shown) -> dict[str, Column]:
    """Return the columns that are sent, apart from the entries of maps."""
    return EVENT_COLUMNS | {
        one.name: Column(TYPES.get(one.type, "string"), _description(one))
        for one in FIELDS
        if one.type is not FieldType.MAP and one.name not in left_out and shown(one.name, 1)
    }


def _without_empty_sections(panels: list[Text | Query]) -> tuple[Text | Query, ...]:
    """Return the panels without texts that no query follows, except for the first one."""
    following = [*panels[1:], Text("")]
    return tuple(
        one
        for number, (one, after) in enumerate(zip(panels, following, strict=True))
        if number == 0 or isinstance(one, Query) or isinstance(after, Query)
    )


ALIASES = frozenset(one.alias for one in queries.CALCULATED)


def columns_of(query: Query) -> list[str]:
    """Return the columns and calculated fields of a query."""
    calculated = (one.partition(" ")[2] for one in query.calculations)
    names = ("name", *query.by, *(one[0] for one in query.where), *calculated)
    return [name for name in names if name]


def variables_of(calculated: Calculated) -> list[str]:
    """Return the columns in a calculated field's formula."""
    return _VARIABLE.findall(calculated.formula)


def positions(panels: Sequence[Text | Query]) -> Iterator[dict[str, int]]:
    """Yield the position of each panel: queries stand in pairs; texts and single ones fill a row."""
    x = y = 0
    for one, after in zip_longest(panels, panels[1:]):
        is_text = isinstance(one, Text)
        alone = is_text or not (x or isinstance(after, Query))
        height = TEXT_HEIGHT if is_text else QUERY_HEIGHT
        yield _position(x, y, GRID if alone else GRID // 2, height)
        x, y = (0, y + height) if alone or x else (GRID // 2, y)


def _position(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x_coordinate": x, "y_coordinate": y, "width": width, "height": height}


def _calculation(text: str) -> dict[str, str]:
    op, _, column = text.partition(" ")
    return {"op": op, "column": column} if column else {"op": op}


def _description(one: Field) -> str:
    unit = f" Unit: {one.unit}." if one.unit else ""
    return one.meaning + unit


def _note_missing(
    name: str, columns: Iterable[str], known: Iterable[str], missing: dict[str, str]
) -> bool:
    """Return whether a column is missing, and note the first one; through a formula, its own."""
    absent = next((one for one in columns if one not in known), None)
    if absent is not None:
        missing[name] = missing.get(absent, absent)
    return absent is not None


def tagged(text: str, tag: str, limit: int = 1_000) -> str:
    """Return a description that ends with a tag."""
    return f"{shortened(text, limit - len(tag) - 1)} {tag}"

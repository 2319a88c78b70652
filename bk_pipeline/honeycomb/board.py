"""The panels of our board: what it is to have, and how the board in Honeycomb differs. Pure.

Our panels are restored; panels and filters that others added are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bk_pipeline.honeycomb import queries
from bk_pipeline.honeycomb.comparing import (
    State,
    differences,
    made_queries,
    shown,
    significant,
    text_of,
    unlike,
)
from bk_pipeline.honeycomb.design import GRID, QUERY_HEIGHT, Design, positions, tagged
from bk_pipeline.honeycomb.queries import Query, Text
from bk_pipeline.honeycomb.resources import Item

MOST_PRESET_FILTERS = 5

QueryOf = Callable[[str], Item]


def board_body(wanted: Design, state: State) -> Item:
    """Return the board as it is to be, with the panels and filters that others added."""
    panels = _panels(wanted, state)
    filters = [{"column": column, "alias": alias} for column, alias in wanted.preset_filters]
    present = state.board or {}
    taken = [one["column"] for one in filters]
    added = [one for one in present.get("preset_filters") or [] if one.get("column") not in taken]
    others = _moved_below(_panels_of_others(present, panels, state), panels)
    body: Item = {
        "name": wanted.board_name,
        "description": tagged(f"Builds of Buildkite, in the dataset {wanted.dataset}.", wanted.tag),
        "type": "flexible",
        "layout_generation": "manual",
        "panels": panels + others,
        "preset_filters": [*filters, *added][:MOST_PRESET_FILTERS],
    }
    return body | {name: present[name] for name in ("tags",) if present.get(name)}


def board_differences(wanted: Design, state: State, query_of: QueryOf | None) -> list[str]:
    """Return what is different on the board, panels by the names of their queries.

    Args:
        wanted: The design.
        state: What Honeycomb has, with the board.
        query_of: Returns a query by its id.
    """
    body, present = board_body(wanted, state), state.board or {}
    panels = present.get("panels") or []
    found = list(differences(present, body | {"panels": panels}))
    labels = {("query", one["id"]): f"query {text_of(one, 'name')!r}" for one in state.annotations}
    old = {_identity(one): one for one in reversed(panels)}
    new = {_identity(one): one for one in body["panels"]}
    for identity, panel in new.items():
        label = labels.get(identity, f"panel {identity[1]!r}")
        before = old.get(identity)
        if before is None:
            found.append(f"{label} is missing or was edited")
        elif changes := list(_panel_changes(before, panel, query_of)):
            found.append(f"{label}: {', '.join(changes)}")
    gone = [one for one in old if one not in new]
    found += [f"{labels.get(one, f'panel {one[1]!r}')} is not to be there" for one in gone]
    return found + (["a panel is there twice"] if len(panels) > len(old) else [])


def _panel_changes(before: Item, panel: Item, query_of: QueryOf | None) -> Iterator[str]:
    kind = f"{panel['type']}_panel"
    yield from differences(before.get("position") or {}, panel["position"])
    for name, old, new in unlike(before.get(kind) or {}, panel[kind]):
        if name == "query_id" and query_of is not None:
            yield from differences(query_of(str(old)), query_of(str(new)))
        else:
            yield f"{name} {shown(old)} instead of {shown(new)}"


def _panels(wanted: Design, state: State) -> list[Item]:
    """Return our panels; without those of queries that do not exist yet."""
    made = made_queries(state, wanted)
    panels: list[Item] = []
    below = 0
    for one, position in zip(wanted.panels, positions(wanted.panels), strict=True):
        below = position["y_coordinate"] + position["height"]
        if isinstance(one, Text):
            content = {"content": one.content}
            panels.append({"type": "text", "text_panel": content, "position": position})
        elif annotation := made.get(wanted.query_tag(one)):
            panels.append(_query_panel(one, annotation, position))
    for slo in state.slos[:1] if wanted.slo else ():
        place = {"y_coordinate": below, "width": GRID // 2, "height": QUERY_HEIGHT}
        place["x_coordinate"] = 0
        panels.append({"type": "slo", "slo_panel": {"slo_id": slo["id"]}, "position": place})
    return panels


def _query_panel(query: Query, annotation: Item, position: dict[str, int]) -> Item:
    charts = [{"chart_index": 0, "chart_type": query.chart}]
    panel = {
        "query_id": annotation["query_id"],
        "query_annotation_id": annotation["id"],
        "query_style": query.style,
        "visualization_settings": {"charts": charts},
    }
    return {"type": "query", "query_panel": panel, "position": position}


def _identity(panel: Item) -> tuple[str, str]:
    """Return what identifies a panel: the annotation, the SLO, or the heading of a text."""
    content = panel.get(f"{panel.get('type')}_panel") or {}
    if panel.get("type") == "text":
        return "text", text_of(content, "content").partition("\n")[0].strip()
    return str(panel.get("type")), str(content.get("query_annotation_id") or content.get("slo_id"))


def _panels_of_others(present: Item, ours: list[Item], state: State) -> list[Item]:
    """Return the panels that others added: neither ours, nor one of ours edited where it stands."""
    known = {_identity(one) for one in ours}
    known |= {("query", one["id"]) for one in state.annotations}
    known |= {("slo", one["id"]) for one in state.slos}
    texts = (one.content for one in queries.PANELS if isinstance(one, Text))
    known |= {("text", content.partition("\n")[0]) for content in texts}
    panels = present.get("panels") or []
    found = {_identity(one) for one in panels}
    # A panel whose query was edited has another query, at the same place.
    vacant = [significant(one["position"]) for one in ours if _identity(one) not in found]
    return [
        _without_read_only(one)
        for one in panels
        if _identity(one) not in known and significant(one.get("position")) not in vacant
    ]


def _without_read_only(panel: Item) -> Item:
    query = panel.get("query_panel")
    if query is None:
        return panel
    return panel | {"query_panel": {name: query[name] for name in query if name != "dataset"}}


def _moved_below(others: list[Item], ours: list[Item]) -> list[Item]:
    """Return the panels, moved down together as far as they need to stand below ours."""
    end = max((_bottom(one["position"]) for one in ours), default=0)
    places = [one.get("position") or {} for one in others]
    down = max(0, end - min((one.get("y_coordinate", 0) for one in places), default=end))
    return [
        one | {"position": place | {"y_coordinate": place.get("y_coordinate", 0) + down}}
        for one, place in zip(others, places, strict=True)
    ]


def _bottom(position: dict[str, int]) -> int:
    return position["y_coordinate"] + position["height"]

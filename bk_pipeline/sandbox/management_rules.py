"""What Honeycomb refuses in queries, formulas and boards, by its API description.

Guesses, because the real behavior is not documented: the status and text of most refusals, and that
numeric calculations need numeric columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bk_pipeline.sandbox.bodies import ApiError

Item = dict[str, Any]
GRID, MAX_GROUPS = 12, 1_000
MINUTE_S, DAY_S = 60, 86_400
COLUMN_TYPES = frozenset({"string", "float", "integer", "boolean"})
_TAG = {"key": re.compile(r"[a-z]{1,32}"), "value": re.compile(r"[a-z][a-z0-9/-]{0,127}")}
_NUMBERS = frozenset({"float", "integer", ""})
_VALUE_FILTERS = frozenset(
    {"=", "!=", ">", ">=", "<", "<="}
    | {"contains", "starts-with", "ends-with"}
    | {"does-not-contain", "does-not-start-with", "does-not-end-with"}
)
_LIST_FILTERS = frozenset({"in", "not-in"})
_EXISTENCE_FILTERS = frozenset({"exists", "does-not-exist"})
_NUMERIC_OPS = frozenset(
    {"SUM", "AVG", "MAX", "MIN", "HEATMAP", "RATE_AVG", "RATE_SUM", "RATE_MAX"}
    | {"P001", "P01", "P05", "P10", "P20", "P25", "P50", "P75", "P80", "P90", "P95", "P99", "P999"}
)
_BARE_OPS = frozenset({"COUNT", "CONCURRENCY"})
_FUNCTIONS = frozenset(
    {"IF", "SWITCH", "COALESCE", "LT", "LTE", "GT", "GTE", "EQUALS", "IN", "EXISTS", "NOT", "AND"}
    | {"OR", "MIN", "MAX", "SUM", "SUB", "MUL", "DIV", "MOD", "LOG10", "BUCKET", "INT", "FLOAT"}
    | {"BOOL", "STRING", "CONCAT", "STARTS_WITH", "ENDS_WITH", "CONTAINS", "TO_LOWER", "LENGTH"}
    | {"REG_MATCH", "REG_VALUE", "REG_COUNT", "UNIX_TIMESTAMP", "EVENT_TIMESTAMP"}
    | {"INGEST_TIMESTAMP", "FORMAT_TIME"}
)
_LITERALS = frozenset({"true", "false", "null"})
_TOKEN = re.compile(
    r"\s*(?:(?P<column>\$(?:\"[^\"]*\"|[\w./:=+?-]+))|(?P<text>\"(?:[^\"\\]|\\.)*\"|`[^`]*`)"
    r"|(?P<number>-?\d+(?:\.\d+)?)|(?P<word>[A-Za-z]\w+)|(?P<mark>[(),]))"
)


def check_query(query: Item, types: Mapping[str, str]) -> None:
    """Check a query against the API description and the columns of its dataset.

    Args:
        query: The query; the calculations get their default.
        types: The types of the columns; that of calculated fields is empty.

    Raises:
        ApiError: It is malformed, or has a column that does not exist.
    """
    calculations = query.setdefault("calculations", [{"op": "COUNT"}])
    filters, breakdowns = query.get("filters", []), query.get("breakdowns", [])
    for one in (*calculations, *filters, *({"column": name} for name in breakdowns)):
        if one.get("column") is not None and one["column"] not in types:
            raise ApiError(422, f"unknown column {one['column']}")
    for one in calculations:
        _check_calculation(one, types)
    for one in filters:
        _check_filter(one)
    terms = {(one["op"], one.get("column")) for one in calculations}
    for one in query.get("orders", []):
        if (one.get("op"), one.get("column")) not in terms and one.get("column") not in breakdowns:
            raise ApiError(422, "orders: a term is neither a breakdown nor a calculation")
    for one in query.get("havings", []):
        if (one.get("calculate_op"), one.get("column")) not in terms:
            raise ApiError(422, "havings: a term is not a calculation")
    if not 1 <= query.get("limit", 100) <= MAX_GROUPS:
        raise ApiError(422, "limit: must be from 1 to 1000")


def _check_calculation(one: Item, types: Mapping[str, str]) -> None:
    op, column = one.get("op"), one.get("column")
    if op not in _NUMERIC_OPS | _BARE_OPS | {"COUNT_DISTINCT"}:
        raise ApiError(422, f"calculations: unknown op {op}")
    if (column is None) != (op in _BARE_OPS):
        raise ApiError(422, f"calculations: {op} with column {column}")
    if op in _NUMERIC_OPS and types[str(column)] not in _NUMBERS:
        raise ApiError(422, f"calculations: {op} of {column}, which is not a number")


def _check_filter(one: Item) -> None:
    op, value = one.get("op"), one.get("value")
    if op in _EXISTENCE_FILTERS:
        fits = value is None
    elif op in _LIST_FILTERS:
        fits = isinstance(value, list) and all(isinstance(each, str) for each in value)
    else:
        fits = op in _VALUE_FILTERS and isinstance(value, str | int | float | bool)
    if not fits or not one.get("column"):
        raise ApiError(422, f"filters: {op} with {value!r} is malformed")


def check_formula(formula: str, types: Mapping[str, str]) -> None:
    """Check a calculated field's formula: its functions, parentheses and columns.

    Raises:
        ApiError: It is malformed, or has a column that does not exist.
    """
    at, depth = 0, 0
    while at < len(formula.rstrip()):
        token = _TOKEN.match(formula, at)
        if token is None:
            raise ApiError(400, f"syntax error at {at}")
        at = token.end()
        word, column = token["word"], token["column"]
        depth += {"(": 1, ")": -1}.get(token["mark"] or "", 0)
        if depth < 0 or (word and word not in _FUNCTIONS and word not in _LITERALS):
            raise ApiError(400, f"syntax error at {at}: {word}")
        if word in _FUNCTIONS and formula[at : at + 1] != "(":
            raise ApiError(400, f"{word} needs arguments")
        if column and column[1:].strip('"') not in types:
            raise ApiError(400, f"unknown column {column[1:]}")
    if depth:
        raise ApiError(400, "a parenthesis is not closed")


def check_period(query: Item, every_s: int) -> None:
    """Check a trigger's query, and how often it runs.

    Raises:
        ApiError: Honeycomb takes no such trigger.
    """
    if query.keys() & {"orders", "limit", "start_time", "end_time"}:
        raise ApiError(422, "query: a trigger has no orders, no limit and no absolute times")
    if [one["op"] for one in query["calculations"]] in (["HEATMAP"], ["CONCURRENCY"]):
        raise ApiError(422, "query: a trigger cannot be on a heatmap or a concurrency")
    if len(query["calculations"]) != 1:
        raise ApiError(422, "query: a trigger has one calculation")
    if not MINUTE_S <= every_s <= DAY_S or every_s % MINUTE_S:
        raise ApiError(422, "frequency: must be whole minutes, from one to a day")
    if not every_s <= query.get("time_range", 7_200) <= every_s * 4:
        raise ApiError(422, "frequency: the duration must be one to four times as long")


def check_layout(panels: Iterable[Item]) -> None:
    """Check that the panels of a board with a manual layout do not overlap.

    Raises:
        ApiError: They do, or are outside of the grid.
    """
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel.get("position") or {}
        x, y = place.get("x_coordinate", 0), place.get("y_coordinate", 0)
        wide, high = place.get("width", 0), place.get("height", 0)
        cells = {(x + dx, y + dy) for dx in range(wide) for dy in range(high)}
        if cells & taken or x + wide > GRID:
            raise ApiError(422, "panels: positions overlap or are outside of the grid")
        taken |= cells


def check_tags(tags: Iterable[Item]) -> None:
    """Check the keys and values of tags.

    Raises:
        ApiError: One is malformed.
    """
    for one in tags:
        if not all(form.fullmatch(one.get(part, "")) for part, form in _TAG.items()):
            raise ApiError(422, "tags: malformed")

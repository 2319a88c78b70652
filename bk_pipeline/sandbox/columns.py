"""What a client should know about the column values that it sent: types, lengths, ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MAX_STRING_BYTES = 65_535
_MAX_NAME = 255
_INT64 = 1 << 63
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "float"}
# Strings in the API's description, even where they look like numbers.
_IDS = frozenset({"trace.trace_id", "trace.span_id", "trace.parent_id"})


def column_remarks(data: dict[str, Any], types: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(column, remark) for what Honeycomb may store otherwise than the sender thinks.

    `types` holds the type in which each column of the dataset first came; new
    columns are added to it. Integers and floats count as different types.
    """
    for column, value in data.items():
        kind = _TYPES.get(type(value))
        if kind is None:
            yield column, f"{'null' if value is None else type(value).__name__} is no column value"
            continue
        known = types.setdefault(column, kind)
        if known != kind:
            yield column, f"{kind} in a column that began as {known}"
        remark = _about_value(column, value)
        if remark is not None:
            yield column, remark


def _about_value(column: str, value: float | str) -> str | None:
    if not 0 < len(column) <= _MAX_NAME:
        return f"a column name of {len(column)} characters"
    return _about_text(column, value) if isinstance(value, str) else _about_number(column, value)


def _about_text(column: str, value: str) -> str | None:
    # Four bytes is the most that one character takes.
    if len(value) > _MAX_STRING_BYTES // 4 and len(value.encode()) > _MAX_STRING_BYTES:
        return f"a string of {len(value.encode())} bytes"
    if not value and column == "trace.parent_id":
        return "an empty parent id: neither a root nor a child"
    return None


def _about_number(column: str, value: float) -> str | None:
    if column in _IDS:
        return "an id that is no string"
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return "an integer beyond 64 bits"
    return None

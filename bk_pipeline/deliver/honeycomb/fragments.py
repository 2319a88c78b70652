"""Arrow columns to JSON fragments: for each row `,"column":value`, or nothing for no column.

A fragment is made once for each distinct value, and by Arrow itself wherever no character
has to be escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.blobs import (
    BYTES,
    beside,
    equally_long,
    fixed,
    lengths,
    places_of,
    valid,
    where,
)
from bk_pipeline.deliver.honeycomb.plain import column_value
from bk_pipeline.deliver.honeycomb.shape import list_text, value_text
from bk_pipeline.deliver.pieces import FEW, Column, Own, column_of
from bk_pipeline.spans.fields import Field, FieldType
from bk_pipeline.spans.text import VALUE_LIMIT_BYTES

_QUOTE, _BACKSLASH, _FIRST_PLAIN = 0x22, 0x5C, 0x20
_json = msgspec.json.Encoder().encode


def head(column: str) -> str:
    """What stands before a column's value."""
    return f",{_json(column).decode()}:"


def inside(columns: dict[str, Any]) -> bytes:
    """The columns as JSON, each with a comma before it; nothing for none."""
    return b"," + _json(columns)[1:-1] if columns else b""


def framed(before: str, values: pa.Array, after: str = "") -> Own:
    """Each of `values` (texts, or numbers) between two texts; nothing where there is none."""
    start, end, present = before.encode(), after.encode(), valid(values)
    content = values.cast(pa.string()).cast(BYTES)
    rows = equally_long(content)
    if rows is not None:
        return Own((fixed(beside(start, rows, end), present),))
    parts = (where(present, start), content, where(present, end))
    return Own(parts if end else parts[:2])


def fragments(field: Field, values: pa.Array, *, own: bool) -> Column | None:
    """The fragments of a field's column in the span table, row by row."""
    return column_of(values, lambda some: _of_values(field, some), own=own)


def keys_of(values: pa.Array) -> Any:
    """How many keys the maps in a column have, row by row; 0 where there is none.

    Counted by their colons: at least as many as there are.
    """
    counts = np.asarray(pc.count_substring(values.dictionary, ":"))
    return np.concatenate([[0], counts])[places_of(values.indices)]


def _of_values(field: Field, values: pa.Array) -> Sequence[bytes | None] | Own:
    start = head(field.name)
    match field.type:
        case FieldType.INT if len(values) > FEW:
            return framed(start, values)
        case FieldType.STRING | FieldType.JSON if len(values) > FEW and _is_plain(values):
            return framed(start + '"', values, '"')
    each = values.to_pylist()
    make = _maker(field)
    made = {value: make(value) for value in set(each) - {None}}
    return [made.get(value) for value in each]


def _maker(field: Field) -> Callable[[Any], bytes]:
    """What makes the column of one value, or of a map those of its keys."""
    start = head(field.name).encode()
    match field.type:
        case FieldType.MAP:
            return lambda text: _map(field.name.removesuffix("*"), msgspec.json.decode(text))
        case FieldType.STRINGS:
            return lambda text: start + _json(list_text(text))
        case FieldType.STRING | FieldType.JSON:
            return lambda text: start + _json(value_text(text))
        case _:
            return lambda value: start + _json(value)


def _map(prefix: str, values: dict[str, Any]) -> bytes:
    columns = {prefix + key: column_value(value) for key, value in values.items()}
    kept = {name: value for name, value in columns.items() if value is not None}
    return inside(kept)


def _is_plain(values: pa.Array) -> bool:
    """Whether no value is too long, or has a character that JSON escapes. May say no in error."""
    _, offsets, data = values.buffers()
    if data is None:
        return True
    begin, end = np.frombuffer(offsets, np.int32)[[values.offset, values.offset + len(values)]]
    letters = np.frombuffer(data, np.uint8)[begin:end]
    if letters.min(initial=_FIRST_PLAIN) < _FIRST_PLAIN:
        return False
    if (letters == _QUOTE).any() or (letters == _BACKSLASH).any():
        return False
    return bool(lengths(values).max() <= VALUE_LIMIT_BYTES)

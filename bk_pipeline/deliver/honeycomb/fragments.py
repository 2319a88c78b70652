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

from bk_pipeline.deliver.honeycomb.plain import column_value
from bk_pipeline.deliver.honeycomb.shape import list_text, value_text
from bk_pipeline.deliver.pieces import FEW, Column, column_of, listed, places_of
from bk_pipeline.spans.fields import Field, FieldType
from bk_pipeline.spans.text import VALUE_LIMIT_BYTES

_QUOTE, _BACKSLASH, _FIRST_PLAIN = 0x22, 0x5C, 0x20
_json = msgspec.json.Encoder().encode

Fragments = Sequence[bytes | None]


def joined(*pieces: Any) -> Fragments:
    """The pieces (arrays of strings, or texts) of each row, end to end; None where any is null."""
    return listed(pc.binary_join_element_wise(*pieces, "").cast(pa.binary()))


def head(column: str) -> str:
    """What stands before a column's value."""
    return f",{_json(column).decode()}:"


def texts(column: str, values: pa.Array) -> Fragments:
    """The fragments of strings."""
    if len(values) > FEW and _is_plain(values) and _longest_bytes(values) <= VALUE_LIMIT_BYTES:
        return joined(head(column) + '"', values, '"')
    start = head(column).encode()
    return _one_by_one(values, lambda text: start + _json(value_text(text)))


def numbers(column: str, values: pa.Array) -> Fragments:
    """The fragments of integers or booleans."""
    if len(values) > FEW:
        return joined(head(column), values.cast(pa.string()))
    start = head(column).encode()
    return _one_by_one(values, lambda number: start + _json(number))


def fragments(field: Field, values: pa.Array) -> Column:
    """The fragments of a field's column in the span table, row by row."""
    if field.type in {FieldType.INT, FieldType.BOOL}:
        return column_of(values.dictionary_encode(), lambda one: numbers(field.name, one))
    return column_of(values, lambda one: _strings(field, one))


def keys_of(values: pa.Array) -> Any:
    """How many keys the maps in a column have, row by row; 0 where there is none.

    Counted by their colons: at least as many as there are.
    """
    counts = pc.count_substring(values.dictionary, ":")
    return np.append(np.asarray(counts), 0)[places_of(values)]


def _strings(field: Field, values: pa.Array) -> Fragments:
    match field.type:
        case FieldType.MAP:
            prefix = field.name.removesuffix("*")
            return _one_by_one(values, lambda text: _map_fragment(prefix, text))
        case FieldType.STRINGS:
            start = head(field.name).encode()
            return _one_by_one(values, lambda text: start + _json(list_text(text)))
        case _:
            return texts(field.name, values)


def _map_fragment(prefix: str, text: str) -> bytes | None:
    columns = {
        prefix + key: column_value(value) for key, value in msgspec.json.decode(text).items()
    }
    kept = {name: value for name, value in columns.items() if value is not None}
    return b"," + _json(kept)[1:-1] if kept else None


def _one_by_one(values: pa.Array, make: Callable[[Any], bytes | None]) -> Fragments:
    return [None if value is None else make(value) for value in values.to_pylist()]


def _is_plain(values: pa.Array) -> bool:
    """Whether no value has a character that JSON escapes. May say no although none has."""
    _, offsets, data = values.buffers()
    if data is None or not len(values):
        return True
    edges = np.frombuffer(offsets, np.int32)[[values.offset, values.offset + len(values)]]
    letters = np.frombuffer(data, np.uint8)[edges[0] : edges[1]]
    escaped = (letters < _FIRST_PLAIN) | (letters == _QUOTE) | (letters == _BACKSLASH)
    return not escaped.any()


def _longest_bytes(values: pa.Array) -> int:
    return pc.max(pc.binary_length(values)).as_py() or 0

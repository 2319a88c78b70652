"""Arrow columns to JSON fragments: for each row `,"column":value`, or null for no column.

A fragment is made once for each distinct value of a column with a dictionary, and by
Arrow itself wherever no character has to be escaped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.honeycomb.plain import column_value
from bk_pipeline.deliver.honeycomb.shape import list_text, value_text
from bk_pipeline.spans.fields import Field, FieldType
from bk_pipeline.spans.text import VALUE_LIMIT_BYTES

_QUOTE, _BACKSLASH, _FIRST_PLAIN = 0x22, 0x5C, 0x20
_json = msgspec.json.Encoder().encode


def joined(*pieces: Any) -> pa.Array:
    """The pieces (arrays or texts) of each row, end to end; null where any piece is."""
    return pc.binary_join_element_wise(*pieces, "")


def concatenated(*pieces: Any) -> pa.Array:
    """The same, passing over nulls; the empty text where all are null.

    The empty piece is needed: of a row in which all pieces are null, Arrow gives no text at
    all, and every later row moves up by one.
    """
    return pc.binary_join_element_wise("", *pieces, "", null_handling="skip")


def head(column: str) -> str:
    """What stands before a column's value."""
    return f",{_json(column).decode()}:"


def texts(column: str, values: pa.Array) -> pa.Array:
    """The fragments of a string column."""
    if _is_plain(values) and _longest_bytes(values) <= VALUE_LIMIT_BYTES:
        return joined(head(column) + '"', values, '"')
    return _one_by_one(values, lambda text: head(column) + _json(value_text(text)).decode())


def numbers(column: str, values: pa.Array) -> pa.Array:
    """The fragments of a column of integers or booleans."""
    return joined(head(column), values.cast(pa.string()))


def fragments(field: Field, values: pa.Array) -> pa.Array:
    """The fragments of a field's column in the span table."""
    if field.type in {FieldType.INT, FieldType.BOOL}:
        return numbers(field.name, values)
    return of_distinct(values, lambda distinct: _strings(field, distinct))


def of_distinct(values: pa.Array, make: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """What `make` makes of `values`, made once for each distinct one if there is a dictionary."""
    if not pa.types.is_dictionary(values.type):
        return make(values)
    if len(values.dictionary) > len(values):
        # A slice of a large table brings the whole table's dictionary along.
        values = values.cast(values.type.value_type).dictionary_encode()
    return make(values.dictionary).take(values.indices)


def keys_of(values: pa.Array) -> Any:
    """How many keys the maps in a column have, row by row; 0 where there is none.

    Counted by their colons: at least as many as there are.
    """
    counts = of_distinct(values, lambda distinct: pc.count_substring(distinct, ":"))
    return np.asarray(pc.fill_null(counts, 0))


def _strings(field: Field, values: pa.Array) -> pa.Array:
    match field.type:
        case FieldType.MAP:
            prefix = field.name.removesuffix("*")
            return _one_by_one(values, lambda text: _map_fragment(prefix, text))
        case FieldType.STRINGS:
            name = head(field.name)
            return _one_by_one(values, lambda text: name + _json(list_text(text)).decode())
        case _:
            return texts(field.name, values)


def _map_fragment(prefix: str, text: str) -> str | None:
    columns = {
        prefix + key: column_value(value) for key, value in msgspec.json.decode(text).items()
    }
    kept = {name: value for name, value in columns.items() if value is not None}
    return "," + _json(kept)[1:-1].decode() if kept else None


def _one_by_one(values: pa.Array, make: Callable[[str], str | None]) -> pa.Array:
    return pa.array(
        [None if text is None else make(text) for text in values.to_pylist()], pa.string()
    )


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

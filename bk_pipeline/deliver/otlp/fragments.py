"""Arrow columns to protobuf fields: for each row a field's bytes, or null for no field.

A fragment is made once for each distinct value of a column with a dictionary. What stands
before a text depends on its length alone, so it is made once for each length, and Arrow
puts the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.otlp.wire import (
    any_value,
    attribute,
    bool_value,
    int_head,
    text_head,
)
from bk_pipeline.spans.fields import Field, FieldType

# Offsets of 64 bits: a table's bodies together may be more than 2 GB.
BYTES = pa.large_binary()
ID_DIGITS = 16
NOTHING = pa.scalar(b"", BYTES)

_NIBBLES = np.zeros(256, np.uint8)
for _digit in b"0123456789abcdefABCDEF":
    _NIBBLES[_digit] = int(chr(_digit), 16)


def constant(content: bytes) -> Any:
    """The same bytes for every row."""
    return pa.scalar(content, BYTES)


def joined(*pieces: Any) -> pa.Array:
    """The pieces of each row, end to end; null where any piece is."""
    return pc.binary_join_element_wise(*pieces, NOTHING)


def concatenated(*pieces: Any) -> pa.Array:
    """The same, passing over nulls."""
    return pc.binary_join_element_wise(*pieces, NOTHING, null_handling="skip")


def lengths_of(piece: pa.Array) -> Any:
    """How long each row's bytes are; 0 for null."""
    return np.asarray(pc.fill_null(pc.binary_length(piece), 0), np.int64)


def fixed(rows: Any) -> pa.Array:
    """Each row of a matrix of bytes as bytes."""
    count, width = rows.shape
    return _bytes(np.arange(count + 1) * width, rows)


def ids(values: pa.Array) -> Any:
    """Strings of 16 hex digits as a matrix of 8 bytes a row; zeros where there is none."""
    texts = pc.fill_null(values, "0" * ID_DIGITS)
    _, offsets, content = texts.buffers()
    begin = np.frombuffer(offsets, np.int32)[texts.offset]
    digits = np.frombuffer(content, np.uint8, len(texts) * ID_DIGITS, begin)
    nibbles = _NIBBLES[digits].reshape(len(texts), ID_DIGITS)
    return nibbles[:, ::2] << 4 | nibbles[:, 1::2]


def by_length(lengths: pa.Array, make: Callable[[int], bytes]) -> Any:
    """What `make` makes of each length; of a single one, a constant."""
    distinct = pc.dictionary_encode(lengths)
    made = [make(length) for length in distinct.dictionary.to_pylist()]
    if len(made) == 1:
        return constant(made[0])
    return pa.array(made, BYTES).take(distinct.indices)


def texts(values: pa.Array, head: Callable[[int], bytes]) -> pa.Array:
    """Strings as fields, given what stands before one of so many bytes."""
    return _headed(values.cast(BYTES), head)


def varints(numbers: pa.Array) -> pa.Array:
    """Whole numbers, none of them null, each as protobuf writes an `int64`."""
    shifts = np.arange(0, 64, 7, dtype=np.uint64)
    bits = np.asarray(numbers, np.int64).view(np.uint64)[:, None] >> shifts
    # A byte is there if any bit of it or of a higher one is set; the lowest always is.
    there = bits > 0
    there[:, 0] = True
    groups = (bits & np.uint64(0x7F)).astype(np.uint8)
    groups[:, :-1] |= there[:, 1:].astype(np.uint8) << 7
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    return _bytes(offsets, groups[there])


def of_distinct(values: pa.Array, make: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """What `make` makes of `values`, made once for each distinct one if there is a dictionary."""
    if not pa.types.is_dictionary(values.type):
        return make(values)
    if len(values.dictionary) > len(values):
        # A slice of a large table brings the whole table's dictionary along.
        values = values.cast(values.type.value_type).dictionary_encode()
    return make(values.dictionary).take(values.indices)


def fragments(field: Field, values: pa.Array, tag: bytes) -> pa.Array:
    """A declared field's column as attributes: the repeated field `tag` of a message."""
    name = field.name
    match field.type:
        case FieldType.BOOL:
            yes, no = (constant(attribute(tag, name, bool_value(one))) for one in (True, False))
            return pc.if_else(values, yes, no)
        case FieldType.INT:
            return of_distinct(
                values.dictionary_encode(),
                lambda one: _headed(varints(one), lambda length: int_head(tag, name, length)),
            )
        case FieldType.MAP:
            return of_distinct(values, lambda one: _one_by_one(one, _map_maker(tag, name)))
        case FieldType.STRINGS:
            return of_distinct(values, lambda one: _one_by_one(one, _list_maker(tag, name)))
        case _:
            return of_distinct(
                values, lambda one: texts(one, lambda length: text_head(tag, name, length))
            )


def _headed(content: pa.Array, head: Callable[[int], bytes]) -> pa.Array:
    return joined(by_length(pc.binary_length(content), head), content)


def _bytes(offsets: Any, content: Any) -> pa.Array:
    """An array of the bytes in `content` from each offset to the next."""
    buffers = [
        None,
        pa.py_buffer(np.ascontiguousarray(offsets, np.int64)),
        pa.py_buffer(np.ascontiguousarray(content)),
    ]
    return pa.LargeBinaryArray.from_buffers(BYTES, len(offsets) - 1, buffers)


def _map_maker(tag: bytes, name: str) -> Callable[[str], bytes | None]:
    prefix = name.removesuffix("*")

    def make(text: str) -> bytes | None:
        found = msgspec.json.decode(text)
        made = [
            attribute(tag, prefix + key, any_value(value))
            for key, value in found.items()
            if value is not None
        ]
        return b"".join(made) if made else None

    return make


def _list_maker(tag: bytes, name: str) -> Callable[[str], bytes]:
    return lambda text: attribute(tag, name, any_value(msgspec.json.decode(text)))


def _one_by_one(values: pa.Array, make: Callable[[Any], bytes | None]) -> pa.Array:
    return pa.array([None if one is None else make(one) for one in values.to_pylist()], BYTES)

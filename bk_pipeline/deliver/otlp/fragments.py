"""Arrow columns to protobuf fields: for each row a field's bytes, or nothing for no field.

A fragment is made once for each distinct value. Where there are many, what stands before a
text is made once for each length, since it depends on nothing else, and Arrow puts the two
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.otlp.wire import any_value, attribute, int_head, text_head
from bk_pipeline.deliver.pieces import FEW, Column, column_of, listed
from bk_pipeline.spans.fields import Field, FieldType

# Offsets of 64 bits: a column's fragments together may be more than 2 GB.
BYTES = pa.large_binary()
ID_DIGITS = 16

_NIBBLES = np.zeros(256, np.uint8)
for _digit in b"0123456789abcdefABCDEF":
    _NIBBLES[_digit] = int(chr(_digit), 16)

Fragments = Sequence[bytes | None]


def fixed(rows: Any) -> list[bytes]:
    """Each row of a matrix of bytes as bytes."""
    count, width = rows.shape
    return listed(_bytes(np.arange(count + 1) * width, rows))


def ids(values: pa.Array) -> Any:
    """Strings of 16 hex digits as a matrix of 8 bytes a row; zeros where there is none."""
    texts = pc.fill_null(values, "0" * ID_DIGITS)
    _, offsets, content = texts.buffers()
    begin = np.frombuffer(offsets, np.int32)[texts.offset]
    digits = np.frombuffer(content, np.uint8, len(texts) * ID_DIGITS, begin)
    nibbles = _NIBBLES[digits].reshape(len(texts), ID_DIGITS)
    return nibbles[:, ::2] << 4 | nibbles[:, 1::2]


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


def fragments(field: Field, values: pa.Array, tag: bytes) -> Column:
    """A declared field's column as attributes: the repeated field `tag` of a message."""
    if field.type in {FieldType.INT, FieldType.BOOL}:
        values = values.dictionary_encode()
    return column_of(values, lambda distinct: _of_distinct(field, distinct, tag))


def _of_distinct(field: Field, values: pa.Array, tag: bytes) -> Fragments:
    name = field.name
    match field.type:
        case FieldType.MAP:
            return _one_by_one(values, _map_maker(tag, name))
        case FieldType.STRINGS:
            return _one_by_one(
                values, lambda text: attribute(tag, name, any_value(msgspec.json.decode(text)))
            )
        case _ if len(values) <= FEW:
            return _one_by_one(values, lambda value: attribute(tag, name, any_value(value)))
        case FieldType.INT:
            return _headed(varints(values), lambda length: int_head(tag, name, length))
        case _:
            return _headed(values.cast(BYTES), lambda length: text_head(tag, name, length))


def _headed(content: pa.Array, head: Callable[[int], bytes]) -> Fragments:
    """Each of `content` behind what `head` makes of its length."""
    lengths = pc.dictionary_encode(pc.binary_length(content))
    made = [head(length) for length in lengths.dictionary.to_pylist()]
    if len(made) == 1:
        return listed(pc.binary_join_element_wise(_scalar(made[0]), content, _scalar(b"")))
    heads = pa.array(made, BYTES).take(lengths.indices)
    return listed(pc.binary_join_element_wise(heads, content, _scalar(b"")))


def _scalar(content: bytes) -> pa.Scalar:
    return pa.scalar(content, BYTES)


def _bytes(offsets: Any, content: Any) -> pa.Array:
    """An array of the bytes in `content` from each offset to the next."""
    buffers = [
        None,
        pa.py_buffer(np.ascontiguousarray(offsets, np.int64)),
        pa.py_buffer(np.ascontiguousarray(content)),
    ]
    return pa.LargeBinaryArray.from_buffers(BYTES, len(offsets) - 1, buffers)


def _map_maker(tag: bytes, name: str) -> Callable[[str], bytes]:
    prefix = name.removesuffix("*")

    def make(text: str) -> bytes:
        found = msgspec.json.decode(text)
        return b"".join(
            attribute(tag, prefix + key, any_value(value))
            for key, value in found.items()
            if value is not None
        )

    return make


def _one_by_one(values: pa.Array, make: Callable[[Any], bytes]) -> Fragments:
    return [None if value is None else make(value) for value in values.to_pylist()]

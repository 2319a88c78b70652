"""Rows of the span table, prepared once for selection and encoding; arrays of bytes made of them.

The arrays are built and read by Arrow, without creating a Python object per value. Pure.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# 64-bit offsets: a column of a few thousand rows may hold more than 2 GB.
BYTES = pa.large_binary()
# The parts of a row in order: an array has one value per row (null adds nothing), and plain
# bytes are the same in every row.
Parts = Sequence[pa.Array | bytes]
_REPLACE_NULL = pc.JoinOptions(null_handling="replace", null_replacement="")


def from_matrix(rows: Any, present: Any = None) -> pa.Array:
    """Return each row of a byte matrix as a value of a BYTES array.

    Args:
        rows: A matrix of bytes (uint8).
        present: A boolean for each value of the result; where it is true, the value is the next
            row, elsewhere it is empty. By default, every row is a value.
    """
    taken = np.ones(len(rows), np.int64) if present is None else present
    offsets = np.zeros(len(taken) + 1, np.int64)
    np.cumsum(taken * rows.shape[1], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.LargeBinaryArray.from_buffers(BYTES, len(taken), buffers)


def to_matrix(values: Sequence[bytes], width: int) -> Any:
    """Return values of `width` bytes each as the rows of a matrix."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, width)


def hstack(*contents: Any) -> Any:
    """Concatenate byte matrices horizontally; plain bytes are repeated in every row."""
    count = next(len(one) for one in contents if not isinstance(one, bytes))
    each = [
        np.broadcast_to(np.frombuffer(one, np.uint8), (count, len(one)))
        if isinstance(one, bytes)
        else one
        for one in contents
    ]
    return np.concatenate(each, axis=1)


def framed(before: Callable[[int], bytes], values: pa.Array, after: bytes = b"") -> Parts:
    """Return each value between a prefix and a suffix, and nothing for null values.

    Args:
        before: Returns the prefix, given the length of the value in bytes.
        values: An array of BYTES.
        after: The suffix.
    """
    present = is_valid(values)
    rows = equal_length(values)
    if rows is not None:
        return [from_matrix(hstack(before(rows.shape[1]), rows, after), present)]
    sizes = lengths(values)
    distinct = np.flatnonzero(np.bincount(sizes[present]))
    codes = np.zeros(sizes.max() + 1, np.int64)
    codes[distinct] = np.arange(len(distinct)) + 1
    heads = pa.array([b"", *map(before, distinct.tolist())], BYTES)
    tails = pa.array([b"", after], BYTES).take(pa.array(present.view(np.int8))) if after else b""
    return [heads.take(pa.array(codes[sizes] * present)), values, tails]


def equal_length(values: pa.Array) -> Any:
    """Return the non-null values of a BYTES array as a matrix.

    Returns:
        None if the values differ in length or are empty.
    """
    offsets, count = _offsets(values), len(values) - values.null_count
    width = int(offsets[-1] - offsets[0]) // (count or 1)
    if not width or (np.diff(offsets) != is_valid(values) * width).any():
        return None
    return np.frombuffer(content_of(values), np.uint8).reshape(count, width)


def joined(parts: Parts) -> list[bytes]:
    """Return the concatenated parts of each row."""
    scalars = [pa.scalar(one, BYTES) if isinstance(one, bytes) else one for one in parts]
    # Not "skip": with it, Arrow drops rows in which all parts are null.
    separator = pa.scalar(b"", BYTES)
    return as_list(pc.binary_join_element_wise(*scalars, separator, options=_REPLACE_NULL))


def varints(values: pa.Array) -> pa.Array:
    """Return 64-bit integers as protobuf varints, in a BYTES array; null where there is none.

    A varint has 7 bits in each byte, the lowest first, and the top bit in all bytes but the last.
    Negative integers take ten bytes, as two's complement.
    """
    present = is_valid(values)
    numbers = np.asarray(pc.fill_null(values, 0), np.int64).view(np.uint64)
    sevens = numbers[:, np.newaxis] >> np.arange(0, 70, 7, dtype=np.uint64)
    sizes = np.maximum(np.count_nonzero(sevens, axis=1), 1) * present
    position = np.arange(10)
    more = position < sizes[:, np.newaxis] - 1
    content = ((sevens & 0x7F) | (more * np.uint64(0x80))).astype(np.uint8)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    flat = content[position < sizes[:, np.newaxis]]
    bitmap = np.packbits(present, bitorder="little")
    buffers = [pa.py_buffer(bitmap), pa.py_buffer(offsets), pa.py_buffer(flat)]
    return pa.LargeBinaryArray.from_buffers(BYTES, len(sizes), buffers)


def lengths(values: pa.Array | bytes) -> Any:
    """Return the length of each string or BYTES value, in bytes; 0 for null."""
    if isinstance(values, bytes):
        return len(values)
    return np.diff(_offsets(values)) * is_valid(values)


def from_hex(texts: pa.Array, width: int) -> Any:
    """Return non-null strings of hex digits as a matrix of `width` bytes per row."""
    return np.frombuffer(unhexlify(content_of(texts)), np.uint8).reshape(-1, width)


def content_of(values: pa.Array) -> Any:
    """Return the bytes of all values of a string or BYTES array, concatenated."""
    offsets = _offsets(values)
    return memoryview(values.buffers()[2] or b"")[offsets[0] : offsets[-1]]


def _offsets(values: pa.Array) -> Any:
    width = np.int64 if values.type == BYTES else np.int32
    offsets = np.frombuffer(values.buffers()[1] or b"", width)[values.offset :]
    return offsets[: len(values) + 1] if len(offsets) else np.zeros(1, width)


def is_valid(values: pa.Array) -> Any:
    """Return a boolean for each value: whether it is not null."""
    bitmap = values.buffers()[0]
    if bitmap is None:
        return np.ones(len(values), bool)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return bits[values.offset : values.offset + len(values)].view(bool)


def codes_of(indices: pa.Array) -> Any:
    """Return dictionary indices plus 1, and 0 for null.

    The buffer may hold any number at the position of a null.
    """
    raw_values = np.frombuffer(indices.buffers()[1] or b"", indices.type.to_pandas_dtype())
    return (raw_values[indices.offset :][: len(indices)] + 1) * is_valid(indices)


def as_list(values: pa.Array) -> list[Any]:
    """Return strings or bytes as a list, several times faster than `to_pylist`."""
    result: list[Any] = values.to_numpy(zero_copy_only=False).tolist()
    return result


def take(values: Sequence[Any], indices: Any) -> list[Any]:
    """Return the value at each of `indices`; equal values are the same object."""
    result: list[Any] = np.array(values, object)[indices].tolist()
    return result


@dataclass(frozen=True, slots=True)
class SpanRows:
    """Rows of the span table; rows of one build are adjacent.

    Attributes:
        table: The rows, each column in one chunk.
        trace_ids: The trace id of each build (16 bytes), in table order.
        first_rows: The index of each build's first row.
        build_of_row: For each row, the index of its build in `trace_ids`.
        span_ids: The span id of each row (8 bytes).
        start_ns: The start of each row, in nanoseconds since 1970.
        thresholds: The sampling thresholds of builds by trace id, see `sampling.py`; a build that
            is not in it has none.
    """

    table: pa.Table
    trace_ids: Sequence[bytes]
    first_rows: Any
    build_of_row: Any
    span_ids: Sequence[bytes]
    start_ns: Any
    thresholds: Mapping[bytes, int] = field(default_factory=dict)

    @classmethod
    def from_table(cls, table: pa.Table, thresholds: Mapping[bytes, int] | None = None) -> Self:
        """Prepare a table that has the schema of the span table. Pure."""
        table = table.unify_dictionaries().combine_chunks()
        ids = from_matrix(from_hex(_column(table, "span_id"), 8))
        starts = _column(table, "start").cast(pa.int64())
        return cls(table, *_builds(table), as_list(ids), np.asarray(starts), thresholds or {})

    def column(self, name: str) -> pa.Array:
        """Return a column of the table as one array."""
        return _column(self.table, name)

    def link_counts(self) -> Any:
        """Return the number of links of each row."""
        return np.asarray(pc.fill_null(pc.list_value_length(self.column("links")), 0))

    def filter(self, mask: Any) -> Self:
        """Return the rows for which `mask` is true."""
        if mask.all():
            return self
        table = self.table.filter(pa.array(mask)).combine_chunks()
        span_ids = list(compress(self.span_ids, mask.tolist()))
        starts = self.start_ns[mask]
        return type(self)(table, *_builds(table), span_ids, starts, self.thresholds)

    def names(self) -> list[str]:
        """Return the span name of each row; equal names are the same object."""
        names = self.column("name")
        return take(names.dictionary.to_pylist(), names.indices)

    def __len__(self) -> int:
        return len(self.table)


def _column(table: pa.Table, name: str) -> pa.Array:
    values = table[name]
    return values.chunk(0) if values.num_chunks else pa.array([], values.type)


def _builds(table: pa.Table) -> tuple[list[bytes], Any, Any]:
    """Return the trace ids, the first rows and, for each row, the index of its build."""
    ids = _column(table, "trace_id")
    codes = np.asarray(ids.indices)
    begins = np.ones(len(codes), bool)
    np.not_equal(codes[1:], codes[:-1], out=begins[1:])
    first_rows = np.flatnonzero(begins)
    texts = ids.dictionary.take(pa.array(codes[first_rows])).to_pylist()
    return list(map(bytes.fromhex, texts)), first_rows, np.cumsum(begins) - 1

"""Arrays of bytes, made and taken apart without a Python object for each value. Pure."""

from __future__ import annotations

from binascii import unhexlify
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Offsets of 64 bits: what a column holds for some thousand rows may be more than 2 GB.
BYTES = pa.large_binary()


def cut_at(offsets: Any, content: Any) -> pa.Array:
    """The bytes in `content` from each offset to the next."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, np.int64)), pa.py_buffer(content)]
    return pa.LargeBinaryArray.from_buffers(BYTES, len(offsets) - 1, buffers)


def fixed(rows: Any, counts: Any = None) -> pa.Array:
    """Each row of a matrix of bytes; or, of its rows in turn, as many as each of `counts` says."""
    taken = np.ones(len(rows), np.int64) if counts is None else counts
    return cut_at(sums(taken) * rows.shape[1], np.ascontiguousarray(rows))


def beside(*contents: Any) -> Any:
    """Matrices of bytes side by side, and bytes that stand in each row."""
    count = next(len(one) for one in contents if not isinstance(one, bytes))
    each = [
        np.broadcast_to(np.frombuffer(one, np.uint8), (count, len(one)))
        if isinstance(one, bytes)
        else one
        for one in contents
    ]
    return np.concatenate(each, axis=1)


def equally_long(values: pa.Array) -> Any:
    """Values of BYTES that are not null, as the rows of a matrix.

    None if they are not equally long, or empty, or there is none.
    """
    count = len(values) - values.null_count
    if not count:
        return None
    _, offsets, content = values.buffers()
    edges = np.frombuffer(offsets, np.int64)[values.offset :][: len(values) + 1]
    width = int(edges[-1] - edges[0]) // count
    if not width or (np.diff(edges) != valid(values) * width).any():
        return None
    return np.frombuffer(content, np.uint8)[edges[0] : edges[-1]].reshape(count, width)


def where(present: Any, content: bytes) -> pa.Array | bytes:
    """`content` where `present` is true, and nothing elsewhere; itself if that is everywhere."""
    if present.all():
        return content
    offsets = sums(present) * len(content)
    return cut_at(offsets, content * int(np.count_nonzero(present)))


def from_hex(texts: pa.Array, width: int) -> Any:
    """Texts of hex digits, none of them null, as a matrix of `width` bytes a row."""
    _, offsets, content = texts.buffers()
    if not len(texts):
        return np.empty((0, width), np.uint8)
    begin, end = np.frombuffer(offsets, np.int32)[[texts.offset, texts.offset + len(texts)]]
    return np.frombuffer(unhexlify(memoryview(content)[begin:end]), np.uint8).reshape(-1, width)


def valid(values: pa.Array) -> Any:
    """For each value whether it is one, not null."""
    bitmap = values.buffers()[0]
    if bitmap is None:
        return np.ones(len(values), bool)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return bits[values.offset : values.offset + len(values)].view(bool)


def bare(values: pa.Array) -> Any:
    """Numbers as they stand in memory: beneath a null may stand any."""
    content = [None, values.buffers()[1]]
    return np.asarray(
        pa.Array.from_buffers(values.type, len(values), content, offset=values.offset)
    )


def places_of(numbers: pa.Array) -> Any:
    """For each number, 0 or more, the one that comes after it; 0 for null."""
    return (bare(numbers) + 1) * valid(numbers)


def lengths(values: pa.Array) -> Any:
    """How many bytes each value has; null has none."""
    found = pc.binary_length(values)
    return bare(found) * valid(found) if found.null_count else np.asarray(found)


def listed(values: pa.Array) -> list[Any]:
    """Texts or bytes as a list; `to_pylist` takes several times as long."""
    found: list[Any] = values.to_numpy(zero_copy_only=False).tolist()
    return found


def sums(counts: Any) -> Any:
    """For each place the sum of what comes before it; and the sum of all."""
    found = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=found[1:])
    return found

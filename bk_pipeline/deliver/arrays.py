"""Arrow arrays of bytes, built and read without a Python object for each value. Pure."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Offsets of 64 bits: what a column holds for some thousand rows may be more than 2 GB.
BYTES = pa.large_binary()
# What a row consists of, in its order: an array has a value for each row (null is nothing),
# bytes are the same in every row.
Parts = Sequence[pa.Array | bytes]
_REPLACE_NULL = pc.JoinOptions(null_handling="replace", null_replacement="")


def from_matrix(rows: Any, present: Any = None) -> pa.Array:
    """Each row of a matrix of bytes as a value; or the next one wherever `present` is true.

    Elsewhere the value is empty.
    """
    taken = np.ones(len(rows), np.int64) if present is None else present
    offsets = np.zeros(len(taken) + 1, np.int64)
    np.cumsum(taken * rows.shape[1], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.LargeBinaryArray.from_buffers(BYTES, len(taken), buffers)


def to_matrix(values: Sequence[bytes], width: int) -> Any:
    """Values of `width` bytes as the rows of a matrix."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, width)


def hstack(*contents: Any) -> Any:
    """Matrices of bytes side by side; plain bytes are repeated in each row."""
    count = next(len(one) for one in contents if not isinstance(one, bytes))
    each = [
        np.broadcast_to(np.frombuffer(one, np.uint8), (count, len(one)))
        if isinstance(one, bytes)
        else one
        for one in contents
    ]
    return np.concatenate(each, axis=1)


def framed(before: Callable[[int], bytes], values: pa.Array, after: bytes = b"") -> Parts:
    """Each value of an array of BYTES between two strings; nothing where it is null.

    Args:
        before: Makes what comes first, given the value's length.
        values: The values.
        after: What comes last.
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
    """The values of BYTES that are not null as a matrix; None if their lengths differ or are 0."""
    offsets, count = _offsets(values), len(values) - values.null_count
    width = int(offsets[-1] - offsets[0]) // (count or 1)
    if not width or (np.diff(offsets) != is_valid(values) * width).any():
        return None
    return np.frombuffer(content_of(values), np.uint8).reshape(count, width)


def joined(parts: Parts) -> list[bytes]:
    """Each row's parts as one."""
    scalars = [pa.scalar(one, BYTES) if isinstance(one, bytes) else one for one in parts]
    # Not "skip": Arrow then leaves out rows in which all parts are null.
    separator = pa.scalar(b"", BYTES)
    return as_list(pc.binary_join_element_wise(*scalars, separator, options=_REPLACE_NULL))


def lengths(values: pa.Array | bytes) -> Any:
    """The length of each string or value of BYTES; a null's is 0."""
    if isinstance(values, bytes):
        return len(values)
    return np.diff(_offsets(values)) * is_valid(values)


def from_hex(texts: pa.Array, width: int) -> Any:
    """Strings of hex digits, none of them null, as a matrix with `width` bytes a row."""
    return np.frombuffer(unhexlify(content_of(texts)), np.uint8).reshape(-1, width)


def content_of(values: pa.Array) -> Any:
    """The bytes of all strings, or values of BYTES, one after the other."""
    offsets = _offsets(values)
    return memoryview(values.buffers()[2] or b"")[offsets[0] : offsets[-1]]


def _offsets(values: pa.Array) -> Any:
    width = np.int64 if values.type == BYTES else np.int32
    offsets = np.frombuffer(values.buffers()[1] or b"", width)[values.offset :]
    return offsets[: len(values) + 1] if len(offsets) else np.zeros(1, width)


def is_valid(values: pa.Array) -> Any:
    """For each value whether it is not null."""
    bitmap = values.buffers()[0]
    if bitmap is None:
        return np.ones(len(values), bool)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return bits[values.offset : values.offset + len(values)].view(bool)


def codes_of(indices: pa.Array) -> Any:
    """The numbers plus 1; a null, beneath which any number may stand, is 0."""
    raw_values = np.frombuffer(indices.buffers()[1] or b"", indices.type.to_pandas_dtype())
    return (raw_values[indices.offset :][: len(indices)] + 1) * is_valid(indices)


def as_list(values: pa.Array) -> list[Any]:
    """Strings or bytes as a list; `to_pylist` takes several times as long."""
    found: list[Any] = values.to_numpy(zero_copy_only=False).tolist()
    return found


def take(values: Sequence[Any], places: Any) -> list[Any]:
    """The value at each of `places`; equal ones are one object."""
    found: list[Any] = np.array(values, object)[places].tolist()
    return found

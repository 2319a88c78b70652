"""Arrays of bytes, whole and sliced, with nulls and without any value."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bk_pipeline.deliver.blobs import (
    BYTES,
    bare,
    beside,
    equally_long,
    fixed,
    from_hex,
    lengths,
    valid,
    where,
)


def rows(*contents: bytes) -> np.ndarray:
    return np.array([list(one) for one in contents], np.uint8)


def test_rows_of_a_matrix_are_values_and_each_may_be_of_several_rows_or_none():
    matrix = rows(b"ab", b"cd", b"ef")

    assert fixed(matrix).to_pylist() == [b"ab", b"cd", b"ef"]
    assert fixed(matrix, [0, 2, 0, 1]).to_pylist() == [b"", b"abcd", b"", b"ef"]
    assert fixed(matrix[:0]).to_pylist() == []


def test_bytes_stand_in_each_row_between_matrices():
    matrix = beside(b"<", rows(b"a", b"b"), b"><", rows(b"12", b"34"), b">")

    assert fixed(matrix).to_pylist() == [b"<a><12>", b"<b><34>"]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([b"ab", None, b"cd"], [b"ab", b"cd"]),
        ([b"ab", b"c"], None),
        ([b"ab", b"c", b"abc"], None),
        ([b"", None], None),
        ([None], None),
    ],
    ids=["of one length", "not", "not, but on average", "empty", "none"],
)
def test_equally_long_values_are_a_matrix(values, wanted):
    array = pa.array([b"before", *values, b"after"], BYTES)[1:-1]

    found = equally_long(array)

    assert (found if found is None else fixed(found).to_pylist()) == wanted


def test_bytes_beneath_a_null_belong_to_no_row():
    text = pa.array([b"ab", b"cd", b"ef"], BYTES)
    bitmap = pa.py_buffer(bytes([0b101]))
    array = pa.Array.from_buffers(BYTES, 3, [bitmap, *text.buffers()[1:]])
    assert array.to_pylist() == [b"ab", None, b"ef"]

    assert equally_long(array) is None
    assert lengths(array).tolist() == [2, 0, 2]


def test_content_stands_where_it_shall():
    assert where(np.array([True, False, True]), b"ab").to_pylist() == [b"ab", b"", b"ab"]
    assert where(np.array([True, True]), b"ab") == b"ab"


def test_hex_digits_are_bytes_in_a_slice_as_well():
    texts = pa.array(["00ff", "a1B2", "1234"])

    assert from_hex(texts[1:], 2).tolist() == [[0xA1, 0xB2], [0x12, 0x34]]
    assert from_hex(texts[:0], 2).shape == (0, 2)
    with pytest.raises(ValueError, match="hexadecimal"):
        from_hex(pa.array(["no hex"]), 3)


def test_what_is_there_is_told_in_a_slice_as_well():
    numbers = pa.array([None, 1, None, 3] * 5)[3:11]

    assert valid(numbers).tolist() == [one is not None for one in numbers.to_pylist()]
    assert bare(numbers)[valid(numbers)].tolist() == numbers.drop_null().to_pylist()
    assert valid(pa.array([1, 2])).tolist() == [True, True]

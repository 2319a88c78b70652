"""Columns of values to rows of bytes, whatever the values and however Arrow holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bk_pipeline.deliver.blobs import BYTES
from bk_pipeline.deliver.pieces import (
    FEW,
    Own,
    Shared,
    column_of,
    most_shared,
    parts_of,
    rows_of,
    sizes_of,
)

ROWS = 1_000
REPEATED = pa.dictionary(pa.int32(), pa.string())
WORDS = pa.array(["a", "b", "", "a", "unused", None])


def repeated(codes: list[int | None], words: pa.Array = WORDS) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), words)


def made(values: pa.Array) -> list[bytes | None]:
    return [None if one is None else f"<{one}>".encode() for one in values.to_pylist()]


def by_arrow(values: pa.Array) -> Own:
    return Own((pa.array(made(values), BYTES),))


ARRAYS = {
    "words that repeat": repeated([0, 1, None, 2, 3, 0] * 20),
    "words that do not": pa.array([f"word {n}" for n in range(ROWS)]).dictionary_encode(),
    "no null among the words' codes": repeated([1, 0, 3]),
    "a null among the words": repeated([5, 0, 5]),
    "a slice with the whole table's words": pa.array(
        [f"word {n // 2}" for n in range(ROWS)]
    ).dictionary_encode()[333:400],
    "a slice with nulls": repeated([0, None, 1] * 30)[7:81],
    "texts": pa.array(["x", None, "", "x"]),
    "texts, sliced": pa.array([None, "x", None, "", "x"] * 30)[3:70],
    "small numbers": pa.array([3, None, -1, 3]),
    "the smallest number": pa.array([-(2**63), None, -(2**63) + 1]),
    "the largest number": pa.array([2**63 - 1, 2**63 - 2]),
    "far apart": pa.array([-(2**63), 2**63 - 1, None, 0] * 30),
    "numbers that do not repeat": pa.array([*range(ROWS), None]),
    "numbers, sliced": pa.array([None, 1, 2, None, 3] * 9)[2:22],
    "booleans": pa.array([True, None, False] * 5),
    "booleans, sliced": pa.array([True, None, False] * 9)[5:19],
    "only one": pa.array([True]),
}
every_array = pytest.mark.parametrize("values", ARRAYS.values(), ids=ARRAYS)


@every_array
@pytest.mark.parametrize("make", [made, by_arrow])
def test_each_row_has_what_is_made_of_its_value(make, values):
    column = column_of(values, make)

    wanted = [one or b"" for one in made(values)]
    assert rows_of(column) == wanted
    assert sizes_of(column).tolist() == list(map(len, wanted))


@every_array
def test_what_stands_beneath_a_null_does_not_matter(values):
    full = values.drop_null()
    there = np.arange(len(full)) % 3 > 0
    column = column_of(masked(full, there), made)

    wanted = [one if kept else b"" for one, kept in zip(made(full), there, strict=True)]
    assert (rows_of(column) if column else [b""] * len(full)) == [one or b"" for one in wanted]


def masked(values: pa.Array, there: Any) -> pa.Array:
    """The same values, those null that are not there, with their bytes left where they were."""
    if pa.types.is_dictionary(values.type):
        codes = masked(values.indices, there)
        return pa.DictionaryArray.from_arrays(codes, values.dictionary)
    bitmap = pa.py_buffer(np.packbits(there, bitorder="little"))
    # A copy that begins with its buffers, so that the bitmap fits.
    whole = pa.concat_arrays([values, values])[: len(values)]
    return pa.Array.from_buffers(values.type, len(values), [bitmap, *whole.buffers()[1:]])


def test_a_column_without_values_is_none():
    assert column_of(pa.nulls(5, REPEATED), made) is None
    assert column_of(pa.nulls(5, pa.int64()), made) is None
    assert column_of(pa.nulls(5, pa.string()), made) is None


def test_a_piece_is_made_once_for_each_distinct_value():
    asked: list[Any] = []

    def make(values: pa.Array) -> list[bytes | None]:
        asked.extend(values.to_pylist())
        return made(values)

    column = column_of(repeated([0, 1, None, 0] * 100), make)

    assert asked == WORDS.to_pylist()
    assert isinstance(column, Shared)
    assert len({id(piece) for piece in rows_of(column)}) == 3


@pytest.mark.parametrize("distinct", [most_shared(ROWS), most_shared(ROWS) + 1])
def test_rows_share_pieces_unless_there_are_too_many(distinct):
    values = pa.array([f"word {n % distinct}" for n in range(ROWS)]).dictionary_encode()

    column = column_of(values, made)

    assert isinstance(column, Shared) == (distinct <= most_shared(ROWS))


def test_a_few_rows_may_share_as_many_pieces_as_they_are():
    assert most_shared(1) >= FEW


def test_parts_of_several_columns_are_those_of_one():
    shared = Shared([b"one", b"two", b"unused"], np.array([1, 0, 1]))
    own = Own((b"<", pa.array([b"x", None, b""], BYTES), b">"))

    together = Own(parts_of([shared, None, own, shared]))

    assert rows_of(together) == [b"two<x>two", b"one<>one", b"two<>two"]
    assert sizes_of(together).tolist() == [9, 8, 8]

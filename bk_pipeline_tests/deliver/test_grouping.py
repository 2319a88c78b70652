"""Many columns as few: the same bytes, in the same order, in as few pieces as pays."""

from __future__ import annotations

import random
from math import prod

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bk_pipeline.deliver.blobs import BYTES
from bk_pipeline.deliver.grouping import grouped
from bk_pipeline.deliver.pieces import Column, Own, Shared, most_shared, rows_of

ROWS = 2_000


def shared(name: str, codes: list[int]) -> Shared:
    pieces = [b"", *(f"{name}{n}".encode() for n in range(max(codes, default=0)))]
    return Shared(pieces, np.array(codes, np.int64))


def chance(name: str, distinct: int) -> Shared:
    """Which row has which piece is a matter of chance: it hangs together with nothing."""
    numbers = random.Random(name)
    return shared(name, [numbers.randrange(distinct) for _ in range(ROWS)])


def own(rows: int = ROWS) -> Own:
    return Own((b"<", pa.array([f"{n}" if n % 3 else None for n in range(rows)], BYTES), b">"))


def end_to_end(columns: list[Column]) -> list[bytes]:
    return [b"".join(pieces) for pieces in zip(*map(rows_of, columns), strict=True)]


COLUMNS: dict[str, list[Column]] = {
    "one": [chance("a", 3)],
    "all rows equal": [shared(name, [1] * ROWS) for name in "abc"],
    "every row distinct": [shared(name, list(range(ROWS))) for name in "abc"],
    "independent": [chance(name, 40) for name in "abcdef"],
    "more combinations than 64 bits can number": [chance(f"{n}-", 200) for n in range(12)],
    "pieces that nobody has": [
        Shared([b"a", b"", b"b", b"unused"], np.arange(ROWS) % 3) for _ in range(40)
    ],
    "some of their own": [chance("a", 3), own(), own(), chance("b", 3), chance("c", 3), own()],
}


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_rows_are_the_same_as_before(columns):
    assert end_to_end(grouped(columns)) == end_to_end(columns)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 300))
def test_rows_are_the_same_whatever_hangs_together(data, rows):
    numbers = random.Random(data.draw(st.integers(0, 2**16)))
    columns: list[Column] = []
    for at in range(data.draw(st.integers(1, 9))):
        distinct = numbers.choice([1, 2, 5, 60, 300])
        codes = [numbers.randrange(distinct) for _ in range(rows)]
        columns.append(numbers.choice([own(rows), shared(f"{at}-", codes)]))

    assert end_to_end(grouped(columns)) == end_to_end(columns)


def test_no_columns_are_none():
    assert grouped([]) == []
    assert grouped([None, None]) == []


def test_columns_that_follow_from_one_another_become_one():
    agents = chance("agent", 42)
    named = [Shared([f"{n}{piece!r}".encode() for piece in agents.pieces], agents.places)
             for n in range(70)]  # fmt: skip
    assert prod(len(one.pieces) for one in named) > 2**63

    (one,) = grouped([agents, *named])

    assert isinstance(one, Shared)
    assert len(one.pieces) == 42


def test_columns_that_do_not_hang_together_stay_apart():
    few = most_shared(ROWS)
    columns = [chance("a", few), chance("b", few)]

    assert grouped(columns) == columns


def test_a_column_that_fits_nowhere_does_not_part_those_before_it():
    alike = [chance("a", 9), shared("b", chance("a", 9).places.tolist())]

    first, last = grouped([*alike, chance("c", 200)])

    assert end_to_end([first]) == end_to_end(alike)
    assert len(last.pieces) == 200


def test_neighbours_of_their_own_become_one():
    (one,) = grouped([own(), None, own()])

    assert isinstance(one, Own)

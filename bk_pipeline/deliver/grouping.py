"""Many columns to few: neighbours that hang together become one, a combination a piece.

An agent's id says its name, its host and its tags; a step's key its label and its command.
So the values of many columns come in few combinations, and there are far fewer of those
than rows. Here each combination is put together once, and a row refers to it. Which columns
hang together is not assumed but counted, so that it may be any, or none. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bk_pipeline.deliver.pieces import NOTHING, Column, Own, Shared, chosen, most_shared, parts_of

# Codes of combinations are 64-bit integers.
MOST_CODES = 2**63


class _Combinations(NamedTuple):
    """For each row the number of its combination; and how many there are."""

    codes: Any
    number: int


def grouped(columns: Iterable[Column | None]) -> list[Column]:
    """Columns, as few as can be, whose rows are those of `columns`, end to end."""
    made: list[Column] = []
    for _, run in groupby((one for one in columns if one is not None), type):
        some = list(run)
        shared = [one for one in some if isinstance(one, Shared)]
        made += _combined(shared) if shared else [Own(parts_of(some))]
    return made


def _combined(columns: Sequence[Shared]) -> Iterator[Shared]:
    """`columns` as fewer: each takes on those after it as long as pieces stay few."""
    rest = columns
    while rest:
        taken, combinations = _longest(rest)
        yield _joined(rest[:taken], combinations) if taken > 1 else rest[0]
        rest = rest[taken:]


def _longest(columns: Sequence[Shared]) -> tuple[int, _Combinations]:
    """How many of `columns`, from the first on, have few combinations; and these.

    Not always the most: where there are too many, half as many columns are tried.
    """
    first, untried, taken = columns[0], columns[1:], 1
    most = most_shared(len(first.places))
    found = _Combinations(first.places, len(first.pieces))
    while untried:
        some = _countable(found.number, untried)
        finer = _refined(found, some)
        if finer.number > most:
            untried = some[: len(some) // 2]
        else:
            found, untried = finer, untried[len(some) :]
            taken += len(some)
    return taken, found


def _countable(count: int, columns: Sequence[Shared]) -> Sequence[Shared]:
    """Of `columns`, from the first on, so many as can be told apart by one number."""
    for place, column in enumerate(columns):
        count *= len(column.pieces)
        if count > MOST_CODES:
            return columns[:place]
    return columns


def _refined(found: _Combinations, columns: Sequence[Shared]) -> _Combinations:
    """The combinations of those found with the pieces of `columns`."""
    codes = found.codes.astype(np.int64)
    for column in columns:
        codes *= len(column.pieces)
        codes += column.places
    encoded = pa.array(codes).dictionary_encode()
    return _Combinations(np.asarray(encoded.indices), len(encoded.dictionary))


def _joined(columns: Sequence[Shared], combinations: _Combinations) -> Shared:
    """`columns` as one, a piece for each combination, put together from any row that has it."""
    examples = np.empty(combinations.number, np.int64)
    examples[combinations.codes] = np.arange(len(combinations.codes))
    each = [chosen(column.pieces, column.places[examples]) for column in columns]
    return Shared(list(map(NOTHING.join, zip(*each, strict=True))), combinations.codes)

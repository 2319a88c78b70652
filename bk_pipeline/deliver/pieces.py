"""Columns to rows of bytes: what the columns hold for a row, encoded, end to end.

There are two sorts of columns. Where values repeat, a piece is made for each distinct one,
and a row only refers to its piece: `Shared`. Where nearly every row has a value of its own,
Arrow puts the bytes together, and no row is looked at in Python: `Own`. Which of them a
column is follows from what is in it. `grouping.py` then makes few columns of many. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.blobs import BYTES, bare, lengths, listed, places_of, valid

NOTHING = b""
# For no more values than this Python is faster than Arrow.
FEW = 64
# A value, or a combination of values, is worth a piece of its own if so many rows have it,
# on average.
ROWS_A_PIECE = 8


class Shared(NamedTuple):
    """A column whose rows have pieces in common.

    Attributes:
        pieces: Those there are; not all need to be in use.
        places: For each row, which of them it has.
    """

    pieces: Sequence[bytes]
    places: Any


class Own(NamedTuple):
    """A column whose rows have bytes of their own.

    Attributes:
        parts: What a row has, in its order: of an array its value there, where null is
            nothing; bytes as they are. At least one is an array, all of them of BYTES.
    """

    parts: tuple[pa.Array | bytes, ...]


Column = Shared | Own
# What is made of an array's values: a piece for each, None or nothing where there shall be
# none; or all of them by Arrow.
Make = Callable[[pa.Array], Sequence[bytes | None] | Own]


def most_shared(count: int) -> int:
    """How many pieces a shared column of so many rows may have."""
    return max(FEW, count // ROWS_A_PIECE)


def column_of(values: pa.Array, make: Make, *, own: bool = False) -> Column | None:
    """What `make` makes of each row's value, once for each distinct one; None: of none.

    Args:
        values: Texts, mostly with a dictionary; or whole numbers, or booleans.
        make: Gets distinct values, or each row's where there are many.
        own: Each row gets bytes of its own in any case: distinct values are not counted.
    """
    if values.null_count == len(values):
        return None
    distinct, places = _numbered(values, own=own)
    made = make(distinct)
    if places is None:
        return made if isinstance(made, Own) else Own((pa.array(made, BYTES),))
    pieces = rows_of(made) if isinstance(made, Own) else [one or NOTHING for one in made]
    return Shared([NOTHING, *pieces], places)


def _numbered(values: pa.Array, *, own: bool) -> tuple[pa.Array, Any]:
    """Distinct values, and for each row the place of its own, from 1; of null, 0.

    If there are many, the values themselves, and None.
    """
    if pa.types.is_boolean(values.type):
        return pa.array([False, True]), places_of(values.cast(pa.uint8()))
    if pa.types.is_integer(values.type):
        low, high = (one.as_py() for one in pc.min_max(values).values())
        if high - low < FEW:
            return pa.array(range(low, high + 1)), (bare(values) - low + 1) * valid(values)
        if not own:
            values = values.dictionary_encode()
    if not pa.types.is_dictionary(values.type):
        return values, None
    if len(values.dictionary) > (FEW if own else most_shared(len(values))):
        return values.dictionary_decode(), None
    return values.dictionary, places_of(values.indices)


def parts_of(columns: Iterable[Column | None]) -> tuple[pa.Array | bytes, ...]:
    """What has each row's bytes of all `columns`, end to end, as the parts of one."""
    found: list[pa.Array | bytes] = []
    for column in columns:
        if isinstance(column, Own):
            found += column.parts
        elif column is not None:
            found.append(pa.array(column.pieces, BYTES).take(pa.array(column.places)))
    return tuple(found)


def rows_of(column: Column) -> list[bytes]:
    """Each row's piece of a column."""
    if isinstance(column, Shared):
        return chosen(column.pieces, column.places)
    parts = [pa.scalar(one, BYTES) if isinstance(one, bytes) else one for one in column.parts]
    # Not "skip": Arrow then leaves out rows in which all parts are null.
    nulls = pc.JoinOptions(null_handling="replace", null_replacement="")
    return listed(pc.binary_join_element_wise(*parts, pa.scalar(NOTHING, BYTES), options=nulls))


def chosen(pieces: Sequence[bytes], places: Any) -> list[bytes]:
    """The piece at each of `places`."""
    found: list[bytes] = np.array(pieces, object)[places].tolist()
    return found


def sizes_of(column: Column) -> Any:
    """How many bytes each row has of a column."""
    if isinstance(column, Own):
        return sum(len(part) if isinstance(part, bytes) else lengths(part) for part in column.parts)
    return np.fromiter(map(len, column.pieces), np.int64, len(column.pieces))[column.places]

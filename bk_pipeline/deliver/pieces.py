"""Columns to rows of bytes: what the columns hold for a row, encoded, end to end.

An encoder makes a piece for each distinct value of a column; each row that has the value
refers to it, and a row's pieces are copied once, when it is put together. So what a row
costs is some twenty nanoseconds a column. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa

from bk_pipeline.deliver.selection import column
from bk_pipeline.spans.fields import Field

NOTHING = b""
# For no more values than this Python is faster than Arrow.
FEW = 64

# A piece for each value of an array; None or nothing where a row shall have none.
Make = Callable[[pa.Array], Sequence[bytes | None]]
# The same bytes in every row, or a piece for each row; None: no row has any.
Column = bytes | Sequence[bytes] | None


def column_of(values: pa.Array, make: Make) -> Column:
    """For each row what `make` makes of its value; made once for each in a dictionary."""
    if values.null_count == len(values):
        return None
    if not pa.types.is_dictionary(values.type):
        return filled(make(values))
    if len(values.dictionary) > len(values):
        # A slice of a large table brings the whole table's dictionary along.
        values = values.cast(values.type.value_type).dictionary_encode()
    return chosen(make(values.dictionary), places_of(values))


def places_of(values: pa.Array) -> Any:
    """For each row the place of its value in the dictionary; of null, the one behind the last."""
    return np.asarray(values.indices.fill_null(len(values.dictionary)))


def chosen(pieces: Sequence[bytes | None], places: Any) -> list[bytes]:
    """For each row the piece at its place; nothing for the place behind the last."""
    rows: list[bytes] = np.array([*filled(pieces), NOTHING], object)[places].tolist()
    return rows


def filled(pieces: Sequence[bytes | None]) -> list[bytes]:
    """`pieces`, with nothing in the place of None."""
    return [piece or NOTHING for piece in pieces]


def spread(pieces: Sequence[bytes], rows: Any, count: int) -> Column:
    """`pieces` in those of `count` rows that `rows` names, and nothing in the others."""
    if not pieces:
        return None
    places = np.full(count, len(pieces))
    places[rows] = np.arange(len(pieces))
    return chosen(pieces, places)


def by_kind(
    table: pa.Table, fields: Sequence[Field], fragments: Callable[[Field, pa.Array], Column]
) -> list[bytes]:
    """For each row the fragments of those of `fields` that spans of its kind have, as one.

    Args:
        table: What `one_chunk` made.
        fields: In the order in which the fragments shall stand.
        fragments: What encodes a field's column.
    """
    names = column(table, "name")
    made = np.full(len(table), NOTHING, object)
    for place, kind in enumerate(names.dictionary.to_pylist()):
        own = [field for field in fields if kind in field.kinds]
        rows = np.flatnonzero(np.asarray(names.indices) == place)
        if own and len(rows):
            some = table.select([field.name for field in own]).take(pa.array(rows))
            each = (fragments(field, column(some, field.name)) for field in own)
            made[rows] = np.array(assembled(each, len(rows)), object)
    pieces: list[bytes] = made.tolist()
    return pieces


def assembled(columns: Iterable[Column], count: int) -> list[bytes]:
    """The pieces of each of `count` rows, end to end."""
    each = [
        repeat(column, count) if isinstance(column, bytes) else column
        for column in columns
        if column is not None
    ]
    return list(map(NOTHING.join, zip(*each, strict=True))) if each else [NOTHING] * count


def sizes_of(columns: Sequence[Sequence[bytes]]) -> Any:
    """How many bytes the columns have in each row, all together."""
    return sum(np.fromiter(map(len, column), np.int64, len(column)) for column in columns)


def listed(values: pa.Array) -> list[Any]:
    """Strings or bytes as a list; `to_pylist` takes several times as long."""
    found: list[Any] = values.to_numpy(zero_copy_only=False).tolist()
    return found

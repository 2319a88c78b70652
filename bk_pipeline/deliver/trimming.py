"""Trimming of items that exceed the limits, common to all encodings. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heapreplace
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc

from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.fields import FIELDS, FieldType

Key = TypeVar("Key", str, int)
# Strings are not truncated below this, because a few words are still useful.
SHORTEST_BYTES = 64

# Our own attribute: the item has less than the span.
TRIMMED = "bk_pipeline.trimmed"
MAPS = tuple(field.name for field in FIELDS if field.type is FieldType.MAP)
# The prefixes of map keys; all other columns are declared.
MAP_PREFIXES = tuple(name.removesuffix("*") for name in MAPS)


def map_key_bounds(rows: SpanRows) -> Any:
    """Return an upper bound of the number of map keys in each row, by counting colons."""
    counts = np.zeros(len(rows), np.int64)
    for name in MAPS:
        values = rows.column(name)
        colons = pc.count_substring(values.dictionary, ":").take(values.indices)
        counts += np.asarray(pc.fill_null(colons, 0))
    return counts


def shorten(sizes: Mapping[Key, int], excess: int, truncate: Callable[[Key, int], int]) -> None:
    """Truncate strings to save `excess` bytes, the longest first.

    A string is truncated to no less than half of the longest one at that time, so that strings of
    similar length are truncated alike.

    Args:
        sizes: The size of each string in bytes, by a key.
        excess: The number of bytes to save.
        truncate: Truncates the string of a key to at most this many bytes and returns its size.
    """
    heap: list[tuple[int, Any]] = [(-size, key) for key, size in sizes.items()]
    heapify(heap)
    while excess > 0 and heap and -heap[0][0] > SHORTEST_BYTES:
        size, key = -heap[0][0], heap[0][1]
        left = truncate(key, max(size - excess, size // 2, SHORTEST_BYTES))
        excess -= size - left
        heapreplace(heap, (-left, key))

"""What goes first where an item is too large, whatever its encoding. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heapreplace
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc

from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.fields import FIELDS, FieldType

Key = TypeVar("Key", str, int)
# A string is not cut below this before all longer ones are: a few words say something.
SHORTEST_BYTES = 64

# An attribute of ours: the item holds less than the span.
TRIMMED = "bk_pipeline.trimmed"
MAPS = tuple(field.name for field in FIELDS if field.type is FieldType.MAP)
# What the keys of maps begin with; all other columns are declared ones.
MAP_PREFIXES = tuple(name.removesuffix("*") for name in MAPS)


def keys_of_maps(rows: SpanRows) -> Any:
    """How many keys the maps of each row have, at least as many as there are: their colons."""
    counts = np.zeros(len(rows), np.int64)
    for name in MAPS:
        values = rows.column(name)
        colons = pc.count_substring(values.dictionary, ":").take(values.indices)
        counts += np.asarray(pc.fill_null(colons, 0))
    return counts


def shorten(sizes: Mapping[Key, int], excess: int, cut_to: Callable[[Key, int], int]) -> None:
    """Cut strings until they take `excess` bytes less, the longest first.

    None to less than half of what is then the longest, so that they share the loss.

    Args:
        sizes: The bytes that each string takes.
        excess: How many bytes are too many.
        cut_to: Cuts a string to so many bytes, and returns how many it takes then.
    """
    heap: list[tuple[int, Any]] = [(-size, key) for key, size in sizes.items()]
    heapify(heap)
    while excess > 0 and heap and -heap[0][0] > SHORTEST_BYTES:
        size, key = -heap[0][0], heap[0][1]
        left = cut_to(key, max(size - excess, size // 2, SHORTEST_BYTES))
        excess -= size - left
        heapreplace(heap, (-left, key))

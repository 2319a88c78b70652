"""Making an event fit: fewer columns, then shorter strings, the longest first. Pure."""

from __future__ import annotations

from heapq import heapify, heapreplace
from typing import Any

import msgspec

from bk_pipeline.deliver.honeycomb.plain import Event
from bk_pipeline.deliver.honeycomb.shape import (
    EVENT_BYTES,
    EVENT_COLUMNS,
    MAP_PREFIXES,
    TRIMMED,
)
from bk_pipeline.text import CUT_MARK

# A string is not cut below this before all longer ones are: a few words say something.
SHORTEST_BYTES = 64


def fitted(
    event: Event,
    *,
    limit_bytes: int = EVENT_BYTES,
    limit_columns: int = EVENT_COLUMNS,
) -> tuple[Event, bool]:
    """`event`, or as much of it as the limits allow, marked; and whether it is less.

    The keys of maps go first, from the last on, if there are too many columns; then the
    longest strings are cut.
    """
    data: dict[str, Any] = event["data"]
    if len(data) <= limit_columns and _size(event) <= limit_bytes:
        return event, False
    data = data | {TRIMMED: True}
    surplus = [name for name in data if name.startswith(MAP_PREFIXES)]
    while len(data) > limit_columns and surplus:
        del data[surplus.pop()]
    _shorten(data, _size(event | {"data": data}) - limit_bytes)
    # Long names and no long strings: nothing is left but to drop more of the surplus.
    while surplus and _size(event | {"data": data}) > limit_bytes:
        del data[surplus.pop()]
    return event | {"data": data}, True


def _shorten(data: dict[str, Any], excess: int) -> None:
    """Cut strings in `data` until they take `excess` bytes less, the longest first.

    None to less than half of what is then the longest, so that they share the loss.
    """
    heap = [(-_size(value), name) for name, value in data.items() if isinstance(value, str)]
    heapify(heap)
    while excess > 0 and heap and -heap[0][0] > SHORTEST_BYTES:
        size, name = -heap[0][0], heap[0][1]
        data[name] = _cut(data[name], max(size - excess, size // 2, SHORTEST_BYTES))
        excess -= size - _size(data[name])
        heapreplace(heap, (-_size(data[name]), name))


def _cut(text: str, encoded_bytes: int) -> str:
    """As much of `text` as so many bytes of JSON hold, with a mark."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if _size(text[:middle] + CUT_MARK) <= encoded_bytes:
            low = middle
        else:
            high = middle - 1
    return text[:low] + CUT_MARK


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))

"""Select the spans that still have to be sent, and group them into batches.

Spans are selected by row before encoding, and by item after it. Batches stay within the limits of
the destination. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from bk_pipeline.contracts import ItemIds
from bk_pipeline.deliver.destination import Item, Key, Limits
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.timing import to_ns

NO_IDS: frozenset[bytes] = frozenset()
# The columns read here, in addition to those a destination reads.
COLUMNS = ("trace_id", "span_id", "start", "links")

_item_id = attrgetter("item_id")


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows to encode, with counts of the others.

    Attributes:
        rows: The rows to encode.
        already_settled: Rows left out because the ledger has their spans settled. Those with links
            may still be in `rows`.
        too_old: Rows left out because of the maximum age.
        future: Rows in `rows` that start too far in the future to keep their time.
    """

    rows: SpanRows
    already_settled: int = 0
    too_old: int = 0
    future: int = 0


def select(
    rows: SpanRows,
    settled: ItemIds,
    *,
    now: datetime,
    max_age: timedelta | None,
    age_by_end: bool = False,
    future_limit: timedelta | None,
) -> Selection:
    """Return the rows of which something may have to be sent.

    A row with links stays even if its span is settled, because its links may not be.

    Args:
        rows: The rows to select from.
        settled: The settled items.
        now: The current time.
        max_age: Older spans are left out; None keeps all of them.
        age_by_end: Measure the age from a span's end instead of its start.
        future_limit: Spans that start later than this after `now` are counted; None counts none.
    """
    to_send = _unsettled(rows, settled) if settled else np.ones(len(rows), bool)
    settled_count = len(rows) - int(to_send.sum())
    too_old = future = 0
    if max_age is not None:
        reference_ns = rows.start_ns
        if age_by_end:
            reference_ns = np.asarray(rows.column("end").cast(pa.int64()))
        expired = to_send & (reference_ns < to_ns(now - max_age))
        too_old = int(expired.sum())
        to_send &= ~expired
    if future_limit is not None:
        future = int((to_send & (rows.start_ns > to_ns(now + future_limit))).sum())
    return Selection(rows.filter(to_send), settled_count, too_old, future)


def unsent(items: Sequence[Item], settled: ItemIds, in_flight: Collection[Key]) -> Sequence[Item]:
    """Return the items that are neither settled nor in flight, without duplicates. Pure.

    Keeps the order; of items with the same key, the first one wins. Most builds are entirely new,
    so only the items of the others are looked up one by one.
    """
    if len(set(map(_item_id, items))) < len(items):
        items = _deduplicated(items)
    affected = {*settled, *(trace_id for trace_id, _ in in_flight)}
    if not affected:
        return items
    return [
        item
        for item in items
        if item.trace_id not in affected
        or not (item.key in in_flight or item.item_id in settled.get(item.trace_id, NO_IDS))
    ]


def _deduplicated(items: Sequence[Item]) -> list[Item]:
    """Return the first item of each key."""
    first_by_key: dict[Key, Item] = {}
    for item in items:
        first_by_key.setdefault(item.key, item)
    return list(first_by_key.values())


def _unsettled(rows: SpanRows, settled: ItemIds) -> Any:
    """Return a boolean for each row: whether its span is not settled or it has links."""
    settled_of_build = [settled.get(trace_id, NO_IDS) for trace_id in rows.trace_ids]
    missing = [
        span_id not in settled_of_build[build]
        for span_id, build in zip(rows.span_ids, rows.build_of_row.tolist(), strict=True)
    ]
    return np.array(missing, bool) | (rows.link_counts() > 0)


_size: Callable[[Item], int] = attrgetter("size")
_shared: Callable[[Item], bytes] = attrgetter("shared")


class Batcher:
    """Groups a stream of items into batches, each as full as `limits` allow. Keeps the order.

    An item that exceeds the limits on its own becomes a batch of its own.

    Attributes:
        pending: The items that are not in a batch yet.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reset()

    def add(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Add `items` and yield each batch that is full."""
        limits = self._limits
        for item in items:
            added = item.size + limits.separator_bytes
            if item.shared not in self._shared_seen:
                added += len(item.shared) + limits.shared_framing_bytes
            if self.pending and (
                self._bytes + added > limits.batch_bytes or len(self.pending) == limits.batch_items
            ):
                yield self.pending
                self._reset()
                added = body_bytes([item], limits) - self._bytes
            self.pending.append(item)
            self._shared_seen.add(item.shared)
            self._bytes += added

    def flush(self) -> Iterator[list[Item]]:
        """Yield the last batch, if any items are left."""
        if self.pending:
            yield self.pending
            self._reset()

    def _reset(self) -> None:
        self.pending: list[Item] = []
        # Values of `Item.shared` in the batch; an empty one takes no space.
        self._shared_seen = {b""}
        # Each item is counted with a separator, but the first one has none.
        self._bytes = self._limits.framing_bytes - self._limits.separator_bytes


def halves(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """Split `items` into two halves in order; the first one is never empty."""
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]


def body_bytes(items: Sequence[Item], limits: Limits) -> int:
    """Return the size of a request with these items, in bytes before compression."""
    frame = limits.framing_bytes + limits.separator_bytes * (len(items) - 1)
    shared = set(map(_shared, items)) - {b""}
    frame += sum(map(len, shared)) + limits.shared_framing_bytes * len(shared)
    return frame + sum(map(_size, items))


def ids_by_trace(items: Iterable[Item]) -> ItemIds:
    """Return the ids of `items` by trace id, with those of their further keys."""
    ids: dict[bytes, list[bytes]] = {}
    for item in items:
        ids.setdefault(item.trace_id, []).append(item.item_id)
        for trace_id, item_id in item.also:
            ids.setdefault(trace_id, []).append(item_id)
    return ids

"""Select the spans that still have to be sent: by row before encoding, by item after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from bk_pipeline.contracts import ItemIds
from bk_pipeline.deliver.destination import Item, Key
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

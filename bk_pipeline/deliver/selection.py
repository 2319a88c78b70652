"""Which spans are still to be sent to a destination: by row before encoding, by item after."""

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

NOTHING: frozenset[bytes] = frozenset()
# What is read here, besides what a destination reads.
COLUMNS = ("trace_id", "span_id", "start", "links")

_item_id = attrgetter("item_id")


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows to encode, and how many spans are not among them, or peculiar."""

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
    """The rows of which something may have to be sent.

    A row with links stays although its span is settled: they are not, necessarily.
    """
    wanted = _unsettled(rows, settled) if settled else np.ones(len(rows), bool)
    settled_count = len(rows) - int(wanted.sum())
    too_old = future = 0
    if max_age is not None:
        counted_from = rows.start_ns
        if age_by_end:
            counted_from = np.asarray(rows.column("end").cast(pa.int64()))
        old = wanted & (counted_from < to_ns(now - max_age))
        too_old = int(old.sum())
        wanted &= ~old
    if future_limit is not None:
        future = int((wanted & (rows.start_ns > to_ns(now + future_limit))).sum())
    return Selection(rows.filter(wanted), settled_count, too_old, future)


def unsent(items: Sequence[Item], settled: ItemIds, under_way: Collection[Key]) -> Sequence[Item]:
    """Those of `items` that are neither settled nor under way, each once, in their order. Pure.

    Most builds are wholly new: only the items of others are looked up one by one.
    """
    if len(set(map(_item_id, items))) < len(items):
        items = _once(items)
    known = {*settled, *(trace_id for trace_id, _ in under_way)}
    if not known:
        return items
    return [
        item
        for item in items
        if item.trace_id not in known
        or not (item.key in under_way or item.item_id in settled.get(item.trace_id, NOTHING))
    ]


def _once(items: Sequence[Item]) -> list[Item]:
    """Of the items of one key the first."""
    found: dict[Key, Item] = {}
    for item in items:
        found.setdefault(item.key, item)
    return list(found.values())


def _unsettled(rows: SpanRows, settled: ItemIds) -> Any:
    known = [settled.get(trace_id, NOTHING) for trace_id in rows.trace_ids]
    missing = [
        span_id not in known[build]
        for span_id, build in zip(rows.span_ids, rows.build_of_row.tolist(), strict=True)
    ]
    return np.array(missing, bool) | (rows.link_counts() > 0)

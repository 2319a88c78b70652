"""Which spans are still to be sent to a destination: by row before encoding, by item after."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.blobs import fixed, from_hex, listed
from bk_pipeline.deliver.destination import Item, Key
from bk_pipeline.deliver.receipts import ItemIds
from bk_pipeline.spans.timing import to_ns

NOTHING: frozenset[bytes] = frozenset()
# What is read here, besides what a destination reads.
COLUMNS = ("trace_id", "span_id", "start", "links")

_item_id = attrgetter("item_id")


@dataclass(frozen=True, slots=True)
class Builds:
    """Where builds begin in a table whose rows of one build stand together.

    Attributes:
        trace_ids: 16 bytes for each build, in their order.
        first_rows: Each build's first row.
        of_row: For each row, its build's place in `trace_ids`.
    """

    trace_ids: Sequence[bytes]
    first_rows: Any
    of_row: Any


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows to encode, and how many spans are not among them, or peculiar."""

    table: pa.Table
    already_settled: int = 0
    too_old: int = 0
    future: int = 0


def one_chunk(table: pa.Table) -> pa.Table:
    """`table` with each column in one piece, and with one dictionary."""
    return table.unify_dictionaries().combine_chunks()


def column(table: pa.Table, name: str) -> pa.Array:
    """A column of a table that `one_chunk` made."""
    values = table[name]
    return values.chunk(0) if values.num_chunks else pa.array([], values.type)


def builds_of(table: pa.Table) -> Builds:
    """The builds in `table`, which `one_chunk` made. Pure."""
    ids = column(table, "trace_id")
    codes = np.asarray(ids.indices)
    begins = np.ones(len(codes), bool)
    np.not_equal(codes[1:], codes[:-1], out=begins[1:])
    first_rows = np.flatnonzero(begins)
    texts = ids.dictionary.take(pa.array(codes[first_rows])).to_pylist()
    return Builds([bytes.fromhex(text) for text in texts], first_rows, np.cumsum(begins) - 1)


def span_ids_of(table: pa.Table) -> list[bytes]:
    """The span ids as 8 bytes each. Pure."""
    return listed(fixed(from_hex(column(table, "span_id"), 8)))


def names_of(table: pa.Table) -> list[str]:
    """The spans' names; equal ones are one object. Pure."""
    names = column(table, "name")
    found: list[str] = np.array(names.dictionary.to_pylist(), object)[names.indices].tolist()
    return found


def start_ns_of(table: pa.Table) -> Any:
    """The starts as an array of nanoseconds since 1970. Pure."""
    return np.asarray(column(table, "start").cast(pa.int64()))


def select(
    table: pa.Table,
    builds: Builds,
    settled: ItemIds,
    *,
    now: datetime,
    max_age: timedelta | None,
    future_limit: timedelta | None,
) -> Selection:
    """The rows of `table` of which something may have to be sent.

    A row with links stays although its span is settled: they are not, necessarily.
    """
    wanted = _unsettled(table, builds, settled) if settled else np.ones(len(table), bool)
    settled_count = len(table) - int(wanted.sum())
    starts = start_ns_of(table)
    too_old = future = 0
    if max_age is not None:
        old = wanted & (starts < to_ns(now - max_age))
        too_old = int(old.sum())
        wanted &= ~old
    if future_limit is not None:
        future = int((wanted & (starts > to_ns(now + future_limit))).sum())
    chosen = table if wanted.all() else table.filter(pa.array(wanted))
    return Selection(chosen, settled_count, too_old, future)


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


def _unsettled(table: pa.Table, builds: Builds, settled: ItemIds) -> Any:
    known = [settled.get(trace_id, NOTHING) for trace_id in builds.trace_ids]
    of_row = builds.of_row.tolist()
    missing = [
        span_id not in known[build]
        for span_id, build in zip(span_ids_of(table), of_row, strict=True)
    ]
    linked = pc.greater(pc.fill_null(pc.list_value_length(column(table, "links")), 0), 0)
    return np.array(missing, bool) | np.asarray(linked)

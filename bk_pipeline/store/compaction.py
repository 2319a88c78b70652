"""Keeping a day's parts few: small ones are merged into one, of each build the newest record.

Each sync appends a part, and a day that many syncs look at would have thousands. The newest
parts, back to the first that is not small, are merged when there are many of them. What is
merged is at most `MANY` small parts, whatever the day holds, so a sync costs no more in a
long day than in a short one; and as only neighbours are merged, newer parts stay newer.

A merged part says what it replaces. From the moment that it is there, those are not part of
the day any more; no moment lies between in which a build is there twice or not at all, nor
does it matter where a run is killed. The files go an hour later: somebody may be reading
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.store.raw import ROW_GROUP_BYTES, SCHEMA, RawStore

SMALL_BYTES = 1024 * 1024
MANY = 32
GRACE = timedelta(hours=1)
SHORTEST = timedelta(microseconds=1)


def compact(raw: RawStore, day: str, *, now: datetime) -> str | None:
    """The name of the part that the day's newest small ones were merged into, if they were many.

    Deletes what was replaced more than an hour ago.

    Raises:
        StorageError: The store cannot be read or written.
    """
    small = _newest_small(raw.sizes(day))
    merged = None
    if small:
        # Older than what a run adds that begins now.
        merged = raw.merge(day, small, _newest_first(raw, day, small), now=now - SHORTEST)
    raw.sweep(day, before=now - GRACE)
    return merged


def _newest_small(sizes: dict[str, int]) -> list[str]:
    """The parts to merge, oldest first; none if they are not many."""
    found: list[str] = []
    for part, size in reversed(sizes.items()):
        if size >= SMALL_BYTES:
            break
        found.append(part)
    return found[::-1] if len(found) > MANY else []


def _newest_first(raw: RawStore, day: str, parts: list[str]) -> Iterator[pa.Table]:
    """The rows of `parts`, of each build the newest, in tables of bounded size."""
    seen = pa.array([], pa.string())
    waiting: list[pa.Table] = []
    waiting_bytes = 0
    for part in reversed(parts):
        found = [seen]
        for table in raw.tables(day, part):
            found.append(table["build_id"].combine_chunks())
            new = table.filter(pc.invert(pc.is_in(table["build_id"], value_set=seen)))
            waiting.append(new)
            waiting_bytes += new["payload"].nbytes
            if waiting_bytes >= ROW_GROUP_BYTES:
                yield _in_order(waiting)
                waiting, waiting_bytes = [], 0
        seen = pa.concat_arrays(found)
    if waiting:
        yield _in_order(waiting)


def _in_order(tables: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables).unify_dictionaries()
    return table.sort_by([("created_at", "ascending"), ("build_id", "ascending")]).cast(SCHEMA)

"""Merges a day's small raw parts into one that keeps the newest record of each build.

Each sync appends a part, so a day with many syncs would have thousands. When more than
`MAX_SMALL_PARTS` of the newest parts are small, they are merged. The cost is bounded whatever the
day holds, and since only adjacent parts are merged, the order by age is preserved.

A merged part lists the parts it replaces, and they stop counting the moment it exists: a build is
never there twice or missing, wherever a run is killed. Their files are deleted an hour later,
because another process may still be reading them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.store.raw import ROW_GROUP_BYTES, SCHEMA, RawStore

SMALL_PART_BYTES = 1024 * 1024
MAX_SMALL_PARTS = 32
REPLACED_GRACE = timedelta(hours=1)
RESOLUTION = timedelta(microseconds=1)


def compact(raw: RawStore, day: str, *, now: datetime) -> str | None:
    """Merge the day's newest small parts if there are many; return the merged part's name.

    Also deletes parts that were replaced more than `REPLACED_GRACE` ago.

    Raises:
        StorageError: The store cannot be read or written.
    """
    small = _newest_small(raw.sizes(day))
    merged = None
    if small:
        # Sorts before the parts that the calling run adds.
        merged = raw.merge(day, small, _newest_first(raw, day, small), now=now - RESOLUTION)
    raw.delete_replaced(day, before=now - REPLACED_GRACE)
    return merged


def _newest_small(sizes: dict[str, int]) -> list[str]:
    """Return the parts to merge, oldest first; empty if there are few."""
    found: list[str] = []
    for part, size in reversed(sizes.items()):
        if size >= SMALL_PART_BYTES:
            break
        found.append(part)
    return found[::-1] if len(found) > MAX_SMALL_PARTS else []


def _newest_first(raw: RawStore, day: str, parts: list[str]) -> Iterator[pa.Table]:
    """Yield the newest record of each build in `parts`, in tables of bounded size."""
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

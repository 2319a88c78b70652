"""Summarize: what a day's builds come to."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from bk_pipeline.analysis.columns import TABLES
from bk_pipeline.pipeline.days import retry_past_damage
from bk_pipeline.store.spans import SpanStore, StatsStore

if TYPE_CHECKING:
    from bk_pipeline.analysis.summary import DayStats

# If this one has been written, the others have.
LAST_TABLE = TABLES[-1].name


def summarize_day(day: str, *, spans: SpanStore, stats: StatsStore) -> DayStats:
    """The day's statistics, which are also stored, in place of those of an earlier run.

    Raises:
        StorageError: The store cannot be read or written.
    """
    # Here, because pandas takes half a second to load and nothing else needs it.
    from bk_pipeline.analysis.frames import COLUMNS  # noqa: PLC0415
    from bk_pipeline.analysis.summary import summarize  # noqa: PLC0415

    source = _parts_of(day, spans)
    found = summarize(day, spans.newest(day, columns=COLUMNS))
    for table, rows in found.tables().items():
        stats.write(table.name, day, rows, source=source)
    return found


def stats_are_stale(day: str, *, spans: SpanStore, stats: StatsStore) -> bool:
    """Whether the day has spans that its statistics were not made of. Reads no span."""
    present = retry_past_damage(lambda: _parts_of(day, spans), [])
    source = retry_past_damage(lambda: stats.source(LAST_TABLE, day), [])
    return bool(present) and source != present


def _parts_of(day: str, spans: SpanStore) -> str:
    """16 hex digits that say which parts a day has; nothing if it has none."""
    names = [part.name for part in spans.parts(day)]
    return sha256("\0".join(names).encode()).hexdigest()[:16] if names else ""

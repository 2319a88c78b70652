"""Summarize: the statistics of a day's builds."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from bk_pipeline.analysis.columns import TABLES
from bk_pipeline.pipeline.days import retry_past_damage
from bk_pipeline.store.spans import SpanStore, StatsStore

if TYPE_CHECKING:
    from bk_pipeline.analysis.summary import DayStats

# Written last: if it is up to date, so are the others.
LAST_TABLE = TABLES[-1].name


def summarize_day(day: str, *, spans: SpanStore, stats: StatsStore) -> DayStats:
    """Compute the day's statistics, store them in place of earlier ones, and return them.

    Raises:
        StorageError: The store cannot be read or written.
    """
    # Imported here because pandas takes half a second to load and nothing else needs it.
    from bk_pipeline.analysis.frames import COLUMNS  # noqa: PLC0415
    from bk_pipeline.analysis.summary import summarize  # noqa: PLC0415

    source = parts_digest(day, spans)
    found = summarize(day, spans.newest(day, columns=COLUMNS))
    for table, rows in found.tables().items():
        stats.write(table.name, day, rows, source=source)
    return found


def stats_are_stale(day: str, *, spans: SpanStore, stats: StatsStore) -> bool:
    """Whether the day's statistics were computed from other parts than it has now."""
    current = retry_past_damage(lambda: parts_digest(day, spans), [])
    source = retry_past_damage(lambda: stats.source(LAST_TABLE, day), [])
    return bool(current) and source != current


def parts_digest(day: str, spans: SpanStore) -> str:
    """Return 16 hex digits that identify the day's parts; empty if it has none.

    Those inside of jobs are among them: the report shows them, and it is made with the statistics.
    """
    names = [part.name for part in spans.delivery_parts(day)]
    return sha256("\0".join(names).encode()).hexdigest()[:16] if names else ""

"""Deployments: those of a period, found by rules in the span table, and stored by day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from hashlib import sha256

from bk_pipeline.analysis.columns import DEPLOYMENTS
from bk_pipeline.analysis.deployment_rules import Rule
from bk_pipeline.analysis.deployments import (
    Deployment,
    columns_for,
    deployments_in,
    table_of_deployments,
    with_history,
)
from bk_pipeline.analysis.queries import query_text
from bk_pipeline.analysis.sql import Database
from bk_pipeline.errors import DamagedFile
from bk_pipeline.pipeline.days import retry_past_damage
from bk_pipeline.store.spans import SpanPart, SpanStore, StatsStore
from bk_pipeline.window import day_keys

# How far back the start of a change, and of a time of failure, is searched for.
LOOK_BACK_DAYS = 30
MEMORY_MIB = 512


@dataclass(slots=True)
class FoundDeployments:
    """The deployments and rollbacks of a period, in the order of their ends.

    Attributes:
        deployments: They.
        days: The stored days of the period.
    """

    deployments: list[Deployment] = field(default_factory=list)
    days: list[str] = field(default_factory=list)


def find_deployments(
    first: date, last: date, *, spans: SpanStore, rules: Sequence[Rule]
) -> FoundDeployments:
    """Return the deployments whose builds were created from `first` to `last`.

    Reads `LOOK_BACK_DAYS` before them too, for what earlier deployments and builds say about them.

    Raises:
        StorageError: The store cannot be read.
    """
    begin = first - timedelta(days=LOOK_BACK_DAYS)
    stored = spans.parts_by_day()
    days = [day for day in day_keys(begin, last) if day in stored]
    columns = columns_for(rules)
    found = [
        one
        for day in days
        for one in deployments_in(day, spans.newest(day, columns=columns), rules)
    ]
    origins = _origins(found, begin, last, spans) if found else {}
    return FoundDeployments(
        [one for one in with_history(found, origins) if one.day >= first.isoformat()],
        [day for day in days if day >= first.isoformat()],
    )


def _origins(
    found: Sequence[Deployment], begin: date, last: date, spans: SpanStore
) -> dict[str, dict[str, object]]:
    """Return by build id where the changes of the deployments come from."""
    datasets = spans.datasets()
    with Database(datasets.single, datasets.several, memory_mib=MEMORY_MIB) as database:
        rows = database.table(
            query_text("deployment_origins"),
            {
                "builds": sorted({one.build_id for one in found if one.build_id}),
                "since": begin.isoformat(),
                "until": last.isoformat(),
            },
        ).to_pylist()
    return {row["build_id"]: row for row in rows}


def record_deployments(
    day: str, *, spans: SpanStore, stats: StatsStore, rules: Sequence[Rule]
) -> FoundDeployments:
    """Find the day's deployments, store them in place of earlier ones, and return them.

    Raises:
        StorageError: The store cannot be read or written.
    """
    source = _history_digest(day, spans.parts_by_day())
    at = date.fromisoformat(day)
    found = find_deployments(at, at, spans=spans, rules=rules)
    stats.write(DEPLOYMENTS.name, day, table_of_deployments(found.deployments), source=source)
    return found


def known_deployments(
    first: date, last: date, *, spans: SpanStore, stats: StatsStore, rules: Sequence[Rule]
) -> FoundDeployments:
    """Return what `find_deployments` does: from the stored tables if they are up to date.

    Raises:
        StorageError: The store cannot be read.
    """
    stored = spans.parts_by_day()
    days = [day for day in day_keys(first, last) if day in stored]
    if not days_with_stale_deployments(days, spans=spans, stats=stats):
        with suppress(DamagedFile):
            rows = [row for day in days for row in stats.read(DEPLOYMENTS.name, day).to_pylist()]
            found = sorted((Deployment(**row) for row in rows), key=lambda one: one.finished_at)
            return FoundDeployments(found, days)
    return find_deployments(first, last, spans=spans, rules=rules)


def days_with_stale_deployments(
    days: Sequence[str], *, spans: SpanStore, stats: StatsStore
) -> list[str]:
    """Return those of `days` whose deployments were found in other spans than there are now.

    The days before a day count too: they say what a deployment restored, and where its change
    began.
    """
    parts = retry_past_damage(spans.parts_by_day, [])
    return [
        day
        for day in days
        if day in parts
        and _history_digest(day, parts)
        != retry_past_damage(partial(stats.source, DEPLOYMENTS.name, day), [])
    ]


def _history_digest(day: str, parts: Mapping[str, Sequence[SpanPart]]) -> str:
    """Return 16 hex digits that identify the parts of the day and of those it looks back to."""
    last = date.fromisoformat(day)
    days = day_keys(last - timedelta(days=LOOK_BACK_DAYS), last)
    names = [f"{one}/{part.name}" for one in days for part in parts.get(one, ())]
    return sha256("\0".join(names).encode()).hexdigest()[:16]

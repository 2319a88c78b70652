"""Which changes are found, of those that are in generated years, and which are not there.

The years of `changes_world.py`: half of all series and measures of a month have one change, in the
other years none has. A change counts as found if one of the same pipeline, step, measure and
direction is reported within five days; the error of the first build is in the last column.

The time is that of a stored month of 2,000 builds a day, one day repeated: the query and the
search, in a process of its own after its imports.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.changes_world import (
    KINDS,
    MONTHS,
    SERIES_PER_PIPELINE,
    SIZES,
    VOLUMES,
    Case,
    Score,
    scored,
    year,
)
from benchmarks.corpus import DAY
from benchmarks.figures import Bound, Figure, Report
from benchmarks.measured import Work, measured
from benchmarks.sql import BUILDS, DAYS, FIRST, MIB, PART, ROUNDS, day_tables
from bk_pipeline.analysis.sql import Database
from bk_pipeline.pipeline.changes import MEMORY_MIB, changes_between
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanStore

SEEDS, QUIET_SEEDS = (5, 6, 7, 8), (1, 2, 3, 4)
CHANGED = 0.5
BUSY = 80
LEAST_PRECISION, LEAST_RECALL, MOST_FALSE = 0.97, 0.9, 3.0
MOST_MONTH_S = 30
CREATED = "buildkite.build.created_at"


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    with ProcessPoolExecutor() as processes:
        changed = list(processes.map(_changed, SEEDS))
        quiet = list(processes.map(_quiet, QUIET_SEEDS))
    total = Score(
        [case for one in changed for case in one.cases],
        [alarm for one in changed for alarm in one.false_alarms],
    )
    series = len(QUIET_SEEDS) * MONTHS * len(VOLUMES) * SERIES_PER_PIPELINE * len(KINDS)
    alarms = sum(len(one.false_alarms) for one in quiet)
    found = sum(one.off_by is not None for one in total.cases)
    folder = str(_stored(scratch / "changes"))
    rounds = [measured("benchmarks.changes:month", folder) for _ in range(ROUNDS)]
    mib = max(one.rss_bytes for one in rounds) / MIB
    return Report(
        title=f"changes: {len(total.cases):,} changes in {len(SEEDS)} years",
        columns=(
            "measure",
            "size",
            "changes",
            "found",
            *map(_a_day, VOLUMES),
            "first build off by",
        ),
        rows=[_row(total, kind, size) for kind in KINDS for size in SIZES[kind]],
        figures=[
            Figure("changes.precision", total.precision, Bound(least=LEAST_PRECISION)),
            Figure(
                "changes.recall_of_20_percent_duration",
                total.recall("duration_s", at_least=0.2, volume=BUSY),
                Bound(least=LEAST_RECALL),
            ),
            Figure(
                "changes.false_per_1000_quiet_series",
                1_000 * alarms / series,
                Bound(most=MOST_FALSE),
            ),
            Figure(
                "analysis.changes_month_s",
                median(one.seconds for one in rounds),
                Bound(most=MOST_MONTH_S),
            ),
        ],
        notes=[
            f"Seeds {SEEDS}: {found:,} found, and {len(total.false_alarms)} that are not there.",
            "First build: median and 90th percentile, in builds of the pipeline.",
            f"Seeds {QUIET_SEEDS}, without any change: {alarms} in {series:,} months of a series.",
            f"{DAYS} days of {BUILDS:,} builds: median time of {ROUNDS} processes, {mib:,.0f} MiB.",
        ],
    )


def month(folder: str) -> Work:
    """Return the work: list the store, open it, and look for changes."""

    def work() -> dict[str, float]:
        datasets = SpanStore(Folder(folder)).datasets()
        last = FIRST + timedelta(days=DAYS - 1)
        with Database(datasets.single, datasets.several, memory_mib=MEMORY_MIB) as database:
            found = changes_between(FIRST, last, database=database, zone=UTC)
        return {"changes": len(found)}

    return work


def _stored(folder: Path) -> Path:
    """Write a month of builds that are created on its days, and return the folder."""
    tables = day_tables()
    store = SpanStore(Folder(str(folder)))
    for day in (FIRST + timedelta(days=number) for number in range(DAYS)):
        store.write(day.isoformat(), PART, [_on(day, one) for one in tables], PartSummary())
    return folder


def _on(day: date, table: pa.Table) -> pa.Table:
    """Return the spans of builds that are created on `day` instead of `DAY`."""
    at = table.schema.get_field_index(CREATED)
    texts = table[CREATED].cast(pa.string())
    moved = pc.replace_substring(texts, DAY.isoformat(), day.isoformat())
    return table.set_column(at, table.schema.field(at), moved.cast(table.schema.field(at).type))


def _changed(seed: int) -> Score:
    return scored(year(seed, changed=CHANGED))


def _quiet(seed: int) -> Score:
    return scored(year(seed, changed=0.0))


def _a_day(volume: int) -> str:
    return f"{volume} a day"


def _row(total: Score, kind: str, size: float) -> tuple[str, ...]:
    cases = [one for one in total.of(kind) if np.isclose(abs(one.injected.size), size)]
    off = [one.off_by for one in cases if one.off_by is not None]
    error = f"{np.median(off):.0f}, {np.percentile(off, 90):.0f}" if off else ""
    name = f"{size:.0%}".replace("%", " points" if kind == "failure_rate" else " %")
    by_volume = [_share([one for one in cases if one.volume == volume]) for volume in VOLUMES]
    return (kind, name, f"{len(cases):,}", _share(cases), *by_volume, error)


def _share(cases: list[Case]) -> str:
    if not cases:
        return ""
    return f"{sum(one.off_by is not None for one in cases) / len(cases):.0%}"

"""Which changes are found, of those that are in generated years, and which are not there.

The years of `changes_world.py`: half of all series and measures of a month have one change, in the
other years none has. A change counts as found if one of the same pipeline, step, measure and
direction is reported within five days; the error of the first build is in the last column.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

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
from benchmarks.figures import Bound, Figure, Report

SEEDS, QUIET_SEEDS = (5, 6, 7, 8), (1, 2, 3, 4)
CHANGED = 0.5
BUSY = 80
LEAST_PRECISION, LEAST_RECALL, MOST_FALSE = 0.95, 0.9, 3.0


def run(_: Path) -> Report:
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
        ],
        notes=[
            f"Seeds {SEEDS}: {found:,} found, and {len(total.false_alarms)} that are not there.",
            "First build: median and 90th percentile, in builds of the pipeline.",
            f"Seeds {QUIET_SEEDS}, without any change: {alarms} in {series:,} months of a series.",
        ],
    )


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

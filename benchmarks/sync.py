"""Syncs ten new builds into a day of 100, 1,000 and 10,000: extract, transform, deliver.

What the sensor's runs do all day. Each round finishes ten more builds of the day and syncs
it, the sizes in turn, in a process of its own each time; a ratio is the median of each
round's own ratio. Time is the clock's, the sandbox's work included, which is a process of
its own: it looks through its whole day for each listing, and that counts against us.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import stand_in
from benchmarks.figures import Bound, Figure, Report, number
from benchmarks.measured import Measured, measured
from benchmarks.stand_in import StandIn

SIZES = (100, 1_000, 10_000)
NEW = 10
ROUNDS = 9

Day = tuple[StandIn, str]


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    with ExitStack() as opened:
        days: dict[int, Day] = {}
        for size in SIZES:
            there = opened.enter_context(stand_in.running(size))
            days[size] = there, json.dumps(there.settings(str(scratch / f"sync-{size}")))
            measured("benchmarks.days:whole", days[size][1])
        rounds = [_round(days, series) for series in range(ROUNDS)]
    table = {size: [one[size] for one in rounds] for size in SIZES}
    ratio = median(one[SIZES[-1]].seconds / one[SIZES[0]].seconds for one in rounds)
    cpu = median(one[SIZES[-1]].cpu_seconds / one[SIZES[0]].cpu_seconds for one in rounds)
    requests = [runs[-1].counts["requests"] for runs in table.values()]
    return Report(
        title=f"sync: {NEW} new builds into a day that holds many",
        columns=("day holds", "new builds", "requests", "seconds", "CPU seconds"),
        rows=[_row(size, runs) for size, runs in table.items()],
        figures=[
            Figure("sync.time_ratio_10k_vs_100", ratio, Bound(most=1.3)),
            Figure("sync.cpu_ratio_10k_vs_100", cpu),
            Figure("sync.requests_10k", requests[-1], Bound(most=requests[0])),
            Figure("sync.seconds_10k", median(one.seconds for one in table[SIZES[-1]])),
        ],
        notes=[f"Medians of {ROUNDS} rounds; Dagster's own start-up is left out."],
    )


def _round(days: dict[int, Day], series: int) -> dict[int, Measured]:
    done = {}
    for size, (there, variables) in days.items():
        there.finish(stand_in.late_builds(NEW, series))
        done[size] = measured("benchmarks.days:whole", variables)
        assert done[size].counts["stored"] == NEW, done[size]
        assert done[size].counts["accepted"] > NEW, done[size]
    return done


def _row(size: int, runs: list[Measured]) -> tuple[str, ...]:
    return (
        number(size),
        number(runs[-1].counts["stored"]),
        number(runs[-1].counts["requests"]),
        f"{median(one.seconds for one in runs):.3f}",
        f"{median(one.cpu_seconds for one in runs):.3f}",
    )

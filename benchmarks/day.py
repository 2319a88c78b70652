"""A day of a million spans, and one of a tenth: extracted, transformed and delivered.

Each stage runs in a process of its own, as Dagster's steps do: HTTP from the sandbox, raw
Parquet, span Parquet, batches to the sink, the ledger on disk. Both services are processes
of their own. Dagster's own start-up is left out; so are Buildkite's rate limits, which would
make the reading of this day take a quarter of an hour.

Time per span, and how far we stay above what Buildkite's limits allow, is by CPU seconds, of
the three stages together: on a busy machine the queue for the CPU does not count. Memory is
the highest resident size of each process, imports and all.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from benchmarks import sink, stand_in
from benchmarks.figures import Bound, Figure, Report, number
from benchmarks.measured import Measured, measured

MANY, FEW = 66_000, 6_600  # builds of 15.2 spans each
STAGES = ("extract", "transform", "deliver")
MIB = 1024 * 1024
# Builds per second that Buildkite's limits allow after our reserve.
USER_BUILDS_PER_S = 48 * 100 / 60
ORGANIZATION_BUILDS_PER_S = 180 * 100 / 60

Stages = dict[str, Measured]


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    many, note = _day(scratch / "many", MANY)
    fews = [_day(scratch / f"few-{round_}", FEW)[0] for round_ in range(3)]
    ratio = _cpu_per_span(many) / median(map(_cpu_per_span, fews))
    builds = many["extract"].counts["stored"]
    builds_per_s = builds / sum(one.seconds for one in many.values())
    builds_per_cpu_s = builds / sum(one.cpu_seconds for one in many.values())
    peak = max(one.rss_bytes for one in many.values()) / MIB
    return Report(
        title="day: a million spans from Buildkite to Honeycomb",
        columns=("stage", "builds", "spans", "seconds", "CPU seconds", "RSS MiB"),
        rows=[*_rows("", many), *_rows("a tenth: ", fews[0])],
        figures=[
            Figure("day_1m.spans", many["transform"].counts["spans"], Bound(least=1_000_000)),
            Figure("day_1m.peak_rss_mib", peak, Bound(most=1_024)),
            Figure("day_1m.time_per_span_ratio", ratio, Bound(most=1.15)),
            Figure("day_1m.builds_per_s", builds_per_s),
            Figure("day_1m.builds_per_cpu_s", builds_per_cpu_s),
            Figure("day_1m.times_above_50_a_minute", builds_per_cpu_s / USER_BUILDS_PER_S),
            Figure("day_1m.times_above_200_a_minute", builds_per_cpu_s / ORGANIZATION_BUILDS_PER_S),
        ],
        notes=[note],
    )


def _day(folder: Path, builds: int) -> tuple[Stages, str]:
    with stand_in.running(builds) as buildkite, sink.running() as honeycomb:
        settings = buildkite.settings(str(folder), HONEYCOMB_API_ENDPOINT=honeycomb.url)
        variables = json.dumps(settings)
        # Lets the sandbox prepare its responses, so that their preparation is not measured.
        first = json.dumps({**settings, "BK_PIPELINE_DATA_DIR": str(folder / "before")})
        measured("benchmarks.days:extract", first)
        before = buildkite.cpu_seconds()
        done = {"extract": measured("benchmarks.days:extract", variables)}
        theirs = buildkite.cpu_seconds() - before
        for stage in STAGES[1:]:
            done[stage] = measured(f"benchmarks.days:{stage}", variables)
        pages = done["extract"].counts["requests"]
        note = (
            f"Buildkite's stand-in needs {theirs / pages * 1000:.1f} ms of CPU for a page of 100 "
            f"builds that it has made before, the reader of it "
            f"{done['extract'].cpu_seconds / pages * 1000:.1f} ms. The stand-in has "
            f"{buildkite.memory_bytes() // MIB:,} MiB."
        )
    assert done["deliver"].counts["accepted"] >= done["transform"].counts["spans"]
    return done, note


def _cpu_per_span(stages: Stages) -> float:
    return sum(one.cpu_seconds for one in stages.values()) / stages["transform"].counts["spans"]


def _rows(prefix: str, stages: Stages) -> list[tuple[str, ...]]:
    builds, spans = stages["extract"].counts["stored"], stages["transform"].counts["spans"]
    return [
        (
            prefix + name,
            number(builds),
            number(spans),
            f"{one.seconds:.1f}",
            f"{one.cpu_seconds:.1f}",
            number(one.rss_bytes // MIB),
        )
        for name, one in stages.items()
    ]

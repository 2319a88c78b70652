"""Extracts a day from the sandbox: number of requests, speed, and speed with rate limits.

Needed: hardly more requests than there are pages, and one for a look at a day in which
nothing is new. With the limits on, as Buildkite has them (50 a minute for the user, 200 for
the organization), a day of a little more than one minute's requests is read: no request may
be refused, and none of what we allow ourselves may be left unused.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from benchmarks import stand_in
from benchmarks.figures import Bound, Figure, Report, number
from benchmarks.measured import Measured, measured
from benchmarks.stand_in import StandIn

BUILDS = 12_000
LIMITED_BUILDS = 6_000
ROUNDS = 3
MIB = 1024 * 1024


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    folder = scratch / "extract"
    with stand_in.running(BUILDS) as there:
        _extract(there, folder / "before")
        before = there.cpu_seconds()
        fulls = [_extract(there, folder / f"{number}") for number in range(ROUNDS)]
        theirs = (there.cpu_seconds() - before) / ROUNDS
        idle = [_extract(there, folder / f"{number}") for number in range(ROUNDS)]
    with stand_in.running(LIMITED_BUILDS, limits=True) as there:
        limited = _extract(there, folder / "limited")
        stored = there.stored()
    requests = fulls[0].counts["requests"]
    builds = fulls[0].counts["listed"]
    refused = stored["buildkite_refused"]
    seconds = median(one.seconds for one in fulls)
    return Report(
        title="extract: a day read over HTTP",
        columns=("what", "builds", "requests", "seconds", "CPU seconds", "waited s", "RSS MiB"),
        rows=[
            _row("whole day", fulls),
            _row("nothing new", idle),
            _row("whole day, limits on", [limited]),
        ],
        figures=[
            Figure("extract.requests_per_100_builds", requests / builds * 100, Bound(most=1.1)),
            Figure("extract.idle_requests", idle[0].counts["requests"], Bound(most=1)),
            Figure("extract.refused_requests", refused, Bound(most=0)),
            Figure("extract.builds_per_s", builds / seconds),
        ],
        notes=[
            f"Medians of {ROUNDS} rounds.",
            f"The sandbox is a process of its own; a whole day costs it {theirs:.1f} CPU seconds.",
        ],
    )


def _extract(there: StandIn, folder: Path) -> Measured:
    return measured("benchmarks.days:extract", json.dumps(there.settings(str(folder))))


def _row(name: str, runs: list[Measured]) -> tuple[str, ...]:
    return (
        name,
        number(runs[0].counts["listed"]),
        number(runs[0].counts["requests"]),
        f"{median(one.seconds for one in runs):.2f}",
        f"{median(one.cpu_seconds for one in runs):.2f}",
        number(round(median(one.counts["waited_s"] for one in runs))),
        number(max(one.rss_bytes for one in runs) // MIB),
    )

"""Logs of jobs: how fast and in how much memory they are read, and how often the kind is right.

A log of 1 GiB is generated on the fly, in the format of today's agents: a section of about 2 MiB, a
time marker on each line. Other kinds of logs follow, shorter. Kinds of failures are measured on the
examples of the tests and on the failed jobs of a sandbox, whose stories tell the true kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from benchmarks.figures import Bound, Figure, Report
from benchmarks.measured import Work, measured
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.logs import log_of
from bk_pipeline.sandbox.stories import story_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.sources.failure import FailureKind, failure_of
from bk_pipeline.sources.log import read_log
from bk_pipeline.sources.model import JobTimes
from bk_pipeline.units import NS_PER_MS, S_PER_DAY
from bk_pipeline_tests.sources.failing import EXAMPLES, framed

MIB, CHUNK_BYTES = 1 << 20, 64 * 1024
SIZE_MIB, OTHER_MIB = 1_024, 64
LEAST_MIB_PER_S, MOST_RSS_MIB = 100, 128
START_MS = 1_790_000_000_000
JOB = JobTimes("job", START_MS * NS_PER_MS, (START_MS + 3_600_000) * NS_PER_MS)
SEED, DAYS, BUILDS, TODAY = 5, 4, 300, date(2026, 11, 20)
LATER_MS = 30 * S_PER_DAY * 1_000
LEAST_PRECISION = 0.9

LINES: dict[str, Callable[[int], str]] = {
    "markers": lambda at: (
        f"\x1b_bk;t={START_MS + at}\x07[build] compiling module {at} with -O2\r\n"
    ),
    "markers, short lines": lambda at: f"\x1b_bk;t={START_MS + at}\x07ok\r\n",
    "no times": lambda at: f"[build] compiling module {at} of the project with -O2 -Wall\n",
    "time stamps": lambda at: f"[2026-09-21T14:13:{at % 60:02}Z] compiling module {at}\n",
    "progress": lambda at: f"Receiving objects: {at % 100}%\r" * 40 + "\n",
}


def run(_: Path) -> Report:
    """Run the benchmark and return its report."""
    rows: list[tuple[str, ...]] = []
    figures: list[Figure] = []
    for name in LINES:
        size_mib = SIZE_MIB if not rows else OTHER_MIB
        done = measured("benchmarks.insides:prepare_log", name, str(size_mib))
        speed, rss_mib = size_mib / done.cpu_seconds, done.rss_bytes / MIB
        rows.append((name, f"{size_mib:,} MiB", f"{speed:,.0f} MiB/s", f"{rss_mib:.0f} MiB"))
        if not figures:
            figures = [
                Figure("insides.log_mib_per_s", speed, Bound(least=LEAST_MIB_PER_S)),
                Figure("insides.peak_rss_mib", rss_mib, Bound(most=MOST_RSS_MIB)),
            ]
    for name, kinds in (("examples", of_examples()), ("sandbox", of_sandbox())):
        right = sum(count for (true, found), count in kinds.items() if true == found)
        share = right / kinds.total()
        figures.append(Figure(f"insides.kind_{name}", share, Bound(least=LEAST_PRECISION)))
        rows += _precision(name, kinds)
    return Report(
        title="insides: logs of jobs, and the kinds of failures",
        columns=(
            "log, or kind that was found",
            "size, or times found",
            "speed, or right",
            "peak RSS",
        ),
        rows=rows,
        figures=figures,
        notes=[
            "CPU time of one core, with the generation of the log. Peak RSS includes Python.",
            f"sandbox: failed jobs of {DAYS + 1} days with {BUILDS} builds.",
        ],
    )


def prepare_log(name: str, size_mib: str) -> Work:
    """Return the work of reading a log of `size_mib`."""
    chunks = _chunks(LINES[name], int(size_mib) * MIB)

    def work() -> dict[str, float]:
        log = read_log(chunks, JOB, exit_status=1)
        return {"sections": log.sections, "lines": log.lines}

    return work


def _chunks(line: Callable[[int], str], size: int) -> Iterator[bytes]:
    """Yield a log of about `size` bytes, in chunks as they come from a network."""
    body = "".join(map(line, range(2 * MIB // len(line(0))))).encode()
    sent = 0
    while sent < size:
        block = f"\x1b_bk;t={START_MS + sent // 1_000}\x07--- part {sent}\r\n".encode() + body
        for at in range(0, len(block), CHUNK_BYTES):
            yield block[at : at + CHUNK_BYTES]
        sent += len(block)


def of_examples() -> Counter[tuple[str, str]]:
    """Return how often which kind was found for which true kind, in the examples of the tests."""
    return Counter(
        (one.kind, _kind(framed(one.output, one.exit_status), one.exit_status, one.signal_reason))
        for one in EXAMPLES
    )


def of_sandbox() -> Counter[tuple[str, str]]:
    """Return the same for the failed jobs of a sandbox."""
    world = World(SEED, DAYS, BUILDS, TODAY)
    first, last = world.first_and_last_day()
    found: Counter[tuple[str, str]] = Counter()
    for number in range((last - first).days + 1):
        for build in world.builds(first + timedelta(days=number)):
            at_ms = build.created_ms + LATER_MS
            for job in (build_as_of(build, at_ms) or {"jobs": []})["jobs"]:
                story, log = story_of(job), log_of(job, at_ms)
                if story and story.cause and log:
                    found[story.cause.kind, _kind_of_job(job, log.content)] += 1
    return found


def _kind_of_job(job: dict[str, Any], raw: bytes) -> str:
    return _kind(raw, job["exit_status"], job.get("signal_reason"), job["state"])


def _kind(raw: bytes, status: int | None, reason: str | None, state: str | None = None) -> str:
    found = failure_of(raw, exit_status=status, signal_reason=reason, state=state)
    return str(found.kind) if found else "none"


def _precision(name: str, kinds: Counter[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Return a row for each kind: how often it was found, and how often that was right."""
    rows: list[tuple[str, ...]] = []
    for kind in FailureKind:
        found = sum(count for (_, one), count in kinds.items() if one == kind)
        if found:
            right = kinds[str(kind), str(kind)]
            rows.append((f"{name}: {kind}", f"{found:,}", f"{right / found:.1%}", ""))
    return rows

"""A seeded corpus of payloads: one build's JSON text per line, 100 builds per file.

That is what a transformation begins with: the raw store gives out each build's text by
itself. The same on every machine: its day and seed are fixed. A tenth of it is every tenth
file, so that both have the same mixture of hours, pipelines and outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World

SEED = 7
DAY = date(2025, 3, 13)  # a Thursday: the sandbox's weekends have fewer builds
BUILDS_PER_FILE = 100
FILES = 120
LEAST_JOBS = 100_000
WARM_UP = 10
AT_ONCE = 1024 * 1024  # bytes read
# Long after the last build of the day has finished.
LATER_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Corpus:
    """The folder of the payloads, and its size. Waiters are not counted as jobs."""

    folder: Path
    builds: int
    jobs: int
    size_bytes: int

    def iter_payloads(self, *, every: int = 1) -> Iterator[bytes]:
        """Read all payloads lazily, or only those in one file of `every`."""
        return read_payloads(self.folder, every=every)


def corpus_in(scratch: Path) -> Corpus:
    """Return the corpus in `scratch`, after creating it if needed: 300 MB, a few seconds."""
    folder = scratch / "corpus"
    counts = folder / "counts.json"
    if not counts.exists():
        folder.mkdir()
        jobs, size = _make(folder)
        counts.write_bytes(msgspec.json.encode((jobs, size)))
    jobs, size = msgspec.json.decode(counts.read_bytes())
    return Corpus(folder, FILES * BUILDS_PER_FILE, jobs, size)


def read_payloads(folder: Path, *, every: int = 1) -> Iterator[bytes]:
    """Read the payloads in `folder` lazily, or only those in one file of `every`."""
    for path in sorted(folder.glob("builds-*.ndjson"))[::every]:
        with path.open("rb", buffering=AT_ONCE) as file:
            yield from file


def warm_up_payloads(folder: Path) -> list[bytes]:
    """Return a few payloads to warm up with before measuring."""
    return list(islice(read_payloads(folder), WARM_UP))


def _make(folder: Path) -> tuple[int, int]:
    """Write the files, and return the number of jobs and of bytes."""
    world = World(seed=SEED, days=1, builds_per_day=FILES * BUILDS_PER_FILE, today=DAY)
    newest_first = world.builds(DAY)[::-1]
    jobs = size = 0
    for number in range(FILES):
        lives = newest_first[number * BUILDS_PER_FILE : (number + 1) * BUILDS_PER_FILE]
        builds = [build_as_of(life, life.created_ms + LATER_MS) for life in lives]
        assert len(builds) == BUILDS_PER_FILE
        jobs += sum(_jobs(build) for build in builds if build)
        content = b"\n".join(map(msgspec.json.encode, builds))
        size += len(content)
        (folder / f"builds-{number:04}.ndjson").write_bytes(content)
    assert jobs >= LEAST_JOBS, f"{jobs} jobs: raise FILES"
    return jobs, size


def _jobs(build: dict[str, Any]) -> int:
    return sum(job["type"] != "waiter" for job in build["jobs"])

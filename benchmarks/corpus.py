"""A seeded corpus of API pages: arrays of 100 builds as bytes, one file a page.

The same on every machine: its day and seed are fixed. A tenth of it is every tenth page, so
that both have the same mixture of hours, pipelines and outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from bk_pipeline.sandbox.world import World, build_as_of

SEED = 7
DAY = date(2025, 3, 13)  # a Thursday: the sandbox's weekends have fewer builds
BUILDS_PER_PAGE = 100
PAGES = 120
LEAST_JOBS = 100_000
WARM_UP_BUILDS = 10
# Long after the last of the day's builds has come to rest.
LATER_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where the pages are, and how much they hold. Waiters are not counted as jobs."""

    folder: Path
    pages: int
    builds: int
    jobs: int
    size_bytes: int

    def iter_pages(self, *, every: int = 1) -> Iterator[bytes]:
        """The pages, or every tenth one of them, read as they are asked for."""
        return read_pages(self.folder, every=every)


def corpus_in(scratch: Path) -> Corpus:
    """The corpus in `scratch`, made if it is not there yet: 300 MB on disk, a few seconds."""
    folder = scratch / "corpus"
    counts = folder / "counts.json"
    if not counts.exists():
        folder.mkdir()
        jobs, size = _make(folder)
        counts.write_bytes(msgspec.json.encode((jobs, size)))
    jobs, size = msgspec.json.decode(counts.read_bytes())
    return Corpus(folder, PAGES, PAGES * BUILDS_PER_PAGE, jobs, size)


def read_pages(folder: Path, *, every: int = 1) -> Iterator[bytes]:
    """The pages in `folder`, or every tenth one of them, read as they are asked for."""
    for path in sorted(folder.glob("page-*.json"))[::every]:
        yield path.read_bytes()


def warm_up_page(folder: Path) -> bytes:
    """A page of very few builds, to be run through before anything is measured."""
    return (folder / "warm-up.json").read_bytes()


def _make(folder: Path) -> tuple[int, int]:
    """Writes the pages; how many jobs, and how many bytes."""
    world = World(seed=SEED, days=1, builds_per_day=PAGES * BUILDS_PER_PAGE, today=DAY)
    newest_first = world.builds(DAY)[::-1]
    jobs = size = 0
    for page in range(PAGES):
        lives = newest_first[page * BUILDS_PER_PAGE : (page + 1) * BUILDS_PER_PAGE]
        builds = [build_as_of(life, life.created + LATER_MS) for life in lives]
        assert len(builds) == BUILDS_PER_PAGE
        jobs += sum(_jobs(build) for build in builds if build)
        content = msgspec.json.encode(builds)
        size += len(content)
        (folder / f"page-{page:04}.json").write_bytes(content)
        if page == 0:
            (folder / "warm-up.json").write_bytes(msgspec.json.encode(builds[:WARM_UP_BUILDS]))
    assert jobs >= LEAST_JOBS, f"{jobs} jobs: raise PAGES"
    return jobs, size


def _jobs(build: dict[str, Any]) -> int:
    return sum(job["type"] != "waiter" for job in build["jobs"])

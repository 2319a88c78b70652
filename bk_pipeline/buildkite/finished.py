"""What has finished lately: the sensor's question, cheap enough to ask every minute."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice

from bk_pipeline.buildkite.listing import Sieve, too_deep, wire_time
from bk_pipeline.buildkite.paging import Sheet
from bk_pipeline.buildkite.records import BuildRecord, FinishedBuild, FinishedListing
from bk_pipeline.errors import RequestRefused
from bk_pipeline.window import Window


def finished_params(window: Window, finished_from: datetime) -> dict[str, str]:
    """The query for builds created in `window` that finished at `finished_from` or later.

    Widened to whole seconds. Bounded by `created_to`, so that builds created while one
    reads do not shift the pages.
    """
    before = window.end.replace(microsecond=0)
    if before < window.end:
        before += timedelta(seconds=1)
    return {
        "finished_from": wire_time(finished_from.replace(microsecond=0)),
        "created_from": wire_time(window.start.replace(microsecond=0)),
        "created_to": wire_time(before),
    }


def gather(sheets: Iterator[Sheet], sieve: Sieve, *, max_pages: int) -> FinishedListing:
    """The wanted builds of the first `max_pages` (at least 1) pages; no further one is asked for.

    Builds that are not finished are left out: they went on since they were listed. Cut off
    by depth is cut off, too.
    """
    builds: list[FinishedBuild] = []
    set_aside: list[str] = []
    created: list[int] = []
    read = 0
    cut_off = False
    try:
        for sheet in islice(sheets, max_pages):
            read += 1
            # Whether a page follows that may follow is known once it is asked for.
            cut_off = sheet.more and read == max_pages
            page, listed = sieve.sort(sheet.elements)
            created += [build.created_ns for build in listed]
            set_aside += page.set_aside
            builds += [small for build in page.builds if (small := _finished(build)) is not None]
    except RequestRefused as refused:
        if not too_deep(refused, pages=read):
            raise
        cut_off = True
    return FinishedListing(builds, set_aside, cut_off, oldest_ns=min(created, default=None))


def _finished(build: BuildRecord) -> FinishedBuild | None:
    if build.finished_ns is None:
        return None
    return FinishedBuild(
        build.id, build.number, build.pipeline, build.state, build.created_ns, build.finished_ns
    )

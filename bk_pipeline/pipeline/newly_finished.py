"""Poll for days with newly finished builds, cheaply and in bounded time; for the sensor.

Buildkite lists by creation, newest first. It is enough to find a day once, so where much has
finished, the rest of a day that was found is skipped: a long backlog costs a request or so a
day, not one for each hundred builds. What one poll does not get to is left to the next.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from bk_pipeline.clock import Clock
from bk_pipeline.errors import RetryableError
from bk_pipeline.pipeline.days import OVERLAP
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.window import Window, day_key, day_window

if TYPE_CHECKING:
    from bk_pipeline.buildkite.client import BuildkiteClient
    from bk_pipeline.buildkite.records import FinishedListing

# Pages of 100 builds that are read in full before whole days are skipped.
FIRST_PAGES = 3
# A poll ends after so many listings, or when this time has passed; a request that is then in
# cursor takes `REQUEST_PATIENCE_S` at most for its permit, its attempts and its answer each.
MOST_LISTINGS = 16
MOST_SECONDS = 20.0
REQUEST_PATIENCE_S = 10.0

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Backlog(msgspec.Struct, frozen=True):
    """The rest of a listing that takes several polls: builds created before `below`."""

    began_at: Moment
    below: Moment


class PollCursor(msgspec.Struct, frozen=True):
    """How far the polls have come.

    Builds that finished before `since` are dealt with, and those in `seen` too, which maps a
    build's id to when it finished: a build that finishes again is new again. With a `backlog`,
    all that was created from its `below` on is dealt with as well.
    """

    since: Moment
    seen: dict[str, int] = {}
    backlog: Backlog | None = None


class PollResult(NamedTuple):
    """The result of a poll: where the next one begins, and the days with newly finished builds."""

    cursor: PollCursor
    days: set[str]


def poll(
    client: BuildkiteClient, cursor: PollCursor, *, first_day: str, zone: ZoneInfo, clock: Clock
) -> PollResult:
    """Return the days from `first_day` on with builds that have finished since the last poll.

    Raises:
        RetryableError: Buildkite could not be asked. An error after the first listing ends
            the poll and is not raised: what was found counts.
        FatalError: Buildkite refuses.
    """
    began_at = cursor.backlog.began_at if cursor.backlog else clock.now()
    below = cursor.backlog.below if cursor.backlog else began_at
    start = day_window(first_day, zone).start
    until = clock.monotonic() + MOST_SECONDS
    seen, days = dict(cursor.seen), set[str]()
    pages = 1 if cursor.backlog else FIRST_PAGES
    through = below <= start
    for number in range(MOST_LISTINGS):
        if through or (number and clock.monotonic() >= until):
            break
        try:
            listing = client.iter_finished(
                Window(start, below), finished_from=cursor.since, max_pages=pages
            )
        except RetryableError:
            if not number:
                raise
            break
        for build in listing:
            if seen.get(build.id) != build.finished_ns:
                days.add(day_key(from_ns(build.created_ns), zone))
                seen[build.id] = build.finished_ns
        if listing.cut_off:
            below, pages = _below(listing, below, days, zone), 1
        through = not listing.cut_off or below <= start
    if cursor.backlog is None:
        # In Buildkite's time, which its filters compare with.
        began_at -= client.clock_skew
    since = began_at - OVERLAP
    kept = {build: at for build, at in seen.items() if from_ns(at) >= since.replace(microsecond=0)}
    if through:
        return PollResult(PollCursor(since, kept), days)
    return PollResult(PollCursor(cursor.since, kept, Backlog(began_at, below)), days)


def _below(listing: FinishedListing, before: datetime, days: set[str], zone: ZoneInfo) -> datetime:
    """Where to go on after a truncated `listing` of what was created before `before`.

    The rest of a day that is known (in `days`) is skipped. A second that fills a listing of
    its own cannot be divided: its day is added to `days`.
    """
    oldest = before - timedelta(seconds=1)
    if listing.oldest_ns is not None:
        oldest = from_ns(listing.oldest_ns)
    day = day_key(oldest, zone)
    # The second of the oldest build is read again: others of it may be missing.
    below = oldest.replace(microsecond=0) + timedelta(seconds=1)
    if day not in days and below < before:
        return below
    days.add(day)
    return day_window(day, zone).start

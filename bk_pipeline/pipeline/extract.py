"""Extract: list the builds of a day and store them as Buildkite sent them.

`poll` finds the days with newly finished builds, cheaply and in bounded time; for the sensor.
Buildkite lists by creation, newest first. It is enough to find a day once, so where much has
finished, the rest of a day that was found is skipped: a long backlog costs a request or so a
day, not one for each hundred builds. What one poll does not get to is left to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from bk_pipeline.buildkite.api import Usage
from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.clock import Clock
from bk_pipeline.errors import RetryableError
from bk_pipeline.pipeline.days import OVERLAP, Day, Progress, no_progress, retry_past_damage
from bk_pipeline.pipeline.transform import DEFAULT_PRIVACY, transform_day
from bk_pipeline.spans.model import SpanOptions
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.spans.tree import DEFAULTS
from bk_pipeline.store.compaction import compact
from bk_pipeline.store.raw import PartWriter, RawStore, Revision
from bk_pipeline.store.spans import SpanStore
from bk_pipeline.text import counted
from bk_pipeline.window import Window, day_key, day_window


@dataclass(slots=True)
class Extraction:
    """The result of an extraction.

    Attributes:
        listed: Builds that Buildkite listed.
        stored: Those that were not stored already.
        parts: New raw parts.
        full: Whether the whole day was listed.
        watermark: The day's new watermark; None for a future day.
        usage: Requests made and seconds waited.
        clock_skew: Upper bound of how far our clock is ahead of Buildkite's.
        quarantined: A message for each build that could not be read.
        damaged: A message for each stored file that was damaged.
    """

    listed: int = 0
    stored: int = 0
    parts: int = 0
    full: bool = True
    watermark: datetime | None = None
    usage: Usage = field(default_factory=Usage)
    clock_skew: timedelta = timedelta()
    quarantined: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def extract_day(
    day: Day,
    *,
    client: BuildkiteClient,
    raw: RawStore,
    clock: Clock,
    reconcile: bool = False,
    full_refresh: bool = False,
    privacy: Privacy = DEFAULT_PRIVACY,
    progress: Progress = no_progress,
    result: Extraction | None = None,
) -> Extraction:
    """Store the day's builds that are not stored yet.

    The first run lists the whole day; later ones only what finished since the day's watermark, less
    an overlap. A damaged part is quarantined and the whole day listed again to restore its builds.
    Pages are stored as they arrive, so a killed run loses little. A future day is empty.

    Args:
        day: The day to extract.
        client: The Buildkite API.
        raw: Where builds are stored.
        clock: Gives the time of the listing.
        reconcile: List the whole day again and store what is missing.
        full_refresh: List the whole day again and store all of it.
        privacy: Applied to what is reported of builds that cannot be stored.
        progress: Called after each page.
        result: Updated as builds are listed and stored, so that it is right even if this
            raises. Returned at the end.

    Raises:
        PipelineError: From the client or the store; the watermark is unchanged.
    """
    result = Extraction() if result is None else result
    started_at = clock.now()
    if day.window.start >= started_at:
        return result
    raw.delete_stale_temporaries(now=started_at)

    def prepare() -> tuple[datetime | None, set[Revision], list[str]]:
        # Before anything is added: the parts of earlier runs have been transformed and delivered.
        compact(raw, day.key, now=started_at)
        watermark = raw.watermark(day.key)
        since = watermark - OVERLAP if watermark and not (reconcile or full_refresh) else None
        known = set() if full_refresh else raw.revisions(day.key, finished_from=since)
        return since, known, raw.quarantined(day.key)

    since, known, quarantined = retry_past_damage(prepare, result.damaged)
    result.full = since is None
    before = client.usage
    writer = PartWriter(raw, day.key, fetched_at=started_at)
    for page in client.iter_builds(day.window, finished_from=since):
        result.listed += len(page.builds)
        result.quarantined += map(privacy.describe, page.quarantined)
        writer.add(
            [
                one
                for one in page.builds
                if Revision(one.id, one.finished_ns, one.state) not in known
            ]
        )
        result.stored, result.parts = writer.stored, len(writer.parts)
        listed = counted(result.listed, "build")
        progress(f"{day.key}: {listed} listed, {writer.builds:,} of them new")
    writer.flush()
    result.stored, result.parts = writer.stored, len(writer.parts)
    # In Buildkite's time, which its filters use. If our clock is behind, ours is earlier still.
    watermark = started_at - client.clock_skew
    raw.set_watermark(day.key, watermark, quarantined=quarantined)
    result.watermark, result.clock_skew = watermark, client.clock_skew
    result.usage = client.usage - before
    return result


def restore_day(
    day: Day,
    *,
    connect: Callable[[], BuildkiteClient],
    raw: RawStore,
    spans: SpanStore,
    clock: Clock,
    privacy: Privacy = DEFAULT_PRIVACY,
    options: SpanOptions = DEFAULTS,
    progress: Progress = no_progress,
) -> list[str]:
    """Fetch and rebuild what is missing after damaged files were quarantined.

    Spans keep their ids and rebuilt parts their names, so nothing is sent twice.

    Args:
        day: The day to restore.
        connect: Returns a client; called only if builds must be fetched.
        raw: The raw store.
        spans: The span store.
        clock: Gives the time of the listing.
        privacy: As for `transform_day`.
        options: As for `transform_day`.
        progress: As for `extract_day`.

    Returns:
        A message for each further damaged file.

    Raises:
        PipelineError: From the client or the store. The next run of the day completes the work.
    """

    def transform() -> list[str]:
        made = transform_day(
            day.key,
            raw=raw,
            spans=spans,
            privacy=privacy,
            options=options,
            clock=clock,
            progress=progress,
        )
        return made.damaged

    damaged = transform()
    watermark = retry_past_damage(lambda: raw.watermark(day.key), damaged)
    if watermark is None and raw.quarantined(day.key):
        with connect() as client:
            found = extract_day(
                day, client=client, raw=raw, clock=clock, privacy=privacy, progress=progress
            )
        damaged += [*found.damaged, *transform()]
    return damaged


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

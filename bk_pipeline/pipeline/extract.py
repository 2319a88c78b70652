"""Extract: the builds of a day, as Buildkite sent them, into the raw store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bk_pipeline.buildkite.api import Usage
from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.clock import Clock
from bk_pipeline.pipeline.days import Day, Progress, retry_past_damage, silent
from bk_pipeline.pipeline.transform import EVERYDAY, transform_day
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.store.compaction import compact
from bk_pipeline.store.raw import PartWriter, RawStore, Revision
from bk_pipeline.store.spans import SpanStore
from bk_pipeline.text import counted

# How far behind the watermark a listing begins again: how late a build may show up in it.
OVERLAP = timedelta(minutes=10)


@dataclass(slots=True)
class Extraction:
    """What an extraction found, and what it cost.

    Attributes:
        listed: Builds that Buildkite told of.
        stored: Those that the store did not have already.
        parts: New files.
        full: The whole day was listed.
        watermark: What is known from now on; None for a day that lies ahead.
        usage: Requests made and seconds waited.
        clock_skew: By how much our clock is ahead of Buildkite's, at most.
        quarantined: Why builds had to be left out.
        damaged: What is to be said of stored files that were damaged.
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
    progress: Progress = silent,
    result: Extraction | None = None,
) -> Extraction:
    """Store the day's builds that are not stored yet.

    The first time the whole day is listed, later only what has finished since the day's
    watermark (less an overlap). A damaged part is moved aside, and the whole day listed for the
    sake of its builds. Pages are stored as they come: what a killed run had stored
    is not fetched in vain. A day that lies ahead is empty.

    Args:
        reconcile: List the whole day again, and store what is missing: it mends whatever was
            missed or lost.
        full_refresh: List the whole day again, and store all of it once more.
        result: Updated as builds are listed and stored, so that it is right even if this
            raises. Returned at the end.

    Raises:
        PipelineError: From the client or the store; the watermark is where it was.
    """
    result = Extraction() if result is None else result
    asked_at = clock.now()
    if day.window.start >= asked_at:
        return result
    raw.delete_stale_temporaries(now=asked_at)

    def stored() -> tuple[datetime | None, set[Revision], list[str]]:
        # Before anything is added: what earlier runs added has been transformed and delivered.
        compact(raw, day.key, now=asked_at)
        watermark = raw.watermark(day.key)
        since = watermark - OVERLAP if watermark and not (reconcile or full_refresh) else None
        known = set() if full_refresh else raw.revisions(day.key, finished_from=since)
        return since, known, raw.quarantined(day.key)

    since, known, quarantined = retry_past_damage(stored, result.damaged)
    result.full = since is None
    before = client.usage
    writer = PartWriter(raw, day.key, fetched_at=asked_at)
    for page in client.iter_builds(day.window, finished_from=since):
        result.listed += len(page.builds)
        result.quarantined += page.set_aside
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
    # In Buildkite's time, which its filters compare with. Were our clock slow, ours is earlier.
    watermark = asked_at - client.ahead
    raw.set_watermark(day.key, watermark, quarantined=quarantined)
    result.watermark, result.clock_skew = watermark, client.ahead
    result.usage = client.usage - before
    return result


def restore_day(
    day: Day,
    *,
    connect: Callable[[], BuildkiteClient],
    raw: RawStore,
    spans: SpanStore,
    clock: Clock,
    privacy: Privacy = EVERYDAY,
    progress: Progress = silent,
) -> list[str]:
    """Fetch and make again what is missing since damaged files were moved aside.

    Spans keep their ids and a part that is made again its name, so that nothing is sent twice.

    Args:
        connect: Makes the client, if builds must be fetched.

    Returns:
        What is to be said of further damaged files.

    Raises:
        PipelineError: From the client or the store. The next run of the day takes it up.
    """
    made = transform_day(day.key, raw=raw, spans=spans, privacy=privacy, progress=progress)
    damaged = made.damaged
    watermark = retry_past_damage(lambda: raw.watermark(day.key), damaged)
    if watermark is None and raw.quarantined(day.key):
        with connect() as client:
            found = extract_day(day, client=client, raw=raw, clock=clock, progress=progress)
        more = transform_day(day.key, raw=raw, spans=spans, privacy=privacy, progress=progress)
        damaged += [*found.damaged, *more.damaged]
    return damaged

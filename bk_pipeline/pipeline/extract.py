"""Extract: list the builds of a day and store them as Buildkite sent them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bk_pipeline.buildkite.api import Usage
from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.clock import Clock
from bk_pipeline.pipeline.days import OVERLAP, Day, Progress, no_progress, retry_past_damage
from bk_pipeline.pipeline.transform import DEFAULT_PRIVACY, transform_day
from bk_pipeline.spans.model import SpanOptions
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.tree import DEFAULTS
from bk_pipeline.store.compaction import compact
from bk_pipeline.store.raw import PartWriter, RawStore, Revision
from bk_pipeline.store.spans import SpanStore
from bk_pipeline.text import counted


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

"""Restore: what a day's damaged files held, from Buildkite and from what is left."""

from __future__ import annotations

from collections.abc import Callable

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.clock import Clock
from bk_pipeline.pipeline.days import Day, Progress, despite_damage, silent
from bk_pipeline.pipeline.extract import extract_day
from bk_pipeline.pipeline.transform import EVERYDAY, transform_day
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.store.raw import RawStore
from bk_pipeline.store.spans import SpanStore


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
    watermark = despite_damage(lambda: raw.watermark(day.key), damaged)
    if watermark is None and raw.quarantined(day.key):
        with connect() as client:
            found = extract_day(day, client=client, raw=raw, clock=clock, progress=progress)
        more = transform_day(day.key, raw=raw, spans=spans, privacy=privacy, progress=progress)
        damaged += [*found.damaged, *more.damaged]
    return damaged

"""The sensor: which days have newly finished builds? A run for each of them."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import msgspec

from bk_pipeline.buildkite.records import FinishedBuild
from bk_pipeline.defs.resources import Services
from bk_pipeline.settings import Settings
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.window import day_key, day_keys

PARTITION_TAG = "dagster/partition"

# A build can show up in the listing some time after it finished.
OVERLAP = timedelta(minutes=5)
# Where a sensor that was never on begins.
FIRST_LOOK_BACK = timedelta(hours=1)
# 2,000 builds: a tick must end within a minute. The rest waits for the next tick.
MAX_PAGES = 20

IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


class Cursor(msgspec.Struct):
    """All builds that finished before `since` are dealt with, and those in `seen` too.

    `seen` maps a build's id to when it finished: a build that finishes again is new again.
    """

    since: datetime
    seen: dict[str, int] = {}


def builds_sensor(services: Services, job: Any) -> dg.SensorDefinition:
    """The sensor of `job`. One request to Buildkite a tick while there is little new."""
    zone = services.settings.timezone
    first_day = services.settings.start_date.isoformat()

    @dg.sensor(
        name="builds_sensor",
        job=job,
        minimum_interval_seconds=services.settings.sensor_interval_s,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks Buildkite which days have newly finished builds and requests a run "
        "for each. It needs BUILDKITE_API_TOKEN and BUILDKITE_ORGANIZATION_SLUG.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        asked_at = services.clock.now()
        cursor = _cursor(context.cursor, asked_at)
        with services.buildkite(on_wait=context.log.info) as client:
            listing = client.iter_finished(cursor.since, max_pages=MAX_PAGES)
        new: dict[str, list[FinishedBuild]] = defaultdict(list)
        seen: dict[str, int] = {}
        for build in listing:
            day = day_key(from_ns(build.created_ns), zone)
            if cursor.seen.get(build.id) == build.finished_ns or day < first_day:
                seen[build.id] = build.finished_ns
            else:
                new[day].append(build)
        busy = _days_in_progress(context.instance, job.name) & new.keys()
        since = asked_at - OVERLAP
        for day, builds in new.items():
            if day in busy:
                # Its run may have listed before they finished: they stay new.
                since = min([since, *(from_ns(build.finished_ns) for build in builds)])
            else:
                seen |= {build.id: build.finished_ns for build in builds}
        if listing.cut_off:
            days = _days_between(cursor.since, asked_at, services.settings)
            context.log.info(
                "More than %d pages of builds have finished since %s: every day since is taken.",
                MAX_PAGES,
                cursor.since,
            )
            new |= {day: [] for day in days if day not in new}
        kept = {build: at for build, at in seen.items() if from_ns(at) >= since}
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(partition_key=day, run_key=f"{day} {asked_at.isoformat()}")
                for day in sorted(new.keys() - busy)
            ],
            skip_reason=None if new.keys() - busy else "No build has finished since the last tick.",
            cursor=msgspec.json.encode(Cursor(since, kept)).decode(),
        )

    return sensor


def _cursor(text: str | None, now: datetime) -> Cursor:
    if text:
        return msgspec.json.decode(text, type=Cursor)
    return Cursor(since=now - FIRST_LOOK_BACK)


def _days_in_progress(instance: dg.DagsterInstance, job_name: str) -> set[str]:
    """The days that a run of the job is queued or under way for."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=IN_PROGRESS))
    return {day for run in runs if (day := run.tags.get(PARTITION_TAG))}


def _days_between(first: datetime, last: datetime, settings: Settings) -> Iterable[str]:
    zone = settings.timezone
    start = max(first.astimezone(zone).date(), settings.start_date)
    return day_keys(start, last.astimezone(zone).date())

"""The sensor: which days have newly finished builds? A run for each of them."""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import msgspec

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.defs.failures import as_tick_failures
from bk_pipeline.defs.lost_runs import end_lost_runs
from bk_pipeline.defs.newly_finished import REQUEST_PATIENCE_S, Look, Place, look
from bk_pipeline.defs.resources import Services
from bk_pipeline.defs.wanted_days import WantedDays, take_turns, want
from bk_pipeline.errors import QuotaSpent
from bk_pipeline.window import day_key

# Where a sensor that was never on begins; and one whose cursor cannot be read.
FIRST_LOOK_BACK = timedelta(hours=1)
LOST_LOOK_BACK = timedelta(days=1)
# Before the runs of a backfill or of the night, which nobody is waiting for. One that hangs
# keeps its day from the next, but not for longer than these seconds.
RUN_TAGS = {"dagster/priority": "10", "dagster/max_runtime": "7200"}
NOTHING_NEW = "No build has finished since the last tick."


class Cursor(msgspec.Struct):
    """What one tick leaves to the next."""

    place: Place
    wanted: WantedDays = {}


def builds_sensor(services: Services, job: Any) -> dg.SensorDefinition:
    """The sensor of `job`. One request to Buildkite a tick while there is little new."""

    @dg.sensor(
        name="builds_sensor",
        job=job,
        minimum_interval_seconds=services.settings.sensor_interval_s,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks Buildkite which days have newly finished builds and requests a run "
        "for each. It needs BUILDKITE_API_TOKEN and BUILDKITE_ORGANIZATION_SLUG.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = services.clock.now()
        cursor, lost = _read(context.cursor, now)
        with (
            as_tick_failures(),
            services.buildkite(context.log.info, patience_s=REQUEST_PATIENCE_S) as client,
        ):
            found, behind = _look(client, cursor.place, services)
        ended = end_lost_runs(context.instance)
        want(cursor.wanted, _days_that_exist(found.days, now, services))
        days, waiting = take_turns(cursor.wanted, context.instance, job.name, now=now)
        remarks = [remark for remark in (lost, behind, *ended, *waiting) if remark]
        for remark in remarks:
            context.log.info(remark)
        return dg.SensorResult(
            run_requests=[
                # A key that was there before would be dropped, whatever became of its run.
                dg.RunRequest(f"{day} {now.isoformat()}", partition_key=day, tags=RUN_TAGS)
                for day in days
            ],
            skip_reason=None if days else " ".join(remarks) or NOTHING_NEW,
            cursor=msgspec.json.encode(Cursor(found.place, cursor.wanted)).decode(),
        )

    return sensor


def _read(text: str | None, now: datetime) -> tuple[Cursor, str]:
    """The cursor, and a sentence if it is not what the last tick left."""
    if not text:
        return Cursor(Place(now - FIRST_LOOK_BACK)), ""
    try:
        return msgspec.json.decode(text, type=Cursor), ""
    except msgspec.DecodeError:
        since = now - LOST_LOOK_BACK
        return Cursor(Place(since)), (
            "The cursor could not be read, and is made anew: what has finished since "
            f"{since:%Y-%m-%d %H:%MZ} is looked at again."
        )


def _look(client: BuildkiteClient, place: Place, services: Services) -> tuple[Look, str]:
    """What was found, and a sentence if that is not all. A spent quota finds nothing."""
    try:
        found = look(
            client,
            place,
            first_day=services.settings.start_date.isoformat(),
            zone=services.settings.timezone,
            clock=services.clock,
        )
    except QuotaSpent as spent:
        return Look(place, set()), f"{spent} The next tick asks again."
    if found.place.backlog is None:
        return found, ""
    return found, (
        f"Much has finished since {place.since:%Y-%m-%d %H:%MZ}. The builds created before "
        f"{found.place.backlog.below:%Y-%m-%d %H:%MZ} follow in the next ticks."
    )


def _days_that_exist(days: set[str], now: datetime, services: Services) -> set[str]:
    """Those with a partition: a request for any other would fail the whole tick."""
    first = services.settings.start_date.isoformat()
    today = day_key(now, services.settings.timezone)
    return {day for day in days if first <= day <= today}

"""The sensor: a run for each day that has newly finished builds.

A day has one run at a time: what is noticed while one is in progress waits for its end, since
it may have listed the day before. A run that failed is requested again, less and less often.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import dagster as dg
import msgspec

from bk_pipeline.app import App
from bk_pipeline.defs.daily_asset import as_tick_failures
from bk_pipeline.defs.lost_runs import end_lost_runs
from bk_pipeline.defs.naming import Naming
from bk_pipeline.display import Log, printable
from bk_pipeline.errors import PipelineError, QuotaSpent
from bk_pipeline.pipeline.newly_finished import REQUEST_PATIENCE_S, PollCursor, PollResult, poll
from bk_pipeline.window import day_key

if TYPE_CHECKING:
    from bk_pipeline.buildkite.client import BuildkiteClient

# How far back a sensor looks that was never on, and one whose cursor cannot be read.
FIRST_LOOK_BACK = timedelta(hours=1)
LOST_LOOK_BACK = timedelta(days=1)
# Before the runs of a backfill or of the night, which no one waits for. A run that hangs keeps
# its day from the next, but not for longer than these seconds.
RUN_TAGS = {"dagster/priority": "10", "dagster/max_runtime": "7200"}
NOTHING_NEW = "No build has finished since the last tick."
UNREPORTED = "Active builds are not reported"
PARTITION_TAG = "dagster/partition"
# Runs that one tick requests at most: to start them all takes the daemon time.
MOST_RUNS = 20
# 1, 2, 4, 8 minutes and then every 15: an hour and a quarter before it is left to the night.
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(minutes=15)
MOST_FAILURES = 8

IN_PROGRESS = frozenset(
    {
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    }
)
FAILED = frozenset({dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})


class WantedDay(msgspec.Struct, omit_defaults=True):
    """A day that the sensor wants a run for, until a run of it has succeeded.

    Attributes:
        due: Builds have finished that no run has been requested for yet.
        asked: A run was requested, and its end is not known.
        failures: Runs that failed in a row.
        not_before: After a failure, when to request the next.
    """

    due: bool = False
    asked: bool = False
    failures: int = 0
    not_before: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


WantedDays = dict[str, WantedDay]


class Cursor(msgspec.Struct):
    """What one tick leaves to the next."""

    place: PollCursor
    wanted: WantedDays = {}
    # The pipelines that `active_runs.py` reports, and when each was last active.
    active: dict[str, int] = {}


def builds_sensor(app: App, naming: Naming, job: Any) -> dg.SensorDefinition:
    """Return the sensor of `job`. A tick costs one request while there is little new."""
    nightly = naming.named("nightly_reconcile")

    @dg.sensor(
        name=naming.named("builds_sensor"),
        job=job,
        minimum_interval_seconds=app.settings.sensor_interval_s,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks Buildkite which days have newly finished builds and requests a run "
        "for each. It needs BUILDKITE_API_TOKEN and BUILDKITE_ORGANIZATION_SLUG.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now, log = app.clock.now(), Log(context.log)
        cursor, lost = _read(context.cursor, now)
        with (
            as_tick_failures(),
            app.buildkite(log.info, max_wait_s=REQUEST_PATIENCE_S) as client,
        ):
            found, behind = _poll(client, cursor.place, app)
        active, unreported = _report_active(cursor.active, app, log)
        ended = end_lost_runs(context.instance)
        want(cursor.wanted, _existing(found.days, now, app))
        days, waiting = days_to_run(cursor.wanted, context.instance, job.name, nightly, now=now)
        messages = [message for message in (lost, behind, *unreported, *ended, *waiting) if message]
        for message in messages:
            log.info(message)
        return dg.SensorResult(
            run_requests=[
                # Dagster drops a key that was used before, whatever became of its run.
                dg.RunRequest(f"{day} {now.isoformat()}", partition_key=day, tags=RUN_TAGS)
                for day in days
            ],
            skip_reason=None if days else printable(" ".join(messages)) or NOTHING_NEW,
            cursor=msgspec.json.encode(Cursor(found.cursor, cursor.wanted, active)).decode(),
        )

    return sensor


def _read(text: str | None, now: datetime) -> tuple[Cursor, str]:
    """The cursor, and a message if it is not what the last tick left."""
    if not text:
        return Cursor(PollCursor(now - FIRST_LOOK_BACK)), ""
    try:
        return msgspec.json.decode(text, type=Cursor), ""
    except msgspec.DecodeError:
        since = now - LOST_LOOK_BACK
        return Cursor(PollCursor(since)), (
            "The cursor could not be read, and is made anew: what has finished since "
            f"{since:%Y-%m-%d %H:%MZ} is looked at again."
        )


def _poll(client: "BuildkiteClient", since: PollCursor, app: App) -> tuple[PollResult, str]:
    """The poll result, and a message if it is incomplete. A spent quota finds nothing."""
    try:
        found = poll(
            client,
            since,
            first_day=app.settings.start_date.isoformat(),
            zone=app.settings.timezone,
            clock=app.clock,
        )
    except QuotaSpent as spent:
        return PollResult(since, set()), f"{spent} The next tick asks again."
    if found.cursor.backlog is None:
        return found, ""
    return found, (
        f"Much has finished since {since.since:%Y-%m-%d %H:%MZ}. The builds created before "
        f"{found.cursor.backlog.below:%Y-%m-%d %H:%MZ} follow in the next ticks."
    )


def _report_active(
    last_active: dict[str, int], app: App, log: Log
) -> tuple[dict[str, int], list[str]]:
    """Send the number of active builds, if the settings ask for it.

    Returns:
        The pipelines to report next time, and a message for each failure. Nothing is raised: these
        numbers matter less than the runs that the sensor is there to request.
    """
    if not app.settings.sensor_active_runs:
        return {}, []
    try:
        return app.report_active_runs(last_active, log.info)
    except PipelineError as exc:
        return last_active, [f"{UNREPORTED}: {exc}"]
    except Exception as exc:  # noqa: BLE001  # see above; its text may quote a payload
        return last_active, [f"{UNREPORTED}: {type(exc).__name__}."]


def _existing(days: set[str], now: datetime, app: App) -> set[str]:
    """Those with a partition: a request for any other would fail the whole tick."""
    first = app.settings.start_date.isoformat()
    today = day_key(now, app.settings.timezone)
    return {day for day in days if first <= day <= today}


def want(wanted: WantedDays, days: Iterable[str]) -> None:
    """Note that builds of `days` have finished."""
    for day in days:
        wanted.setdefault(day, WantedDay()).due = True


def days_to_run(
    wanted: WantedDays, instance: dg.DagsterInstance, job_name: str, nightly: str, *, now: datetime
) -> tuple[list[str], list[str]]:
    """Return the days to request a run for, newest first, and a message on each that must wait.

    Takes in how earlier runs ended: days that are done leave `wanted`, and so do days whose
    runs failed too often, which are left to the schedule `nightly`.
    """
    ready: list[str] = []
    messages: list[str] = []
    for day in sorted(wanted, reverse=True):
        one = wanted[day]
        status = _newest_status(instance, job_name, day)
        if status in IN_PROGRESS:
            if one.due:
                messages.append(f"{day} waits for its run that is in progress.")
            continue
        if one.asked:
            messages.append(_settle(day, one, nightly, failed=status in FAILED, now=now))
        if not one.due:
            del wanted[day]
        elif (one.not_before is None or one.not_before <= now) and len(ready) < MOST_RUNS:
            ready.append(day)
            one.due, one.asked = False, True
    return ready, [message for message in messages if message]


def _settle(day: str, one: WantedDay, nightly: str, *, failed: bool, now: datetime) -> str:
    """Take in that the run of `day` has ended; return a message if it failed."""
    one.asked, one.not_before = False, None
    if not failed:
        one.failures = 0
        return ""
    one.failures += 1
    # Builds that have finished since are a reason of their own to go on.
    if one.failures >= MOST_FAILURES and not one.due:
        return (
            f"{day}: {one.failures} runs in a row have failed or were canceled. It is left to "
            f"{nightly}; the last run says why."
        )
    one.due = True
    one.not_before = now + min(FIRST_PAUSE * 2 ** min(one.failures - 1, 10), LONGEST_PAUSE)
    return (
        f"{day}: its run failed or was canceled ({one.failures} in a row). Another is requested "
        f"from {one.not_before:%H:%M:%SZ} on."
    )


def _newest_status(
    instance: dg.DagsterInstance, job_name: str, day: str
) -> dg.DagsterRunStatus | None:
    filters = dg.RunsFilter(job_name=job_name, tags={PARTITION_TAG: day})
    newest = instance.get_runs(filters, limit=1)
    return newest[0].status if newest else None

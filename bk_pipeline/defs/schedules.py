"""The schedules.

Each night the last days are reconciled and then checked. Each hour the statistics follow the
spans: they are made of the whole day, so they are not part of the runs that fetch ten new builds.
Each night the last 30 days are searched for changes and reported on.
"""

from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import dagster as dg

from bk_pipeline import pipeline
from bk_pipeline.app import App
from bk_pipeline.defs.daily_asset import as_tick_failures
from bk_pipeline.defs.lost_runs import end_lost_runs
from bk_pipeline.defs.naming import Naming
from bk_pipeline.deliver.destinations import Configured
from bk_pipeline.display import Log
from bk_pipeline.errors import NoLedger
from bk_pipeline.window import day_keys

# Past the hours that summer time skips or repeats, and past other people's midnight jobs.
RECONCILE_CRON = "15 4 * * *"
AUDIT_CRON = "15 5 * * *"  # an hour after nightly_reconcile
CHANGES_CRON = "45 5 * * *"  # after nightly_reconcile
STATS_CRON = "5 * * * *"
# After the runs of the sensor, which people may be waiting for.
RUN_TAGS = {"dagster/priority": "-10"}
# How far back statistics are made again: builds that are unblocked or retried later are rare.
STATS_DAYS = 7
# How far back the nightly schedule looks for builds that have settled since.
HELD_BACK_DAYS = 60


def nightly_reconcile(app: App, naming: Naming, job: Any) -> dg.ScheduleDefinition:
    """Return the schedule of `job`. It spends the token's quota, so it is off at first."""
    settings = app.settings
    run_config = {"ops": {naming.op("raw_builds"): {"config": {"reconcile": True}}}}

    # By hand: Dagster's schedule for partitioned jobs would take today, which is not over.
    @dg.schedule(
        name=naming.named("nightly_reconcile"),
        job=job,
        cron_schedule=RECONCILE_CRON,
        execution_timezone=settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Lists the last {settings.nightly_days} complete days again "
        "(BK_PIPELINE_NIGHTLY_DAYS), stores and delivers what is missing. Where nothing is, it "
        "costs the listing alone. With BK_PIPELINE_SPANS_EXPORT=settled, also the days of the "
        f"last {HELD_BACK_DAYS} that have builds to settle.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        night = context.scheduled_execution_time.astimezone(settings.timezone).date()
        first = max(night - timedelta(days=settings.nightly_days), settings.start_date)
        days = day_keys(first, night - timedelta(days=1))
        before = max(night - timedelta(days=HELD_BACK_DAYS), settings.start_date)
        with as_tick_failures():
            days = [*_held_back(app, day_keys(before, first - timedelta(days=1))), *days]
        if not days:
            return dg.SkipReason(
                f"No day from BK_PIPELINE_START_DATE ({settings.start_date}) on is complete yet."
            )
        return [
            dg.RunRequest(f"{day} {night}", partition_key=day, run_config=run_config, tags=RUN_TAGS)
            for day in reversed(days)
        ]

    return schedule


def _held_back(app: App, days: list[str]) -> list[str]:
    """Those of `days` with builds that had not settled when their spans were made."""
    raw, spans, privacy, options = app.raw(), app.spans(), app.privacy(), app.span_options()
    if options.settled_after_s is None:
        return []
    return [
        day
        for day in days
        if pipeline.holds_back_builds(day, raw=raw, spans=spans, privacy=privacy, options=options)
    ]


def hourly_stats(app: App, naming: Naming, job: Any) -> dg.ScheduleDefinition:
    """Return the schedule of `job`. It reads local files only, so it is on from the start."""
    settings = app.settings

    @dg.schedule(
        name=naming.named("hourly_stats"),
        job=job,
        cron_schedule=STATS_CRON,
        execution_timezone=settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Makes build_stats anew for those of the last {STATS_DAYS} days whose spans have "
        "changed. If there are rules for deployments, also deployments, for those whose own spans "
        "or spans of the 30 days before have changed, and sends metrics of them that were not "
        "sent. Reads the span table and nothing else. Ends runs whose process is gone.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        for message in end_lost_runs(context.instance):
            Log(context.log).info(message)
        now = context.scheduled_execution_time
        today = now.astimezone(settings.timezone).date()
        first = max(today - timedelta(days=STATS_DAYS - 1), settings.start_date)
        with as_tick_failures():
            stale = _stale_reports(app, day_keys(first, today))
        if not stale:
            return dg.SkipReason("No day has spans that its statistics were not made of.")
        return [
            dg.RunRequest(
                f"{day} {now.isoformat()}",
                partition_key=day,
                tags=RUN_TAGS,
                asset_selection=[naming.key(name) for name in names],
            )
            for day, names in stale.items()
        ]

    return schedule


def _stale_reports(app: App, days: list[str]) -> dict[str, list[str]]:
    """Return the reports to make anew, by day.

    The newest day is first, unless there are deployments, which are counted in the order of time.
    """
    spans, stats = app.spans(), app.stats()
    found: dict[str, list[str]] = {}
    for day in days:
        if pipeline.stats_are_stale(day, spans=spans, stats=stats):
            found.setdefault(day, []).append("build_stats")
    if app.settings.deployments is None:
        return dict(sorted(found.items(), reverse=True))
    counted = app.deployment_metrics()
    stale = pipeline.days_with_stale_deployments(days, spans=spans, stats=stats)
    for day in stale:
        found.setdefault(day, []).extend(["deployments", *(one.asset for one in counted)])
    left = [day for day in days if day not in stale]
    for one in counted:
        for day in _uncounted(app, one, left):
            found.setdefault(day, []).append(one.asset)
    return dict(sorted(found.items()))


def _uncounted(app: App, target: Configured, days: list[str]) -> list[str]:
    """Those of `days` with deployments that were not sent, for example because a run failed."""
    with app.destination(target) as to, ExitStack() as opened:
        try:
            ledger = opened.enter_context(app.ledger(create=False))
        except NoLedger:
            ledger = None
        return pipeline.uncounted_days(days, stats=app.stats(), destination=to, ledger=ledger)


def nightly_changes(app: App, naming: Naming, job: Any) -> dg.ScheduleDefinition:
    """Return the schedule of `job`. It reads stored files only, so it is on from the start."""
    settings = app.settings

    @dg.schedule(
        name=naming.named("nightly_changes"),
        job=job,
        cron_schedule=CHANGES_CRON,
        execution_timezone=settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Looks for changes in the 30 days that end with the last complete day, and reports on "
        "the week and the month, if their spans have changed. Reads the span table and nothing else.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        night = context.scheduled_execution_time.astimezone(settings.timezone).date()
        day = (night - timedelta(days=1)).isoformat()
        if day < settings.start_date.isoformat():
            return dg.SkipReason(f"{day} is before BK_PIPELINE_START_DATE ({settings.start_date}).")
        with as_tick_failures():
            if not pipeline.changes_are_stale(day, spans=app.spans(), stats=app.stats()):
                return dg.SkipReason("The spans of the last 30 days are as they were.")
        return dg.RunRequest(f"{day} {night}", partition_key=day, tags=RUN_TAGS)

    return schedule


def nightly_audit(app: App, naming: Naming, job: Any) -> dg.ScheduleDefinition:
    """Return the schedule of `job`. Off at first, as what it checks is."""
    return dg.ScheduleDefinition(
        name=naming.named("nightly_audit"),
        job=job,
        cron_schedule=AUDIT_CRON,
        execution_timezone=app.settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Executes the checks of raw_builds and spans for the last "
        f"{app.settings.nightly_days} complete days (BK_PIPELINE_NIGHTLY_DAYS): is everything "
        "there that Buildkite lists, and is it sound? Costs a request for 100 builds.",
    )

"""The schedules.

Each night the last days are read again, so that whatever was missed is mended. Each hour the
statistics follow the spans: they are made of the whole day, and so are no part of the runs
that fetch ten new builds.
"""

from datetime import timedelta
from typing import Any

import dagster as dg

from bk_pipeline.defs.lost_runs import end_lost_runs
from bk_pipeline.defs.resources import Services
from bk_pipeline.pipeline import holds_back_builds, stats_are_stale
from bk_pipeline.window import day_keys

# A quarter past four: past the hours that summer time takes or repeats, and past midnight's
# crowd of other people's jobs.
CRON = "15 4 * * *"
# After the runs of the sensor, which somebody may be waiting for.
RUN_TAGS = {"dagster/priority": "-10"}
STATS_CRON = "5 * * * *"
# How far back statistics are looked at: builds that are unblocked or retried later are rare.
STATS_DAYS = 7
# How far back the nightly schedule looks for builds that have settled since.
HELD_BACK_DAYS = 60
RUN_CONFIG = {"ops": {"raw_builds": {"config": {"reread": True}}}}


def nightly_reread(services: Services, job: Any) -> dg.ScheduleDefinition:
    """The schedule of `job`. Off until it is switched on: it spends the token's quota."""
    settings = services.settings

    # By hand: Dagster's schedule for partitioned jobs would take today, which is not over.
    @dg.schedule(
        name="nightly_reread",
        job=job,
        cron_schedule=CRON,
        execution_timezone=settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Lists the last {settings.nightly_days} complete days again "
        "(BK_PIPELINE_NIGHTLY_DAYS), stores and delivers what is missing. Where nothing is, it "
        "costs the listing alone. With BK_PIPELINE_SPANS_EXPORT=settled, also the days of the "
        f"last {HELD_BACK_DAYS} that have builds to settle.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        night = context.scheduled_execution_time.astimezone(settings.timezone).date()
        first = max(night - timedelta(days=settings.nightly_days), settings.start_date)
        days = day_keys(first, night - timedelta(days=1))
        spans, privacy, options = services.spans(), services.privacy(), services.span_options()
        before = max(night - timedelta(days=HELD_BACK_DAYS), settings.start_date)
        if options.settled_after_s is not None:
            days = [
                day
                for day in day_keys(before, first - timedelta(days=1))
                if holds_back_builds(day, spans=spans, privacy=privacy, options=options)
            ] + days
        if not days:
            return dg.SkipReason(
                f"No day from BK_PIPELINE_START_DATE ({settings.start_date}) on is complete yet."
            )
        return [
            dg.RunRequest(f"{day} {night}", partition_key=day, run_config=RUN_CONFIG, tags=RUN_TAGS)
            for day in reversed(days)
        ]

    return schedule


def hourly_stats(services: Services, job: Any) -> dg.ScheduleDefinition:
    """The schedule of `job`. On from the start: it asks nobody and costs what has changed."""
    settings = services.settings

    @dg.schedule(
        name="hourly_stats",
        job=job,
        cron_schedule=STATS_CRON,
        execution_timezone=settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Makes build_stats anew for those of the last {STATS_DAYS} days whose spans "
        "have changed. Reads the span table and nothing else. Ends runs whose process is gone.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        for line in end_lost_runs(context.instance):
            context.log.info(line)
        now = context.scheduled_execution_time
        today = now.astimezone(settings.timezone).date()
        first = max(today - timedelta(days=STATS_DAYS - 1), settings.start_date)
        spans, stats = services.spans(), services.stats()
        stale = [
            day
            for day in reversed(day_keys(first, today))
            if stats_are_stale(day, spans=spans, stats=stats)
        ]
        if not stale:
            return dg.SkipReason("No day has spans that its statistics were not made of.")
        return [
            dg.RunRequest(f"{day} {now.isoformat()}", partition_key=day, tags=RUN_TAGS)
            for day in stale
        ]

    return schedule

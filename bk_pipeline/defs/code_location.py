"""Everything that Dagster is told of, made for one set of settings."""

import dagster as dg

from bk_pipeline.defs.assets import assets_of
from bk_pipeline.defs.audits import audits, nightly_audit
from bk_pipeline.defs.lost_runs import hold
from bk_pipeline.defs.resources import Services
from bk_pipeline.defs.schedules import hourly_stats, nightly_reread
from bk_pipeline.defs.sensors import builds_sensor
from bk_pipeline.settings import Settings

# A process a step costs 11 s where a run takes 5.6: the steps share one.
EXECUTOR = dg.in_process_executor


def code_location(settings: Settings, services: Services | None = None) -> dg.Definitions:
    """The definitions for `settings`. Connects to nothing."""
    services = services or Services(settings)
    assets = assets_of(settings)
    audited = dg.AssetSelection.checks(*audits())
    sync = dg.define_asset_job(
        "sync_day",
        selection=dg.AssetSelection.assets(*assets)
        - dg.AssetSelection.assets("build_stats")
        - audited,
        description="One day, from Buildkite to every destination.",
        executor_def=EXECUTOR,
    )
    refresh = dg.define_asset_job(
        "refresh_stats",
        selection=dg.AssetSelection.assets("build_stats"),
        description="One day's statistics, made of the span table.",
        executor_def=EXECUTOR,
    )
    audit = dg.define_asset_job(
        "audit_days",
        selection=audited,
        description="Is all there that Buildkite lists, and is it sound?",
        executor_def=EXECUTOR,
    )
    return dg.Definitions(
        assets=assets,
        asset_checks=audits(),
        jobs=[sync, refresh, audit],
        sensors=[builds_sensor(services, sync)],
        schedules=[
            nightly_reread(services, sync),
            hourly_stats(services, refresh),
            nightly_audit(services, audit),
        ],
        resources={"services": dg.ResourceDefinition(lambda context: _at_work(context, services))},
        executor=EXECUTOR,
    )


def _at_work(context: dg.InitResourceContext, services: Services) -> Services:
    """`services`, for a run: whose process is known from here on, before its first step."""
    if context.instance is not None and context.run is not None:
        hold(context.instance, context.run.run_id)
    return services

"""All definitions of one pipeline."""

import dagster as dg

from bk_pipeline.app import App
from bk_pipeline.defs.assets import NIGHTLY, assets_of, report_names, selection
from bk_pipeline.defs.checks import audits
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import resources_of
from bk_pipeline.defs.schedules import (
    hourly_stats,
    nightly_audit,
    nightly_changes,
    nightly_reconcile,
)
from bk_pipeline.defs.sensors import builds_sensor


def build_definitions(app: App, naming: Naming | None = None) -> dg.Definitions:
    """Return the definitions of `app`. Connects to nothing.

    No executor is set: the code location that embeds the pipeline chooses it.

    Args:
        app: What the assets, schedules and the sensor work with.
        naming: Names and labels. Default: those of the settings.
    """
    naming = naming or Naming.of(app.settings)
    assets, checks = assets_of(app, naming), audits(naming)
    audited = dg.AssetSelection.checks(*checks)
    changes = selection(assets, naming, NIGHTLY)
    stats = selection(assets, naming, report_names(app))
    sync = dg.define_asset_job(
        naming.named("sync_day"),
        selection=dg.AssetSelection.assets(*assets) - stats - changes - audited,
        description="One day, from Buildkite to every destination.",
    )
    refresh = dg.define_asset_job(
        naming.named("refresh_stats"),
        selection=stats,
        description="One day's statistics, made of the span table.",
    )
    find = dg.define_asset_job(
        naming.named("find_changes"),
        selection=changes,
        description="What changed in the 30 days that end with one day, its markers, and the "
        "reports of the week and the month.",
    )
    audit = dg.define_asset_job(
        naming.named("audit_days"),
        selection=audited,
        description="Is everything there that Buildkite lists, and is it sound?",
    )
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[sync, refresh, find, audit],
        sensors=[builds_sensor(app, naming, sync)],
        schedules=[
            nightly_reconcile(app, naming, sync),
            hourly_stats(app, naming, refresh),
            nightly_changes(app, naming, find),
            nightly_audit(app, naming, audit),
        ],
        resources=resources_of(app, naming),
    )

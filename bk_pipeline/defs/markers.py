"""The asset honeycomb_markers: builds and jobs that rules name, as lines on Honeycomb's graphs."""

import dagster as dg

from bk_pipeline.defs.daily_asset import (
    DayConfig,
    Metadata,
    Result,
    daily_asset,
    each_day,
    step_log,
)
from bk_pipeline.defs.failures import as_dagster_failures
from bk_pipeline.defs.resources import Services
from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.honeycomb.placing import Placement
from bk_pipeline.pipeline import Day, place_markers
from bk_pipeline.settings import Settings

# A dataset must be there before anything can be marked in it; its first events make it.
DATASETS_FROM = "honeycomb_events"


def markers_of(settings: Settings) -> list[dg.AssetsDefinition]:
    """The asset, if a file of rules is named."""
    if settings.markers is None:
        return []
    loaders = [one.asset for one in destinations(settings) if one.asset == DATASETS_FROM]

    @daily_asset(settings, kinds={"honeycomb"}, deps=["spans", *loaders])
    def honeycomb_markers(
        context: dg.AssetExecutionContext, config: DayConfig, services: dg.ResourceParam[Services]
    ) -> Result:
        """The day's markers: deploys, failed builds, or whatever the rules file names.

        Each is placed once, and changed if its build resumed. `full_refresh` considers the
        whole day again. `bk-pipeline markers` shows, applies and prunes.
        """

        def mark(day: Day) -> Metadata:
            before = marking.client.request_count
            placed = place_markers(
                day.key,
                marking,
                whole=config.full_refresh,
                progress=log.progress,
                on_wait=log.wait,
                result=services.results.begin("honeycomb_markers", day.key, Placement()),
            )
            return {
                "created": placed.created,
                "found again": placed.recovered,
                "changed": placed.changed,
                "as they should be": placed.unchanged,
                "deleted in Honeycomb": placed.missing,
                "too old": placed.too_old,
                "requests": marking.client.request_count - before,
                "dagster/partition_row_count": len(
                    marking.ledger.markers.placed(marking.client.name, day=day.key)
                ),
            }

        with step_log(context, services) as log:
            with as_dagster_failures(retries=services.retries):
                marking = services.marking(log.wait)
            each_day(context, services, mark)
        return dg.MaterializeResult()

    return [honeycomb_markers]

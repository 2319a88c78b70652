"""The asset build_stats: what a day's builds come to, as Parquet and for people to read."""

import dagster as dg

from bk_pipeline.defs.daily_asset import Metadata, Result, daily_asset, each_day
from bk_pipeline.defs.resources import Services
from bk_pipeline.pipeline import Day, summarize_day
from bk_pipeline.settings import Settings
from bk_pipeline.stats.columns import PIPELINES


def build_stats(settings: Settings) -> dg.AssetsDefinition:
    """The asset of these settings."""

    @daily_asset(settings, kinds={"pandas", "parquet"}, deps=["spans"])
    def build_stats(
        context: dg.AssetExecutionContext, services: dg.ResourceParam[Services]
    ) -> Result:
        """What the day's builds come to, per pipeline, step and agent queue.

        Failure rates, how long builds take and wait (p50, p90, p99), retries, flaky steps,
        agent minutes, queues. Three tables of a file a day under `stats/` in the data
        directory; docs/stats.md says what each number means.
        """

        def summarize(day: Day) -> Metadata:
            # Here, because pandas and matplotlib take seconds to load where time is short.
            from bk_pipeline.defs.previews import stats_preview  # noqa: PLC0415

            found = summarize_day(day.key, spans=services.spans(), stats=services.stats())
            return stats_preview(found)

        each_day(context, services, summarize)
        return dg.MaterializeResult()

    return build_stats


def column_schema() -> dg.TableSchema:
    """The main table's columns, as Dagster shows them."""
    return dg.TableSchema(
        [
            dg.TableColumn(one.name, type=str(one.type), description=one.meaning)
            for one in PIPELINES.columns
        ]
    )

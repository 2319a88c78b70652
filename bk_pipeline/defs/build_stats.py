"""The asset build_stats: what a day's builds come to, as Parquet and for people to read."""

import dagster as dg

from bk_pipeline.analysis.columns import PIPELINES
from bk_pipeline.defs.columns import stats_columns
from bk_pipeline.defs.daily_asset import REPORTS, Metadata, Result, daily_asset, each_day
from bk_pipeline.defs.links import trace_links
from bk_pipeline.defs.resources import Services
from bk_pipeline.pipeline import Day, summarize_day
from bk_pipeline.settings import Settings


def build_stats(settings: Settings) -> dg.AssetsDefinition:
    """The asset of these settings."""

    @daily_asset(
        settings,
        kinds={"pandas", "parquet"},
        deps=["spans"],
        columns=stats_columns(PIPELINES),
        priority=REPORTS,  # spans are delivered first
    )
    def build_stats(
        context: dg.AssetExecutionContext, services: dg.ResourceParam[Services]
    ) -> Result:
        """What the day's builds come to, per pipeline, step and agent queue.

        Failure rates, how long builds take and wait (p50, p90, p99), retries, flaky steps,
        agent minutes, queues. Three tables of a file a day under `stats/` in the data
        directory; docs/stats.md says what each number means.
        """
        link_of = trace_links(services, on_trouble=context.log.warning)

        def summarize(day: Day) -> Metadata:
            # Here, because pandas and matplotlib take seconds to load where time is short.
            from bk_pipeline.defs.previews import stats_preview  # noqa: PLC0415

            found = summarize_day(day.key, spans=services.spans(), stats=services.stats())
            return stats_preview(
                found,
                day.window,
                services.settings.timezone,
                spans_of=lambda trace_id: services.trace(trace_id, day.key),
                link_of=link_of,
            )

        each_day(context, services, summarize)
        return dg.MaterializeResult()

    return build_stats

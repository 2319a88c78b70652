"""The assets: raw_builds, then spans, then one for each destination that is configured."""

import warnings

import dagster as dg

from bk_pipeline.defs.build_stats import build_stats
from bk_pipeline.defs.checks import (
    EVERYTHING_ACCEPTED,
    NOTHING_SET_ASIDE,
    SHOWN,
    everything_accepted,
    judged,
    nothing_set_aside,
)
from bk_pipeline.defs.columns import span_columns
from bk_pipeline.defs.daily_asset import (
    DayConfig,
    LoaderConfig,
    Metadata,
    Result,
    daily_asset,
    each_day,
    step_log,
)
from bk_pipeline.defs.failures import as_dagster_failures
from bk_pipeline.defs.markers import markers_of
from bk_pipeline.defs.resources import Services
from bk_pipeline.deliver.delivery import Delivery
from bk_pipeline.deliver.destinations import Configured, destinations
from bk_pipeline.errors import UNNAMED
from bk_pipeline.pipeline import (
    Day,
    Extraction,
    Transformation,
    deliver_day,
    extract_day,
    stored_summary,
    transform_day,
)
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted

# Who reads from Buildkite shares one token's quota: dagster.yaml says how many may at once.
BUILDKITE_POOL = "buildkite_api"


def assets_of(settings: Settings) -> list[dg.AssetsDefinition]:
    """The assets that these settings make possible: a loader for each destination they name."""
    with warnings.catch_warnings():
        # Backfill policies are in beta in Dagster 1.13; to say so at each start helps nobody.
        warnings.simplefilter("ignore", dg.BetaWarning)
        loaders = [_loader(settings, one) for one in destinations(settings)]
        first = [_raw_builds(settings), _spans(settings), build_stats(settings)]
        return [*first, *loaders, *markers_of(settings)]


def _raw_builds(settings: Settings) -> dg.AssetsDefinition:
    @daily_asset(settings, kinds={"buildkite", "parquet"}, pool=BUILDKITE_POOL)
    def raw_builds(
        context: dg.AssetExecutionContext, config: DayConfig, services: dg.ResourceParam[Services]
    ) -> Result:
        """The day's builds as Buildkite sent them.

        The first run of a day lists all of it; later ones ask only for what has finished
        since. `reread` lists the whole day again and stores what is missing, `full_refresh`
        stores all of it once more.
        """

        def extract(day: Day) -> Metadata:
            with services.buildkite(on_wait=log.wait) as client:
                found = extract_day(
                    day,
                    client=client,
                    raw=services.raw(),
                    clock=services.clock,
                    reconcile=config.reread,
                    privacy=services.privacy(),
                    full_refresh=config.full_refresh,
                    progress=log.progress,
                    result=services.results.begin("raw_builds", day.key, Extraction()),
                )
            return {
                "builds listed": found.listed,
                "builds stored": found.stored,
                "new parts": found.parts,
                "whole day": found.full,
                "requests": found.usage.requests,
                "seconds waited": round(found.usage.waited_s),
                "seconds our clock is ahead": round(found.clock_skew.total_seconds()),
                "set aside": found.quarantined,
                "damaged files": found.damaged,
                "dagster/partition_row_count": found.stored,
            }

        with step_log(context, services) as log:
            each_day(context, services, extract)
        return dg.MaterializeResult()

    return raw_builds


def _spans(settings: Settings) -> dg.AssetsDefinition:
    @daily_asset(
        settings,
        kinds={"parquet", "opentelemetry"},
        deps=["raw_builds"],
        check=nothing_set_aside("spans"),
        columns=span_columns(),
    )
    def spans(
        context: dg.AssetExecutionContext, config: DayConfig, services: dg.ResourceParam[Services]
    ) -> Result:
        """The span table: one trace a build, with its stages, groups, steps and jobs."""
        quarantined: list[str] = []

        def transform(day: Day) -> Metadata:
            made = transform_day(
                day.key,
                raw=services.raw(),
                spans=services.spans(),
                privacy=services.privacy(),
                options=services.span_options(),
                clock=services.clock,
                full_refresh=config.full_refresh,
                progress=log.progress,
                result=services.results.begin("spans", day.key, Transformation()),
            )
            if made.damaged:
                made.damaged.extend(services.restore(day, on_wait=log.wait))
            stored = stored_summary(day.key, spans=services.spans())
            reasons = [f"{one.build_id or UNNAMED}: {one.reason}" for one in stored.quarantined]
            quarantined.extend(f"{day.key}: {reason}" for reason in reasons)
            return {
                "builds": made.summary.builds,
                "traces": made.summary.traces,
                "not finished yet": made.summary.unfinished,
                "skipped": made.summary.skipped,
                "not settled yet": made.summary.held_back,
                "jobs": made.summary.jobs,
                "times adjusted": made.summary.time_adjusted,
                "set aside": len(reasons),
                "reasons": reasons[:SHOWN],
                "new parts": made.parts,
                "new spans": made.summary.spans,
                "damaged files": made.damaged,
                "dagster/partition_row_count": stored.spans,
            }

        with step_log(context, services) as log:
            each_day(context, services, transform)
        return dg.MaterializeResult(check_results=[judged(NOTHING_SET_ASIDE, quarantined)])

    return spans


def _loader(settings: Settings, target: Configured) -> dg.AssetsDefinition:
    @daily_asset(
        settings,
        name=target.asset,
        description=f"{target.description} What was accepted stands in the ledger: running this "
        "again sends only what is new.",
        kinds={target.kind},
        deps=["spans"],
        check=everything_accepted(target.asset),
    )
    def loader(
        context: dg.AssetExecutionContext,
        config: LoaderConfig,
        services: dg.ResourceParam[Services],
    ) -> Result:
        with as_dagster_failures(retries=services.retries):
            destination, ledger = target.open(services.clock), services.ledger()
        rejected: list[str] = []

        def load(day: Day) -> Metadata:
            done = deliver_day(
                day.key,
                spans=services.spans(),
                destination=destination,
                ledger=ledger,
                clock=services.clock,
                policy=services.delivery_policy(),
                resend=config.resend,
                progress=log.progress,
                on_wait=log.wait,
                result=services.results.begin(target.asset, day.key, Delivery()),
            )
            if done.rejected:
                reasons = "; ".join({one.reason for one in done.rejections})
                rejected.append(f"{day.key}: {counted(done.rejected, 'event')}: {reasons}")
            if done.rejected_unnamed:
                rejected.append(f"{day.key}: {done.rejected_unnamed:,}, not said which")
            return {
                "destination": destination.name,
                "accepted": done.accepted,
                "rejected": done.rejected,
                "reasons of rejection": [one.reason for one in done.rejections],
                "rejected, not said which": done.rejected_unnamed,
                "sent again after a crash": done.in_doubt_resent,
                "settled before": done.already_settled,
                "too old": done.too_old,
                "age limit": destination.max_age_description,
                "trimmed": done.trimmed,
                "remarks": done.warnings,
                "requests": done.batches,
                "dagster/partition_row_count": done.accepted,
            }

        with step_log(context, services) as log:
            each_day(context, services, load)
        return dg.MaterializeResult(check_results=[judged(EVERYTHING_ACCEPTED, rejected)])

    return loader

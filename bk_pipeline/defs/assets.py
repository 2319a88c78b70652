"""The assets: raw builds, spans, statistics, and one for each configured destination."""

import warnings
from collections.abc import Sequence

import dagster as dg

from bk_pipeline import pipeline
from bk_pipeline.analysis.columns import CHANGES, DEPLOYMENTS, PIPELINES
from bk_pipeline.app import App
from bk_pipeline.defs import checks, metadata
from bk_pipeline.defs.daily_asset import (
    ExtractConfig,
    LoaderConfig,
    MarkersConfig,
    Result,
    TransformConfig,
    daily_asset,
    daily_run,
)
from bk_pipeline.defs.naming import Naming
from bk_pipeline.deliver.delivery import Delivery
from bk_pipeline.deliver.destinations import Configured
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings
from bk_pipeline.spans.fields import INSIDE, OF_BUILD

# A dataset must exist before anything can be marked in it; its first events create it.
DATASETS_FROM = "honeycomb_events"
# Reports are made when spans have been delivered.
REPORTS_PRIORITY = -1


def assets_of(app: App, naming: Naming) -> list[dg.AssetsDefinition]:
    """Return the assets of these settings: a loader for each destination they configure."""
    settings, configured = app.settings, app.destinations()
    with warnings.catch_warnings():
        # Backfill policies are in beta in Dagster 1.13; a warning at each start does not help.
        warnings.simplefilter("ignore", dg.BetaWarning)
        assets = [
            raw_builds(settings, naming),
            spans(settings, naming),
            build_stats(settings, naming),
            changes(settings, naming),
            build_report(settings, naming),
            *(loader(settings, naming, one) for one in configured),
        ]
        if settings.job_details is not None:
            assets.append(job_details(settings, naming))
        if settings.deployments is not None:
            assets.append(deployments(settings, naming))
            counted = app.deployment_metrics()
            assets += [deployment_metrics(settings, naming, one) for one in counted]
        if settings.markers is not None:
            loaders = [one.asset for one in configured if one.asset == DATASETS_FROM]
            assets.append(honeycomb_markers(settings, naming, after=loaders))
            assets.append(regression_markers(settings, naming))
    return assets


def report_names(app: App) -> list[str]:
    """Return the names of the reports, which are made of whole days and not with each new build."""
    return ["build_stats", "deployments", *(one.asset for one in app.deployment_metrics())]


# Made once a night, not with each day: they are about the 30 days that end with it.
NIGHTLY = ("changes", "regression_markers", "build_report")


def selection(
    assets: Sequence[dg.AssetsDefinition], naming: Naming, names: Sequence[str]
) -> dg.AssetSelection:
    """Return the selection of those assets of these names that there are."""
    keys = {naming.key(name) for name in names} & {one.key for one in assets}
    return dg.AssetSelection.assets(*sorted(keys))


def raw_builds(settings: Settings, naming: Naming) -> dg.AssetsDefinition:
    """Return the asset of builds as Buildkite sent them."""

    @daily_asset(settings, naming, "raw_builds", kinds={"buildkite", "parquet"}, pool=naming.pool)
    def raw_builds(context: dg.AssetExecutionContext, config: ExtractConfig) -> Result:
        """The day's builds as Buildkite sent them.

        The first run of a day lists all of it; later ones ask only for what has finished
        since. `reconcile` lists the whole day again and stores what is missing, `full_refresh`
        stores all of it once more.
        """
        with daily_run(context, naming, "raw_builds") as run:
            app = run.app
            for step in run.days():
                with step as day, app.buildkite(run.log.wait) as client:
                    found = pipeline.extract_day(
                        day,
                        client=client,
                        raw=app.raw(),
                        clock=app.clock,
                        reconcile=config.reconcile,
                        privacy=app.privacy(),
                        full_refresh=config.full_refresh,
                        progress=run.log.progress,
                        result=run.begin(day, pipeline.Extraction()),
                    )
                    if found.stored or not found.full:  # else there is no build to name
                        app.refresh_names(client, warn=run.warn)
                    step.record(metadata.of_extraction(found), found)
        return dg.MaterializeResult()

    return raw_builds


def spans(settings: Settings, naming: Naming) -> dg.AssetsDefinition:
    """Return the asset of the span table."""

    @daily_asset(
        settings,
        naming,
        "spans",
        kinds={"parquet", "opentelemetry"},
        deps=["raw_builds"],
        checks=[checks.no_quarantined_builds(naming.key("spans"))],
        columns=metadata.span_columns(OF_BUILD),
    )
    def spans(context: dg.AssetExecutionContext, config: TransformConfig) -> Result:
        """The span table: one trace a build, with its stages, groups, steps and jobs."""
        quarantined: list[str] = []
        with daily_run(context, naming, "spans") as run:
            app = run.app
            for step in run.days():
                with step as day:
                    made = pipeline.transform_day(
                        day.key,
                        raw=app.raw(),
                        spans=app.spans(),
                        privacy=app.privacy(),
                        options=app.span_options(),
                        clock=app.clock,
                        full_refresh=config.full_refresh,
                        progress=run.log.progress,
                        result=run.begin(day, pipeline.Transformation()),
                    )
                    if made.damaged:
                        made.damaged.extend(app.restore(day, on_wait=run.log.wait))
                    stored = pipeline.stored_summary(day.key, spans=app.spans())
                    quarantined += [f"{day.key}: {one}" for one in stored.quarantined]
                    step.record(metadata.of_transformation(made, stored), made)
        result = checks.result(checks.NO_QUARANTINED_BUILDS, quarantined)
        return dg.MaterializeResult(check_results=[result])

    return spans


def job_details(settings: Settings, naming: Naming) -> dg.AssetsDefinition:
    """Return the asset of spans inside of jobs."""

    @daily_asset(
        settings,
        naming,
        "job_details",
        kinds={"buildkite", "parquet"},
        deps=["spans"],
        columns=metadata.span_columns(INSIDE),
    )
    def job_details(context: dg.AssetExecutionContext) -> Result:
        """Spans inside of jobs: sections of logs, tests, profiles, and why jobs failed.

        The policy says of which jobs. What its budgets leave out is read by the next run of the
        day; nothing is read twice. If Buildkite fails, the day goes on without.
        """
        with daily_run(context, naming, "job_details") as run:
            app, policy = run.app, run.app.job_details()
            if policy is None:
                raise ConfigError("BK_PIPELINE_JOB_DETAILS names no file.")
            with (
                app.buildkite(run.log.wait) as client,
                app.details(
                    client,
                    share=policy.share,
                    bytes_per_day=policy.bytes_per_day,
                    max_wait_s=policy.seconds_per_run,
                ) as details,
                app.ledger() as ledger,
            ):
                for step in run.days():
                    with step as day:
                        done = pipeline.read_job_details(
                            day.key,
                            spans=app.spans(),
                            client=details,
                            policy=policy,
                            ledger=ledger,
                            clock=app.clock,
                            privacy=app.privacy(),
                            progress=run.log.progress,
                            on_wait=run.log.wait,
                            result=run.begin(day, pipeline.JobDetails()),
                        )
                        for warning in (*done.missing, *filter(None, [done.stopped])):
                            run.warn(warning)
                        step.record(metadata.of_job_details(done), done)
        return dg.MaterializeResult()

    return job_details


def _all_spans(settings: Settings) -> list[str]:
    """Return the names of the assets that make spans."""
    return ["spans", *(["job_details"] if settings.job_details is not None else [])]


def _sent_once(target: Configured) -> str:
    return (
        f"{target.description} The ledger records what was accepted: running this again sends only "
        "what is new."
    )


def loader(settings: Settings, naming: Naming, target: Configured) -> dg.AssetsDefinition:
    """Return the asset of what a destination has accepted."""

    @daily_asset(
        settings,
        naming,
        target.asset,
        description=_sent_once(target),
        kinds={target.kind},
        # What is inside of jobs goes with their builds.
        deps=_all_spans(settings),
        checks=[checks.all_accepted(naming.key(target.asset))],
    )
    def loader(context: dg.AssetExecutionContext, config: LoaderConfig) -> Result:
        rejected: list[str] = []
        with daily_run(context, naming, target.asset) as run:
            app, sampling = run.app, run.app.sampling()
            board = app.board_page() if target.asset == DATASETS_FROM else None
            with app.destination(app.configured(target.asset)) as to, app.ledger() as ledger:
                for step in run.days():
                    with step as day:
                        done = pipeline.deliver_day(
                            day.key,
                            spans=app.spans(),
                            destination=to,
                            ledger=ledger,
                            clock=app.clock,
                            policy=app.delivery_policy(),
                            sampling=sampling,
                            resend=config.resend,
                            progress=run.log.progress,
                            on_wait=run.log.wait,
                            result=run.begin(day, Delivery()),
                        )
                        rejected += checks.rejections(day.key, done)
                        step.record(metadata.of_delivery(done, to, app.page_of(to), board), done)
        result = checks.result(checks.ALL_ACCEPTED, rejected)
        return dg.MaterializeResult(check_results=[result])

    return loader


def honeycomb_markers(
    settings: Settings, naming: Naming, *, after: list[str]
) -> dg.AssetsDefinition:
    """Return the asset of markers, which follows the loaders `after`."""

    @daily_asset(settings, naming, "honeycomb_markers", kinds={"honeycomb"}, deps=["spans", *after])
    def honeycomb_markers(context: dg.AssetExecutionContext, config: MarkersConfig) -> Result:
        """The day's markers: deploys, failed builds, or whatever the rules file names.

        Each is placed once, and changed if its build resumed. `full_refresh` considers the
        whole day again. `bk-pipeline markers` shows, applies and prunes.
        """
        with (
            daily_run(context, naming, "honeycomb_markers") as run,
            run.app.marking(run.log.wait) as marking,
        ):
            client, known = marking.client, marking.ledger.markers
            for step in run.days():
                with step as day:
                    requests_before = client.request_count
                    placed = pipeline.place_markers(
                        day.key,
                        marking,
                        whole=config.full_refresh,
                        progress=run.log.progress,
                        on_wait=run.log.wait,
                        result=run.begin(day, pipeline.Placement()),
                    )
                    shown = metadata.of_placement(
                        placed, requests=client.request_count - requests_before
                    )
                    rows = len(known.placed(client.name, day=day.key))
                    step.record({**shown, metadata.ROWS: rows}, placed)
        return dg.MaterializeResult()

    return honeycomb_markers


def regression_markers(settings: Settings, naming: Naming) -> dg.AssetsDefinition:
    """Return the asset of markers for changes."""

    @daily_asset(
        settings,
        naming,
        "regression_markers",
        kinds={"honeycomb"},
        deps=["changes"],
        priority=REPORTS_PRIORITY,
    )
    def regression_markers(context: dg.AssetExecutionContext) -> Result:
        """The markers of rules with `regression = true`, for the changes that the day found.

        Each is at the first build of its change, up to 29 days before, and is placed once.
        """
        with (
            daily_run(context, naming, "regression_markers") as run,
            run.app.marking(run.log.wait) as marking,
        ):
            for step in run.days():
                with step as day:
                    requests_before = marking.client.request_count
                    placed = pipeline.place_regression_markers(
                        day.key,
                        marking,
                        progress=run.log.progress,
                        on_wait=run.log.wait,
                        result=run.begin(day, pipeline.Placement()),
                    )
                    requests = marking.client.request_count - requests_before
                    step.record(metadata.of_placement(placed, requests=requests), placed)
        return dg.MaterializeResult()

    return regression_markers


def build_stats(settings: Settings, naming: Naming) -> dg.AssetsDefinition:
    """Return the asset of statistics."""

    @daily_asset(
        settings,
        naming,
        "build_stats",
        kinds={"pandas", "parquet"},
        deps=_all_spans(settings),
        columns=metadata.stats_columns(PIPELINES),
        priority=REPORTS_PRIORITY - 1,  # after deployments, which it shows
    )
    def build_stats(context: dg.AssetExecutionContext) -> Result:
        """What the day's builds come to, per pipeline, step and agent queue.

        Failure rates, how long builds take and wait (p50, p90, p99), retries, flaky steps,
        agent minutes, queues. Three tables of a file a day under `stats/` in the data
        directory; docs/stats.md says what each number means.
        """
        with (
            daily_run(context, naming, "build_stats") as run,
            run.app.trace_links(on_trouble=run.warn) as link_of,
        ):
            for step in run.days():
                with step as day:
                    found = pipeline.summarize_day(
                        day.key, spans=run.app.spans(), stats=run.app.stats()
                    )
                    with run.app.database(days=[day.key]) as database:
                        period = run.app.period("day", day.key)
                        _, blocks = run.app.report(
                            period, database, link_of=link_of, on_trouble=run.warn
                        )
                    step.record(metadata.of_stats(found, blocks))
        return dg.MaterializeResult()

    return build_stats


def deployments(settings: Settings, naming: Naming) -> dg.AssetsDefinition:
    """Return the asset of deployments, by the rules of the settings."""

    @daily_asset(
        settings,
        naming,
        "deployments",
        kinds={"parquet"},
        deps=["spans"],
        checks=[checks.restored(naming.key("deployments"))],
        columns=metadata.stats_columns(DEPLOYMENTS),
        priority=REPORTS_PRIORITY,
    )
    def deployments(context: dg.AssetExecutionContext) -> Result:
        """The day's deployments and rollbacks, for DORA's four keys.

        The rules in the file BK_PIPELINE_DEPLOYMENTS say which builds and jobs they are. One file
        a day under `stats/deployments/` in the data directory; docs/deployments.md defines the
        columns. `bk-pipeline deployments` shows the keys of a period.
        """
        failing: list[str] = []
        with daily_run(context, naming, "deployments") as run:
            rules = run.app.deployment_rules() or ()
            for step in run.days():
                with step as day:
                    found = pipeline.record_deployments(
                        day.key, spans=run.app.spans(), stats=run.app.stats(), rules=rules
                    )
                    failing += [f"{day.key}: {one}" for one in checks.not_restored(found)]
                    hosts = run.app.settings.buildkite_hosts
                    step.record(metadata.of_deployments(found, hosts))
        return dg.MaterializeResult(check_results=[checks.result(checks.RESTORED, failing)])

    return deployments


def changes(settings: Settings, naming: Naming) -> dg.AssetsDefinition:
    """Return the asset of changes."""

    @daily_asset(
        settings,
        naming,
        "changes",
        kinds={"duckdb", "parquet"},
        deps=["spans"],
        checks=[checks.no_regressions(naming.key("changes"))],
        columns=metadata.stats_columns(CHANGES),
        priority=REPORTS_PRIORITY,
    )
    def changes(context: dg.AssetExecutionContext) -> Result:
        """What got slower, waits longer, fails more or costs more, and since which build.

        Of each pipeline and step, in the 30 days that end with the partition. A table of a file a
        day, `stats/changes/` in the data directory; docs/changes.md says how it is decided.
        """
        regressions: list[str] = []
        with daily_run(context, naming, "changes") as run:
            zone = run.app.settings.timezone
            for step in run.days():
                with step as day:
                    found = pipeline.find_changes(
                        day.key, spans=run.app.spans(), stats=run.app.stats(), zone=zone
                    )
                    # Only those of the last day are news.
                    regressions = list(checks.regressions(found, day))
                    step.record(metadata.of_changes(found))
        result = checks.result(checks.NO_REGRESSIONS, regressions)
        return dg.MaterializeResult(check_results=[result])

    return changes


def deployment_metrics(
    settings: Settings, naming: Naming, target: Configured
) -> dg.AssetsDefinition:
    """Return the asset of what a destination has accepted of deployments."""

    @daily_asset(
        settings,
        naming,
        target.asset,
        description=_sent_once(target),
        kinds={"otlp_metrics"},
        deps=["deployments"],
        checks=[checks.all_accepted(naming.key(target.asset))],
        priority=REPORTS_PRIORITY,
    )
    def deployment_metrics(context: dg.AssetExecutionContext, config: LoaderConfig) -> Result:
        rejected: list[str] = []
        with daily_run(context, naming, target.asset) as run:
            app = run.app
            with app.destination(app.configured(target.asset)) as to, app.ledger() as ledger:
                for step in run.days():
                    with step as day:
                        done = pipeline.deliver_deployments(
                            day.key,
                            stats=app.stats(),
                            spans=app.spans(),
                            destination=to,
                            ledger=ledger,
                            clock=app.clock,
                            policy=app.delivery_policy(),
                            resend=config.resend,
                            progress=run.log.progress,
                            on_wait=run.log.wait,
                            result=run.begin(day, Delivery()),
                        )
                        rejected += checks.rejections(day.key, done)
                        step.record(metadata.of_delivery(done, to, None), done)
        result = checks.result(checks.ALL_ACCEPTED, rejected)
        return dg.MaterializeResult(check_results=[result])

    return deployment_metrics


def build_report(settings: Settings, naming: Naming) -> dg.AssetsDefinition:
    """Return the asset of the reports of a week and a month."""

    @daily_asset(
        settings,
        naming,
        "build_report",
        kinds={"duckdb"},
        deps=["spans", "changes"],
        priority=REPORTS_PRIORITY,
    )
    def build_report(context: dg.AssetExecutionContext) -> Result:
        """The week and the month that end with the partition: what changed, waited, failed, cost.

        Click on *Show Markdown* beside a report. docs/report.md explains its parts;
        `bk-pipeline report` writes the same as an HTML file. The day's report is at build_stats.
        """
        with (
            daily_run(context, naming, "build_report") as run,
            run.app.trace_links(on_trouble=run.warn) as link_of,
        ):
            for step in run.days():
                with step as day, run.app.database() as database:
                    reports = {
                        name: run.app.report(
                            run.app.period(name, day.key),
                            database,
                            link_of=link_of,
                            on_trouble=run.warn,
                        )
                        for name in ("week", "month")
                    }
                    step.record(metadata.of_periods(reports))
        return dg.MaterializeResult()

    return build_report

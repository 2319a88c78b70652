"""The composition root: settings in, objects out. No Dagster.

The Dagster definitions, the command line, `doctor`, tests and benchmarks take their clients,
stores, ledger and destinations from an `App`, so that a setting means the same everywhere.
An `App` connects to nothing until it is asked. What it opens (`buildkite`, `ledger`,
`destination`, `marking`) is a context manager: leaving it closes connections and files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bk_pipeline.clock import Clock, SystemClock
from bk_pipeline.display import Page, safe_url
from bk_pipeline.errors import ConfigError, PipelineError, StorageError
from bk_pipeline.pipeline.days import Results
from bk_pipeline.settings import Settings
from bk_pipeline.spans.model import SpanOptions

# Imported in the methods that need them: no command pays for what it does not use.
if TYPE_CHECKING:
    from bk_pipeline.analysis.deployment_rules import Rule as DeploymentRule
    from bk_pipeline.analysis.period import Period, PeriodStats
    from bk_pipeline.analysis.sql import Database
    from bk_pipeline.buildkite.client import BuildkiteClient
    from bk_pipeline.buildkite.details import DetailsClient
    from bk_pipeline.buildkite.paging import Paging
    from bk_pipeline.buildkite.quota import Quota
    from bk_pipeline.buildkite.shared_quota import SharedQuota
    from bk_pipeline.deliver.delivery import DeliveryPolicy
    from bk_pipeline.deliver.destination import Destination
    from bk_pipeline.deliver.destinations import Configured
    from bk_pipeline.deliver.sampling import Sampling
    from bk_pipeline.honeycomb.client import MarkerClient
    from bk_pipeline.honeycomb.design import Design
    from bk_pipeline.honeycomb.resources import ResourceClient
    from bk_pipeline.honeycomb.rules import Rules
    from bk_pipeline.ledger.store import Ledger
    from bk_pipeline.pipeline import Day, MarkerContext, StoredChanges
    from bk_pipeline.report.blocks import Block
    from bk_pipeline.sources.policy import Policy
    from bk_pipeline.spans.costs import Prices
    from bk_pipeline.spans.privacy import Privacy
    from bk_pipeline.store.folder import Folder
    from bk_pipeline.store.raw import RawStore
    from bk_pipeline.store.spans import SpanSearch, SpanStore, StatsStore

# How often Dagster retries a step, after the requests' own retries
# (BK_PIPELINE_HTTP_DEADLINE_S): for outages that last.
RUN_RETRIES = 2
# Memory for queries over the span table, before they use temporary files.
MEMORY_MIB = 1024

Report = Callable[[str], None]
LinkOf = Callable[[str, int, int], Page | None]


def ignore(_: str) -> None:
    """Ignore a progress message."""


class App:
    """The objects that one set of settings describes.

    Args:
        settings: All settings.
        clock: The clock that everything uses. Default: the system's.
        retries: How often Dagster retries a step after an error that may pass.
        progress: Called with each progress message.
        on_wait: Called with a message before each wait.

    Attributes:
        results: Typed results of the runs that have used this object so far.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        retries: int = RUN_RETRIES,
        progress: Report = ignore,
        on_wait: Report = ignore,
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.retries = retries
        self.progress = progress
        self.on_wait = on_wait
        self.results = Results()

    @cached_property
    def _quota(self) -> SharedQuota:
        """The token's rate limit, which all processes of this host share."""
        return self._shared_quota(self.settings.buildkite_reserve_percent / 100)

    @cached_property
    def _sensor_quota(self) -> SharedQuota:
        """The same for the sensor, which may use half of the reserve: a backfill cannot starve it."""
        return self._shared_quota(self.settings.buildkite_reserve_percent / 200, user_reserve=0)

    def _shared_quota(self, reserve: float, **options: int) -> SharedQuota:
        from bk_pipeline.buildkite.shared_quota import SharedQuota  # noqa: PLC0415  # see above

        return SharedQuota(self.settings.quota_path, reserve=reserve, **options)

    @cached_property
    def _paging(self) -> Paging:
        """What clients learn of the listing's pages, and share."""
        from bk_pipeline.buildkite.paging import Paging  # noqa: PLC0415  # see above

        return Paging()

    def changed(self, variables: Mapping[str, str]) -> App:
        """Return an app with other values of some variables and the same clock and results.

        Raises:
            ConfigError: A value is malformed.
        """
        changed = App(
            self.settings.changed(variables),
            clock=self.clock,
            retries=self.retries,
            progress=self.progress,
            on_wait=self.on_wait,
        )
        changed.results = self.results
        return changed

    def buildkite(
        self,
        on_wait: Report | None = None,
        *,
        max_wait_s: float = math.inf,
        deadline_s: float | None = None,
        quota: Quota | None = None,
    ) -> BuildkiteClient:
        """Return a client of the Buildkite API; a context manager.

        All processes of this host share the token's rate limit, and so one quota.

        Args:
            on_wait: Called with a message before each wait. Default: the app's.
            max_wait_s: Limit for each wait, each response, and the retries of a request. A
                finite one also gives access to half of the reserve: it is for the sensor.
            deadline_s: How long a request is retried. Default: the setting's.
            quota: Another quota than the one the processes share.

        Raises:
            ConfigError: The token or the organization is not set.
        """
        from bk_pipeline.buildkite.client import BuildkiteClient  # noqa: PLC0415  # see above
        from bk_pipeline.http.retry import RetryPolicy  # noqa: PLC0415  # see above

        deadline_s = self.settings.http_deadline_s if deadline_s is None else deadline_s
        shared = self._quota if math.isinf(max_wait_s) else self._sensor_quota
        return BuildkiteClient.from_settings(
            self.settings,
            clock=self.clock,
            quota=quota or shared,
            paging=self._paging,
            retry_policy=RetryPolicy(deadline_s=min(deadline_s, max_wait_s)),
            on_wait=on_wait or self.on_wait,
            max_wait_s=max_wait_s,
        )

    def details(
        self,
        client: BuildkiteClient,
        *,
        share: float,
        bytes_per_day: int,
        max_wait_s: float = math.inf,
    ) -> DetailsClient:
        """Return a client for logs, artifacts and test results, over the connections of `client`.

        Args:
            client: From `buildkite`.
            share: The share, from 0 to 1, of the requests that remain after extraction.
            bytes_per_day: The bytes that all processes of this host may read in a UTC day.
            max_wait_s: Longest wait for the quota; a longer one is a QuotaSpent.
        """
        from bk_pipeline.buildkite.budget import ByteBudget  # noqa: PLC0415  # see above
        from bk_pipeline.buildkite.shared_quota import SharedQuota  # noqa: PLC0415  # see above

        path, reserve = self.settings.quota_path, self.settings.buildkite_reserve_percent / 100
        return client.details(
            SharedQuota(path, reserve=reserve, background=share),
            budget=ByteBudget(
                path.with_name("job-details-bytes.json"),
                bytes_per_day=bytes_per_day,
                clock=self.clock,
            ),
            max_wait_s=max_wait_s,
        )

    def folder(self) -> Folder:
        """Return the data directory."""
        from bk_pipeline.store.folder import Folder  # noqa: PLC0415  # see above

        return Folder(self.settings.storage)

    def raw(self) -> RawStore:
        """Return the store of builds as Buildkite sent them."""
        from bk_pipeline.store.raw import RawStore  # noqa: PLC0415  # see above

        return RawStore(self.folder())

    def spans(self) -> SpanStore:
        """Return the span table."""
        from bk_pipeline.store.spans import SpanStore  # noqa: PLC0415  # see above

        return SpanStore(self.folder())

    def search(self) -> SpanSearch:
        """Return a search for builds in the span table."""
        from bk_pipeline.store.spans import SpanSearch  # noqa: PLC0415  # see above

        return SpanSearch(self.folder())

    def stats(self) -> StatsStore:
        """Return the statistics tables."""
        from bk_pipeline.store.spans import StatsStore  # noqa: PLC0415  # see above

        return StatsStore(self.folder())

    @contextmanager
    def database(
        self, *, memory_mib: int = MEMORY_MIB, days: Sequence[str] | None = None
    ) -> Iterator[Database]:
        """Open the views over the span table; in the block, a damaged file is named in the error.

        Args:
            memory_mib: How much memory queries may use before they use temporary files.
            days: The days that they see; None for all.

        Raises:
            StorageError: A file of the span table cannot be read.
        """
        from bk_pipeline.analysis.sql import Database, UnreadableSpans  # noqa: PLC0415  # see above

        spans = self.spans()
        datasets = spans.datasets(days)
        try:
            with Database(datasets.single, datasets.several, memory_mib=memory_mib) as database:
                yield database
        except UnreadableSpans as exc:
            name = spans.damaged_file()
            if name is None:
                raise StorageError(f"The span table could not be read: {exc}") from exc
            day = name.split("/")[1]
            raise StorageError(
                f"{name} is damaged ({exc}). Materialize the spans and statistics of {day} to "
                "rebuild it, or leave the day out of the query."
            ) from exc

    def period(self, name: str, last: str) -> Period:
        """Return the day, week or month that ends with the day `last`, in the settings' zone."""
        from bk_pipeline.analysis.period import Period  # noqa: PLC0415  # see above

        return Period.ending(name, date.fromisoformat(last), self.settings.timezone)

    def report(
        self, period: Period, database: Database, *, link_of: LinkOf, on_trouble: Report
    ) -> tuple[PeriodStats, list[Block]]:
        """Return the numbers of a period, and the report of them.

        Args:
            period: The period.
            database: From `database`.
            link_of: From `trace_links`.
            on_trouble: Called with a message if a part is left out.

        Raises:
            PipelineError: The span table cannot be read, or a query needs too much memory.
        """
        # Imported here, as above.
        from bk_pipeline.analysis.period import period_stats  # noqa: PLC0415
        from bk_pipeline.pipeline.changes import known_changes  # noqa: PLC0415
        from bk_pipeline.report.compose import blocks_of  # noqa: PLC0415

        changes = (
            ()
            if period.days == 1
            else known_changes(
                period.last,
                database=database,
                spans=self.spans(),
                stats=self.stats(),
                zone=self.settings.timezone,
            )
        )
        first = None if period.days == 1 else min(self.spans().parts_by_day(), default=None)
        stats = period_stats(
            period,
            database,
            changes=changes,
            first_stored=date.fromisoformat(first) if first else None,
        )
        hosts = self.settings.buildkite_hosts
        blocks = blocks_of(stats, spans_of=self._trace, link_of=link_of, hosts=hosts)
        return stats, blocks + self._deployments_section(period, on_trouble)

    def _deployments_section(self, period: Period, on_trouble: Report) -> list[Block]:
        """Return a report's section on deployments; nothing without rules, or without any."""
        from bk_pipeline.pipeline.deployments import known_deployments  # noqa: PLC0415  # see above
        from bk_pipeline.report.deployments import deployments_section  # noqa: PLC0415

        try:
            rules = self.deployment_rules()
        except ConfigError as exc:
            on_trouble(f"The report has no deployments. {exc}")
            return []
        if rules is None:
            return []
        found = known_deployments(
            period.first, period.last, spans=self.spans(), stats=self.stats(), rules=rules
        )
        first = date.fromisoformat(min(found.days, default=str(period.first)))
        days = None if period.days == 1 else (first, period.last)
        return deployments_section(found.deployments, self.settings.buildkite_hosts, days=days)

    def _trace(self, day: str, trace_id: str) -> list[dict[str, Any]]:
        return self.traces_of(day)(trace_id)

    def traces_of(self, day: str) -> Callable[[str], list[dict[str, Any]]]:
        """Return a function from a trace id to the spans of that build of `day`, if there are any."""
        from bk_pipeline.spans.table import rows  # noqa: PLC0415  # see above

        search = self.search()

        def trace(trace_id: str) -> list[dict[str, Any]]:
            found = search.find_by_trace_id(trace_id, [day])
            return list(rows(search.spans(found))) if found else []

        return trace

    def privacy(self) -> Privacy:
        """Return what is dropped, hashed and masked."""
        from bk_pipeline.spans.privacy import Privacy  # noqa: PLC0415  # see above

        return Privacy.from_settings(self.settings)

    def span_options(self) -> SpanOptions:
        """Return which spans, links and columns are made.

        Raises:
            ConfigError: The file of prices cannot be read, or is malformed.
        """
        given = self.settings
        settled = given.spans_export == "settled"
        return SpanOptions(
            links=given.spans_links,
            waits=given.spans_waits,
            conventions=given.spans_conventions,
            critical_path=given.spans_critical_path,
            prices=self.prices(),
            settled_after_s=given.spans_settled_hours * 3600 if settled else None,
        )

    def deployment_rules(self) -> tuple[DeploymentRule, ...] | None:
        """Load the rules that say what is a deployment; None if no file is named.

        Raises:
            ConfigError: The file cannot be read, or is malformed.
        """
        path = self.settings.deployments_path
        if path is None:
            return None
        # Imported here, as above.
        from bk_pipeline.analysis.deployment_rules import load_deployment_rules  # noqa: PLC0415

        return load_deployment_rules(path)

    def prices(self) -> Prices | None:
        """Load the prices that make costs; None if no file is named.

        Raises:
            ConfigError: The file cannot be read, or is malformed.
        """
        path = self.settings.costs_path
        if path is None:
            return None
        from bk_pipeline.prices import load_prices  # noqa: PLC0415  # see above

        return load_prices(path, zone=self.settings.timezone)

    def refresh_names(self, client: BuildkiteClient, *, warn: Report) -> None:
        """Ask for the names of the organization and its clusters, unless that was done today.

        Raises:
            StorageError: The store cannot be read or written.
        """
        from bk_pipeline.pipeline import refresh_names  # noqa: PLC0415  # see above

        refresh_names(
            self.raw().organizations,
            client=client,
            clock=self.clock,
            lock_path=self.settings.names_lock_path,
            warn=warn,
        )

    def restore(self, day: Day, *, on_wait: Report) -> list[str]:
        """Fetch and make again what damaged files of `day` held; return messages about others."""
        from bk_pipeline.pipeline import restore_day  # noqa: PLC0415  # see above

        return restore_day(
            day,
            connect=lambda: self.buildkite(on_wait),
            raw=self.raw(),
            spans=self.spans(),
            clock=self.clock,
            privacy=self.privacy(),
            options=self.span_options(),
            progress=self.progress,
        )

    def ledger(self, *, create: bool = True) -> Ledger:
        """Open the delivery ledger; a context manager.

        Args:
            create: Create it if it is missing.

        Raises:
            ConfigError: It would be a file on this host, and the data are in an object store.
            NoLedger: It is missing, and `create` is false.
        """
        from bk_pipeline.ledger.store import Ledger  # noqa: PLC0415  # see above

        if create:
            self.settings.check_ledger_location()
        return Ledger.from_settings(self.settings, clock=self.clock, create=create)

    def delivery_policy(self) -> DeliveryPolicy:
        """Return what becomes of batches that were not answered."""
        from bk_pipeline.deliver.delivery import (  # noqa: PLC0415  # see above
            DeliveryPolicy,
            Guarantee,
        )

        return DeliveryPolicy(guarantee=Guarantee(self.settings.deliver_guarantee))

    def sampling(self) -> Sampling | None:
        """Load the rules that decide which builds are sent; None if no file is named.

        Raises:
            ConfigError: The file cannot be read, or is malformed.
        """
        path = self.settings.sampling_path
        if path is None:
            return None
        from bk_pipeline.deliver.sampling import load_sampling  # noqa: PLC0415  # see above

        return load_sampling(path)

    def job_details(self) -> Policy | None:
        """Load the policy of job details; None if no file is named.

        Raises:
            ConfigError: The file cannot be read, or is malformed; or privacy settings hide what
                identifies a job.
        """
        path = self.settings.job_details_path
        if path is None:
            return None
        from bk_pipeline.sources.policy import load_policy, require_visible  # noqa: PLC0415  # see above

        require_visible(self.privacy())
        return load_policy(path)

    def destinations(self) -> list[Configured]:
        """Return the configured destinations.

        Raises:
            ConfigError: One is unknown, incomplete, or the same as another.
        """
        from bk_pipeline.deliver.destinations import destinations  # noqa: PLC0415  # see above

        return destinations(self.settings)

    def deployment_metrics(self) -> list[Configured]:
        """Return where metrics of deployments go: to each `otlp_metrics`, if there are rules.

        Raises: As `destinations`.
        """
        return [one.deployments for one in self.destinations() if one.deployments is not None]

    def configured(self, asset: str) -> Configured:
        """Return the configured destination whose asset is called `asset`.

        Raises:
            ConfigError: There is none.
        """
        found = {one.asset: one for one in (*self.destinations(), *self.deployment_metrics())}
        if asset not in found:
            raise ConfigError(
                f"No destination {asset} is configured. There are: {', '.join(found) or 'none'}."
            )
        return found[asset]

    def report_active_runs(
        self, last_active: dict[str, int], on_wait: Report
    ) -> tuple[dict[str, int], list[str]]:
        """Send the number of active builds to the destinations of metrics.

        Their listing respects the whole reserve: the part for the sensor's own listing stays.

        Returns:
            What to pass as `last_active` the next time, and a message for each failure.

        Raises:
            PipelineError: Buildkite could not be asked, or a destination is misconfigured.
        """
        setting = "BK_PIPELINE_SENSOR_ACTIVE_RUNS has no effect"
        if not self.settings.spans_conventions:
            return {}, [f"{setting}: BK_PIPELINE_SPANS_CONVENTIONS is off."]
        configured = [one for one in self.destinations() if one.kind == "otlp_metrics"]
        if not configured:
            return {}, [f"{setting}: no destination otlp_metrics is configured."]
        # Imported here, as above.
        from bk_pipeline.deliver.metrics.destination import OtlpMetrics  # noqa: PLC0415
        from bk_pipeline.pipeline.active_runs import PATIENCE_S, report_active_runs  # noqa: PLC0415

        with ExitStack() as opened:
            client = self.buildkite(on_wait, max_wait_s=PATIENCE_S, quota=self._quota)
            destinations = [opened.enter_context(self.destination(one)) for one in configured]
            return report_active_runs(
                opened.enter_context(client),
                [one for one in destinations if isinstance(one, OtlpMetrics)],
                last_active,
                privacy=self.privacy(),
                clock=self.clock,
            )

    def destination(self, configured: Configured) -> AbstractContextManager[Destination]:
        """Open a destination; leaving the block closes its connections."""
        return closing(configured.open(self.clock))

    def page_of(self, destination: Destination) -> Page | None:
        """Return the page that shows what `destination` has, if it has one and can be asked."""
        with suppress(PipelineError):  # a link is a convenience
            return safe_url(destination.page_link(), self.settings.trace_hosts)
        return None

    def board_page(self) -> Page | None:
        """Return the page of the board that `bk-pipeline honeycomb` made, if it can be found at once.

        Asks only if there is a configuration key; a link is not worth a wait or a failure.
        """
        given = self.settings
        if given.honeycomb_configuration_key is None or not given.honeycomb_api_endpoint.startswith(
            "https:"
        ):
            return None
        from bk_pipeline.honeycomb.setup import board_url  # noqa: PLC0415  # see above

        hurried = self.changed({"BK_PIPELINE_HTTP_DEADLINE_S": "0"})
        with suppress(PipelineError), hurried.resource_client() as client:
            return safe_url(board_url(client, self.honeycomb_design()), given.trace_hosts)
        return None

    @contextmanager
    def trace_links(self, *, on_trouble: Report) -> Iterator[LinkOf]:
        """Open what makes links to traces: a function of trace id, start and end in ns.

        The link leads to the first destination that has pages of traces; it is None if none has,
        and if it is no HTTPS URL on the host of Honeycomb's pages.
        Links are a convenience: a destination that fails is reported once, and then left out.
        """
        waiting = self.destinations()
        with ExitStack() as opened:
            current: list[Destination] = []

            def link(trace_id: str, start_ns: int, end_ns: int) -> Page | None:
                while waiting:
                    try:
                        if not current:
                            current.append(opened.enter_context(self.destination(waiting[0])))
                        found = current[0].trace_link(trace_id, start_ns=start_ns, end_ns=end_ns)
                    except PipelineError as exc:
                        on_trouble(f"No links to traces: {exc}")
                        found = None
                    if found is not None:
                        return safe_url(found, self.settings.trace_hosts)
                    # It has pages of no trace at all.
                    waiting.pop(0)
                    current.clear()
                return None

            yield link

    def marker_rules(self) -> Rules:
        """Load the rules for markers from their file.

        Raises:
            ConfigError: No file is named, or it is malformed.
        """
        from bk_pipeline.honeycomb.rules import load_rules  # noqa: PLC0415  # see above

        given = self.settings
        return load_rules(
            given.require_markers(), dataset=given.honeycomb_dataset, hosts=given.buildkite_hosts
        )

    def marker_client(self, on_wait: Report | None = None) -> AbstractContextManager[MarkerClient]:
        """Open a client of Honeycomb's markers; leaving the block closes its connections.

        Raises:
            ConfigError: The configuration key is not set.
        """
        from bk_pipeline.honeycomb.client import MarkerClient  # noqa: PLC0415  # see above

        on_wait = on_wait or self.on_wait
        return closing(MarkerClient.from_settings(self.settings, clock=self.clock, on_wait=on_wait))

    def honeycomb_design(self) -> Design:
        """Return what Honeycomb is to have for the dataset, without columns that are not sent.

        Raises:
            ConfigError: The file of prices cannot be read, or is malformed.
        """
        from bk_pipeline.honeycomb.design import design  # noqa: PLC0415  # see above
        from bk_pipeline.spans.fields import COSTS, DETAILS, fields_left_out  # noqa: PLC0415

        options = self.span_options()
        left_out = fields_left_out(options)
        left_out |= COSTS if options.prices is None else frozenset()
        left_out |= DETAILS if self.settings.job_details is None else frozenset()
        return design(
            self.settings.honeycomb_dataset,
            left_out=left_out,
            shown=self.privacy().shown,
            triggers=self.settings.honeycomb_triggers,
            slo=self.settings.honeycomb_slo,
        )

    def resource_client(
        self, on_wait: Report | None = None
    ) -> AbstractContextManager[ResourceClient]:
        """Open a client of Honeycomb's boards and what they are made of.

        Raises:
            ConfigError: The configuration key is not set.
        """
        from bk_pipeline.honeycomb.resources import ResourceClient  # noqa: PLC0415  # see above

        on_wait = on_wait or self.on_wait
        return closing(
            ResourceClient.from_settings(self.settings, clock=self.clock, on_wait=on_wait)
        )

    def stored_changes(self) -> StoredChanges:
        """Return the changes that the asset `changes` stored."""
        from bk_pipeline.pipeline import StoredChanges  # noqa: PLC0415  # see above

        return StoredChanges(self.stats(), self.settings.timezone)

    @contextmanager
    def marking(self, on_wait: Report) -> Iterator[MarkerContext]:
        """Open what placing markers needs; `on_wait` gets the waits for the rate limit.

        Builds that began before spans are sent are not marked either.
        """
        from bk_pipeline.pipeline import MarkerContext  # noqa: PLC0415  # see above

        days = self.settings.honeycomb_max_age_days
        rules = self.marker_rules()
        with self.marker_client(on_wait) as client, self.ledger() as ledger:
            yield MarkerContext(
                spans=self.spans(),
                rules=rules,
                client=client,
                ledger=ledger,
                changes=self.stored_changes(),
                oldest=self.clock.now() - timedelta(days=days) if days else None,
            )

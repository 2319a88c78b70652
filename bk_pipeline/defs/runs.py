"""Runs of Dagster in this process, a day each: for `bk-pipeline backfill`, the demo and tests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dagster as dg

from bk_pipeline import clock, errors
from bk_pipeline.app import App
from bk_pipeline.defs.assets import NIGHTLY, assets_of, report_names, selection
from bk_pipeline.defs.daily_asset import DAYS_PER_RUN, ERROR
from bk_pipeline.defs.home import explained
from bk_pipeline.defs.lost_runs import held, slot_waits_reported
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import resources_of
from bk_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from bk_pipeline.pipeline.days import Result

PARTITION = "dagster/partition"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
ONE_DAY = timedelta(days=1)
# How Dagster reports Ctrl-C and SIGTERM within a step.
INTERRUPTED = "DagsterExecutionInterruptedError"


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a step failed.

    Attributes:
        sentence: The message.
        kind: The class of the error, if it is one of ours.
        step: Name of the asset without its prefix; empty if the run failed outside of steps.
    """

    sentence: str
    kind: type[PipelineError] | None
    step: str = ""


@dataclass(frozen=True, slots=True)
class DayRun:
    """The run of one day: the typed result of each asset, and why steps failed."""

    day: str
    results: Mapping[str, "Result"]
    failed: tuple[Failed, ...] = ()

    @property
    def error(self) -> str | None:
        """The message of the first failure, or None."""
        return self.failed[0].sentence if self.failed else None

    @property
    def has_spans(self) -> bool:
        """Whether the day's span table was made, so that statistics can be."""
        return all(one.step not in {"", "raw_builds", "spans"} for one in self.failed)


@dataclass(frozen=True, slots=True)
class ReportRun:
    """The run that made the statistics of `days`, and why steps failed."""

    days: Sequence[str]
    failed: tuple[Failed, ...] = ()


class Backfill:
    """Runs of Dagster in this process, spans before statistics.

    `app.results` has what was done so far, at any moment.

    Args:
        app: What the assets work with.
        instance: Where Dagster keeps its records.
        full_refresh: Read and transform the days anew.
        resend: Send what was delivered with another ledger and this one does not know.
    """

    def __init__(
        self,
        app: App,
        *,
        instance: dg.DagsterInstance,
        full_refresh: bool = False,
        resend: bool = False,
    ) -> None:
        self._services = app
        self._instance = instance
        naming = Naming.of(app.settings)
        assets = assets_of(app, naming)
        # Statistics are made when the spans of all days have been delivered. So what deployments
        # say of earlier days is complete before it is counted.
        stats = selection(assets, naming, report_names(app))
        # Changes are about 30 days: to find them for each day would cost 30 times as much.
        changes = selection(assets, naming, NIGHTLY)
        self._spans_job = naming.named("backfill_spans")
        self._stats_job = naming.named("backfill_reports")
        self._definitions = dg.Definitions(
            assets=assets,
            jobs=[
                dg.define_asset_job(self._spans_job, dg.AssetSelection.all() - stats - changes),
                dg.define_asset_job(self._stats_job, stats),
            ],
            resources=resources_of(app, naming),
        )
        refresh = {"config": {"full_refresh": full_refresh}}
        loaders = [one.asset for one in app.destinations()]
        counted = [one.asset for one in app.deployment_metrics()]
        again = {"config": {"resend": resend}}
        self._config = {
            **{naming.op(one): refresh for one in ("raw_builds", "spans")},
            **{naming.op(one): again for one in loaders},
        }
        self._stats_config = {naming.op(one): again for one in counted}
        known = ("raw_builds", "spans", "honeycomb_markers", *loaders, *report_names(app))
        self._assets = {naming.op(one): one for one in known}

    def deliver(self, days: Sequence[str], *, days_per_run: int = 1) -> Iterator[DayRun]:
        """Run the days, from Buildkite to every destination, in the order given.

        Args:
            days: The days.
            days_per_run: How many days in a row make one run of Dagster, which is faster. If it
                fails, the failures are those of its last day.

        Raises:
            KeyboardInterrupt: It was stopped. Dagster would report that as a failure.
            StorageError: Dagster cannot keep its records.
        """
        for some in _in_a_row(days, days_per_run):
            failed = self._run(self._spans_job, _range(some), ops=self._config)
            for day in some:
                result = self._services.results.of_day(day)
                yield DayRun(day, result, failed if day == some[-1] else ())

    def report(self, days: Sequence[str]) -> Iterator[ReportRun]:
        """Make the statistics of the days, oldest first, with a run for each few in a row.

        Raises: As `deliver`.
        """
        for some in _in_a_row(sorted(days), DAYS_PER_RUN):
            failed = self._run(self._stats_job, _range(some), ops=self._stats_config)
            yield ReportRun(some, failed)

    def _run(
        self, job: str, tags: Mapping[str, str], *, ops: Mapping[str, Any]
    ) -> tuple[Failed, ...]:
        """Run a job; return why steps failed."""
        if clock.PROCESS.requested():
            # Between steps Dagster notes a signal, and forgets it when the run ends.
            raise KeyboardInterrupt
        run_id = str(uuid4())
        day = tags.get(PARTITION)
        try:
            with (
                explained(str(self._instance.root_directory)),
                held(self._instance, run_id) as process,
                slot_waits_reported(self._instance, run_id, self._services.on_wait),
            ):
                result = self._definitions.resolve_job_def(job).execute_in_process(
                    instance=self._instance,
                    partition_key=day,
                    run_id=run_id,
                    tags=process if day else {**tags, **process},
                    run_config={
                        "ops": ops,
                        # The caller shows errors as messages; Dagster's log would show them whole.
                        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    },
                    raise_on_error=False,
                )
        except dg.DagsterExecutionInterruptedError as exc:
            raise KeyboardInterrupt from exc
        events = result.get_step_failure_events()
        raised = [event.step_failure_data.error for event in events]
        if any(error and error.cls_name == INTERRUPTED for error in raised):
            raise KeyboardInterrupt
        failed = tuple(_failed(one, self._assets) for one in events)
        if not failed and not result.success:
            failed = (Failed("The run failed before its first step.", None),)
        return failed


def materialize_days(
    app: App,
    days: Sequence[str],
    *,
    instance: dg.DagsterInstance,
    full_refresh: bool = False,
    resend: bool = False,
) -> Iterator[DayRun]:
    """Run each day and then the reports of all; a report that fails is its last day's failure.

    Raises:
        KeyboardInterrupt: It was stopped.
        StorageError: Dagster cannot keep its records.
    """
    backfill = Backfill(app, instance=instance, full_refresh=full_refresh, resend=resend)
    delivered = []
    for run in backfill.deliver(days):
        if run.has_spans:
            delivered.append(run.day)
        yield run
    for report in backfill.report(delivered):
        if report.failed:
            yield DayRun(report.days[-1], {}, report.failed)


def _range(days: Sequence[str]) -> dict[str, str]:
    """Return the tags of a run of the days, which follow each other."""
    if len(days) == 1:
        return {PARTITION: days[0]}
    return {RANGE_START: days[0], RANGE_END: days[-1]}


def _in_a_row(days: Sequence[str], most: int) -> Iterator[list[str]]:
    """`days`, divided where one is missing, and after each `most`."""
    some: list[str] = []
    for day in days:
        follows = some and date.fromisoformat(day) - date.fromisoformat(some[-1]) == ONE_DAY
        if some and (not follows or len(some) == most):
            yield some
            some = []
        some.append(day)
    if some:
        yield some


def _failed(event: dg.DagsterEvent, assets: Mapping[str, str]) -> Failed:
    data = event.step_failure_data
    step = assets.get(event.step_key or "", event.step_key or "")
    ours = data.user_failure_data
    if ours and ours.description:
        name = ours.metadata[ERROR].value if ERROR in ours.metadata else ""
        return Failed(ours.description, getattr(errors, str(name), None), step)
    # A bug of ours: its own message says more than Dagster's around it.
    error = data.error.cause or data.error if data.error else None
    return Failed(error.message.strip() if error else data.error_display_string, None, step)

"""What all daily assets have in common: declaration, partitions, days, log.

To add an asset, decorate a function with `daily_asset`. In its body, open `daily_run`, do one
day's work for each of `run.days()`, and return `run.result()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from bk_pipeline import __version__, telemetry
from bk_pipeline.app import App
from bk_pipeline.defs.metadata import Metadata, attributes_of, cleaned
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import Context, app_of, resource_keys
from bk_pipeline.display import Log
from bk_pipeline.errors import DamagedFile, PipelineError, RetryableError
from bk_pipeline.http.retry import LONGEST_WAIT_S, report_pauses_to
from bk_pipeline.lines import Lines
from bk_pipeline.pipeline import Day
from bk_pipeline.pipeline.days import ResultT
from bk_pipeline.self_tracing import self_tracing
from bk_pipeline.settings import Settings
from bk_pipeline.window import day_window

RETRY_PAUSE_S = 30.0
# Metadata of a failure: the class of the error.
ERROR = "error"


class TickFailed(dg.DagsterError):
    """A sensor or schedule could not do its work. Dagster shows its own kind unwrapped."""


@contextmanager
def as_dagster_failures(
    *, retries: int, on_retry: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Turn errors of ours into a failure of the step that shows their message first.

    Only a `RetryableError` is retried.

    Args:
        retries: How often.
        on_retry: Called with a message before Dagster waits for a retry.
    """
    try:
        yield
    except RetryableError as exc:
        # Dagster waits inside of the run, which holds its slot in the pool meanwhile.
        pause_s = min(max(exc.retry_in_s or 0.0, RETRY_PAUSE_S), LONGEST_WAIT_S)
        if retries:
            if on_retry is not None:
                on_retry(f"{exc} Unless this was the last retry, one follows in {pause_s:.0f} s.")
            raise dg.RetryRequested(max_retries=retries, seconds_to_wait=pause_s) from exc
        raise _failure(exc) from exc
    except PipelineError as exc:
        raise _failure(exc) from exc


def _failure(error: PipelineError) -> dg.Failure:
    return dg.Failure(
        str(error), metadata=cleaned({ERROR: type(error).__name__}), allow_retries=False
    )


@contextmanager
def as_tick_failures() -> Iterator[None]:
    """Turn errors of ours into a failed tick that shows their message first."""
    try:
        yield
    except PipelineError as exc:
        raise TickFailed(str(exc)) from exc


if TYPE_CHECKING:
    Result = dg.MaterializeResult[None]
else:
    # Dagster reads the annotation, and knows the class only without its type argument.
    Result = dg.MaterializeResult

# Days that one run of a backfill takes: a run costs seconds to start, a quiet day less.
DAYS_PER_RUN = 10
# Damaged files that one asset may meet in a day.
MOST_DAMAGED = 100
# Of the steps that could start, the one with the highest number does, where nothing else decides.
PRIORITY = "dagster/priority"


class ExtractConfig(dg.Config):
    """Run configuration of `raw_builds`."""

    reconcile: bool = Field(
        default=False,
        description="List the whole day again and store the builds that are missing.",
    )
    full_refresh: bool = Field(
        default=False,
        description="List the whole day again and store all of its builds once more.",
    )


class TransformConfig(dg.Config):
    """Run configuration of `spans`."""

    full_refresh: bool = Field(
        default=False,
        description="Make the spans of all stored builds again. Their ids stay the same, so "
        "none is delivered twice.",
    )


class LoaderConfig(dg.Config):
    """Run configuration of a loader."""

    resend: bool = Field(
        default=False,
        description="Send what the ledger does not know, although the data directory says that it "
        "was delivered with another ledger. The destination has those spans twice then.",
    )


class MarkersConfig(dg.Config):
    """Run configuration of `honeycomb_markers`."""

    full_refresh: bool = Field(
        default=False,
        description="Apply the rules to all spans of the day, not only to new ones.",
    )


def daily_asset(
    settings: Settings,
    naming: Naming,
    name: str,
    *,
    kinds: set[str],
    description: str | None = None,
    deps: Sequence[str] = (),
    pool: str | None = None,
    checks: Sequence[dg.AssetCheckSpec] = (),
    columns: dg.TableSchema | None = None,
    priority: int = 0,
) -> Callable[[Callable[..., Result]], dg.AssetsDefinition]:
    """Declare an asset with what all of ours have in common.

    Args:
        settings: First day and time zone of the partitions.
        naming: Prefix, group, owners and resource keys.
        name: The asset's name without its prefix.
        kinds: Kinds that Dagster shows.
        description: Default: the function's docstring.
        deps: Names of the assets it is made of, without prefix.
        pool: The pool that limits concurrent steps.
        checks: Checks that the asset evaluates itself.
        columns: Columns of its table.
        priority: Of several steps that could start, the one with the highest starts first.
    """
    return dg.asset(
        key=naming.key(name),
        description=description,
        deps=[naming.key(one) for one in deps],
        pool=pool,
        check_specs=checks or None,
        metadata={"dagster/column_schema": columns} if columns else None,
        kinds=kinds,
        partitions_def=daily(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(DAYS_PER_RUN),
        group_name=naming.group,
        owners=list(naming.owners),
        code_version=__version__,
        op_tags={PRIORITY: str(priority)} if priority else None,
        required_resource_keys=resource_keys(naming),
    )


def daily(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Return the partitions: from the first day of the settings to today, which is one too."""
    return dg.DailyPartitionsDefinition(
        start_date=settings.start_date.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1,
    )


def day_of(key: str, settings: Settings) -> Day:
    """Return the day of a partition key."""
    return Day(key, day_window(key, settings.timezone))


class StepLog:
    """The log of one step: Dagster's, and the callbacks of the app.

    Dagster's log gets a line every few seconds at most (each costs about 7 ms), and every
    wait that is long enough to be noticed.
    """

    def __init__(self, context: Context, app: App) -> None:
        self._app = app
        self._lines = Lines(Log(context.log).info)

    def progress(self, line: str) -> None:
        """Report how far the work is."""
        self._app.progress(line)
        self._lines.progress(line)

    def wait(self, line: str) -> None:
        """Report why nothing happens for a while, and until when."""
        self._app.on_wait(line)
        self._lines.wait(line)

    def close(self) -> None:
        """Write the last line that was held back."""
        self._lines.close()


@contextmanager
def step_log(context: Context, app: App) -> Iterator[StepLog]:
    """Open the log of one step, which also gets the pauses of requests that are retried."""
    log = StepLog(context, app)
    with closing(log), report_pauses_to(log.wait):
        yield log


class DailyRun:
    """One asset's step of a run, which covers one or more days.

    Attributes:
        app: What the assets work with.
        log: The step's log.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, app: App, log: StepLog, asset: str
    ) -> None:
        self.app, self.log = app, log
        self._context, self._asset = context, asset
        self._log = Log(context.log)
        self._done: dict[str, Metadata] = {}

    def days(self) -> Iterator[DayStep]:
        """Iterate over the days; enter each step to get its day.

        A day whose step meets a damaged file comes again, once what the file held is restored.
        """
        for key in self._context.partition_keys:
            day = day_of(key, self.app.settings)
            for attempt in range(1, MOST_DAMAGED + 1):
                step = DayStep(self, day, may_restore=attempt < MOST_DAMAGED)
                yield step
                if not step.damaged:
                    break

    def begin(self, day: Day, result: ResultT) -> ResultT:
        """Return `result` to be filled in; the app's results show it from now on."""
        return self.app.results.begin(self._asset, day.key, result)

    def warn(self, message: str) -> None:
        """Log a warning."""
        self._log.warning(message)

    def restore(self, day: Day, error: DamagedFile) -> None:
        """Restore what a damaged file held."""
        self.warn(str(error))
        for message in self.app.restore(day, on_wait=self._log.info):
            self.warn(message)

    def day_done(self, day: Day, metadata: Metadata) -> None:
        """Add the metadata of a day that is done."""
        self._done[day.key] = metadata
        self._context.add_asset_metadata(cleaned(metadata), partition_key=day.key)

    def materialize_done(self) -> None:
        """Materialize the days that are done, although a later one failed.

        Dagster materializes the partitions of a step together, when the step succeeds.
        """
        for key, metadata in self._done.items():
            self._context.log_event(
                dg.AssetMaterialization(
                    self._context.asset_key, partition=key, metadata=cleaned(metadata)
                )
            )

    def span(self, day: Day) -> AbstractContextManager[telemetry.SpanHandle]:
        """Trace the work for one day."""
        return telemetry.span(f"{self._asset} of a day", {"bk_pipeline.day": day.key})


class DayStep:
    """The work for one day, as a context manager.

    Attributes:
        damaged: Whether a damaged file stopped it; its content has been restored.
    """

    def __init__(self, run: DailyRun, day: Day, *, may_restore: bool) -> None:
        self.damaged = False
        self._run, self._day, self._may_restore = run, day, may_restore
        self._metadata: Metadata = {}
        self._stack = ExitStack()
        self._note: telemetry.SpanHandle

    def record(self, metadata: Metadata, result: object = None) -> None:
        """Set the day's metadata, and the typed result that self-tracing reports."""
        self._metadata = metadata
        self._note.set_attributes(attributes_of(result))

    def __enter__(self) -> Day:
        self._note = self._stack.enter_context(self._run.span(self._day))
        return self._day

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._stack.__exit__(kind, error, trace)
        if isinstance(error, DamagedFile) and self._may_restore:
            self._run.restore(self._day, error)
            self.damaged = True
        elif error is None:
            self._run.day_done(self._day, self._metadata)
        return self.damaged


@contextmanager
def daily_run(context: dg.AssetExecutionContext, naming: Naming, asset: str) -> Iterator[DailyRun]:
    """Open one asset's step of a run. Errors of ours become Dagster's.

    Args:
        context: The step's context.
        naming: Names of the resources.
        asset: The asset's name without its prefix.
    """
    run_id = context.run.run_id
    with as_dagster_failures(retries=0):
        app = app_of(context, naming)
    with (
        as_dagster_failures(retries=app.retries, on_retry=Log(context.log).warning),
        step_log(context, app) as log,
        self_tracing(app.settings, run_id=run_id),
        telemetry.span(f"materialize {asset}", {"dagster.run_id": run_id}),
    ):
        run = DailyRun(context, app, log, asset)
        try:
            yield run
        except BaseException:
            run.materialize_done()
            raise

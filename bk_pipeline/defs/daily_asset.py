"""What all daily assets have in common: their declaration, their going over days, their log.

To add an asset: decorate with `daily_asset`, let `each_day` call what does one day's work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from bk_pipeline import __version__, telemetry
from bk_pipeline.defs.failures import as_dagster_failures
from bk_pipeline.defs.lost_runs import hold
from bk_pipeline.defs.partitions import daily, day_of
from bk_pipeline.defs.resources import Services
from bk_pipeline.errors import DamagedFile
from bk_pipeline.http.retry import pauses_told_to
from bk_pipeline.lines import Lines
from bk_pipeline.pipeline import Day
from bk_pipeline.self_tracing import self_tracing
from bk_pipeline.settings import Settings

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
Metadata = Mapping[str, Any]
if TYPE_CHECKING:
    Result = dg.MaterializeResult[None]
else:
    # Dagster reads the annotation, and knows the class only without its type argument.
    Result = dg.MaterializeResult

OWNERS = ["team:ci-observability"]
GROUP = "buildkite"
# Days that one run of a backfill takes: a run costs seconds to start, a quiet day less.
DAYS_PER_RUN = 10
# Damaged files that one asset may meet in a day.
MOST_DAMAGED = 100
# Steps with a higher number run first, where nothing else decides.
PRIORITY = "dagster/priority"
REPORTS = -1


class DayConfig(dg.Config):
    """What a person may ask of a run."""

    reread: bool = False
    full_refresh: bool = False


class LoaderConfig(dg.Config):
    """What a person may ask of a delivery."""

    resend: bool = Field(
        default=False,
        description="Send what the ledger does not know, although the data directory says that it "
        "was delivered with another ledger. The destination has those spans twice then.",
    )


def daily_asset(
    settings: Settings,
    *,
    kinds: set[str],
    name: str | None = None,
    description: str | None = None,
    deps: Sequence[str] = (),
    pool: str | None = None,
    check: dg.AssetCheckSpec | None = None,
    columns: dg.TableSchema | None = None,
    priority: int = 0,
) -> Callable[[Callable[..., Result]], dg.AssetsDefinition]:
    """`dg.asset` with what all of ours have in common.

    Where two steps of a run could start, the one with the higher `priority` does.
    """
    return dg.asset(
        name=name,
        description=description,
        deps=deps,
        pool=pool,
        check_specs=[check] if check else None,
        metadata={"dagster/column_schema": columns} if columns else None,
        kinds=kinds,
        partitions_def=daily(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(DAYS_PER_RUN),
        group_name=GROUP,
        owners=OWNERS,
        code_version=__version__,
        op_tags={PRIORITY: str(priority)} if priority else None,
    )


def each_day(
    context: dg.AssetExecutionContext, services: Services, work: Callable[[Day], Metadata]
) -> None:
    """Do `work` for each partition of the run, and record what it returns.

    Dagster records the partitions of a run together, when all are done. If one fails, those
    before it are recorded here, so that they are not done again.
    """
    hold(context.instance, context.run.run_id)
    done: dict[str, Metadata] = {}
    asset, run_id = context.asset_key.to_user_string(), context.run.run_id
    with as_dagster_failures(retries=services.retries):
        tracing = self_tracing(services.settings, run_id=run_id)
    try:
        with tracing, telemetry.span(f"materialize {asset}", {"dagster.run_id": run_id}):
            for key in context.partition_keys:
                with (
                    as_dagster_failures(retries=services.retries, on_retry=context.log.warning),
                    telemetry.span(f"{asset} of a day", {"bk_pipeline.day": key}) as span,
                ):
                    done[key] = _whole(context, services, work, day_of(key, services.settings))
                    span.set_attributes(_counts(done[key]))
                context.add_asset_metadata(done[key], partition_key=key)
    except BaseException:
        for key, metadata in done.items():
            context.log_event(
                dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata)
            )
        raise


def _whole(
    context: dg.AssetExecutionContext,
    services: Services,
    work: Callable[[Day], Metadata],
    day: Day,
) -> Metadata:
    """What `work` returns; after a damaged file was met, once more with what it held restored."""
    for _ in range(MOST_DAMAGED):
        try:
            return work(day)
        except DamagedFile as exc:
            context.log.warning(str(exc))
            for line in services.restore(day, on_wait=context.log.info):
                context.log.warning(line)
    return work(day)


def _counts(metadata: Metadata) -> dict[str, telemetry.Value]:
    """The numbers among `metadata`, as attributes."""
    return {
        f"bk_pipeline.{label.replace(' ', '_')}": value
        for label, value in metadata.items()
        if isinstance(value, int) and "/" not in label
    }


class StepLog:
    """Where a step reports: Dagster's log, and whoever the services name.

    Dagster's log gets a line every few seconds at most (each costs about 7 ms), and every
    wait that is long enough to be noticed.
    """

    def __init__(self, context: Context, services: Services) -> None:
        self._services = services
        self._lines = Lines(context.log.info)

    def progress(self, line: str) -> None:
        """How far the work is."""
        self._services.tell(line)
        self._lines.progress(line)

    def wait(self, line: str) -> None:
        """Why nothing happens for a while, and until when."""
        self._services.on_wait(line)
        self._lines.wait(line)

    def close(self) -> None:
        self._lines.close()


@contextmanager
def step_log(context: Context, services: Services) -> Iterator[StepLog]:
    """The log of one step, which also gets the pauses of requests that are tried again."""
    log = StepLog(context, services)
    with closing(log), pauses_told_to(log.wait):
        yield log

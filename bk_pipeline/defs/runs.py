"""Days through Dagster in this process: what the command line's backfill is made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from bk_pipeline import errors, stopping
from bk_pipeline.defs.assets import assets_of
from bk_pipeline.defs.failures import ERROR
from bk_pipeline.defs.home import explained
from bk_pipeline.defs.resources import Services
from bk_pipeline.errors import PipelineError

# What Dagster makes of Ctrl-C and SIGTERM within a step.
INTERRUPTED = "DagsterExecutionInterruptedError"


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a step failed: in a sentence, and as what kind of error; None if it was none of ours."""

    sentence: str
    kind: type[PipelineError] | None


@dataclass(frozen=True, slots=True)
class DayRun:
    """One day's run: its metadata by asset and label, and why steps failed."""

    day: str
    metadata: dict[str, dict[str, Any]]
    failed: tuple[Failed, ...] = ()

    @property
    def error(self) -> str | None:
        """What went wrong first, or None."""
        return self.failed[0].sentence if self.failed else None

    def count(self, asset: str, label: str) -> int:
        """What the asset's metadata say of `label`; 0 if the run did not come to it."""
        return int(self.metadata.get(asset, {}).get(label, 0))

    def remarks(self, asset: str) -> list[str]:
        """What the asset's destination had to say besides."""
        return list(self.metadata.get(asset, {}).get("remarks", ()))


def materialize_days(
    services: Services,
    days: Sequence[str],
    *,
    instance: dg.DagsterInstance,
    full_refresh: bool = False,
) -> Iterator[DayRun]:
    """Run each day, from Buildkite to every destination, in the order given.

    Raises:
        KeyboardInterrupt: Somebody stopped it. Dagster would take it for one more failure.
        StorageError: Dagster cannot keep its records.
    """
    assets = assets_of(services.settings)
    config = {"config": {"full_refresh": full_refresh}}
    for day in days:
        if stopping.PROCESS.asked():
            # Between steps Dagster notes a signal, and forgets it when the run ends.
            raise KeyboardInterrupt
        try:
            with explained(str(instance.root_directory)):
                result = dg.materialize(
                    assets,
                    partition_key=day,
                    instance=instance,
                    resources={"services": services},
                    run_config={
                        "ops": {"raw_builds": config, "spans": config},
                        # Errors are told by the caller, in a sentence, not by Dagster's log.
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
        failed = tuple(map(_failed, events))
        if not failed and not result.success:
            failed = (Failed("The run failed before its first step.", None),)
        yield DayRun(day, _metadata(result), failed)


def _metadata(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    found = {}
    for event in result.get_asset_materialization_events():
        materialization = event.materialization
        found[materialization.asset_key.to_user_string()] = {
            label: value.value for label, value in materialization.metadata.items()
        }
    return found


def _failed(event: dg.DagsterEvent) -> Failed:
    data = event.step_failure_data
    ours = data.user_failure_data
    if ours and ours.description:
        name = ours.metadata[ERROR].value if ERROR in ours.metadata else ""
        return Failed(ours.description, getattr(errors, str(name), None))
    # A mistake of ours: its own line says more than Dagster's words around it.
    error = data.error.cause or data.error if data.error else None
    return Failed(error.message.strip() if error else data.error_display_string, None)

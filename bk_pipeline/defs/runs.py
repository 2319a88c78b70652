"""Days through Dagster in this process: what the command line's backfill is made of."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from bk_pipeline.defs.assets import assets_of
from bk_pipeline.defs.resources import Services

# A home that we make: quiet. One that is there already is left as it is.
HOME_CONFIG = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"


@dataclass(frozen=True, slots=True)
class DayRun:
    """One day's run: its metadata by asset and label, and what went wrong, or None."""

    day: str
    metadata: dict[str, dict[str, Any]]
    error: str | None

    def count(self, asset: str, label: str) -> int:
        """What the asset's metadata say of `label`; 0 if the run did not come to it."""
        return int(self.metadata.get(asset, {}).get(label, 0))


def local_instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, or of `.dagster` here, which `make dev` uses too."""
    home = Path(os.environ.get("DAGSTER_HOME") or ".dagster").expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists():
        config.write_text(HOME_CONFIG)
    return dg.DagsterInstance.from_config(str(home))


def materialize_days(
    services: Services,
    days: Sequence[str],
    *,
    instance: dg.DagsterInstance,
    full_refresh: bool = False,
) -> Iterator[DayRun]:
    """Run each day, from Buildkite to every destination, in the order given."""
    assets = assets_of(services.settings)
    config = {"config": {"full_refresh": full_refresh}}
    for day in days:
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
        yield DayRun(day, _metadata(result), _error(result))


def _metadata(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    found = {}
    for event in result.get_asset_materialization_events():
        materialization = event.materialization
        found[materialization.asset_key.to_user_string()] = {
            label: value.value for label, value in materialization.metadata.items()
        }
    return found


def _error(result: dg.ExecuteInProcessResult) -> str | None:
    for event in result.get_step_failure_events():
        failure = event.step_failure_data
        if failure.user_failure_data and failure.user_failure_data.description:
            return str(failure.user_failure_data.description)
        return failure.error_display_string
    return None if result.success else "The run failed before its first step."

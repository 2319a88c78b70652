"""Run the checks of `doctor` in order; skip those that depend on a failed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.doctor import places, source
from bk_pipeline.doctor.costs import costs
from bk_pipeline.doctor.findings import CheckResult, Finding, Installation, Verdict, warning
from bk_pipeline.errors import ConfigError, PipelineError
from bk_pipeline.tokens import redact_tokens

SETTINGS, TOKEN, ORGANIZATION, COST = "settings", "token", "organization", "backfill"
DESTINATIONS, STORAGE, SAMPLING = "destinations", "storage", "sampling"
HOME, POOLS = "DAGSTER_HOME", "pools"


@dataclass(frozen=True, slots=True)
class Check:
    """A check. It is skipped if one of the checks that it `needs` has failed."""

    name: str
    run: Callable[[Installation], CheckResult]
    needs: tuple[str, ...] = ()


class Checkup:
    """Runs checks and remembers which have failed.

    Args:
        installation: The installation to check.
        pools: Checks Dagster's pools. Passed in, because this package does not import Dagster.
    """

    def __init__(
        self, installation: Installation, pools: Callable[[Installation], CheckResult] | None = None
    ) -> None:
        self._installation = installation
        self._pools = pools
        # Name of a failed or skipped check: name of the check that caused it.
        self._failed: dict[str, str] = {}

    def checks(self) -> Iterator[Check]:
        """Yield the checks in order. Those of destinations need the settings to be read first."""
        yield Check(SETTINGS, places.settings)
        yield Check(TOKEN, source.token, (SETTINGS,))
        yield Check(ORGANIZATION, source.organization, (TOKEN,))
        yield Check("names", source.names, (TOKEN,))
        yield Check("rate limits", source.rate_limits, (ORGANIZATION,))
        if SETTINGS not in self._failed and self._installation.settings.sampling is not None:
            yield Check(SAMPLING, places.sampling)
        yield Check(COST, source.backfill_cost, (ORGANIZATION, SAMPLING))
        yield from self._destinations()
        yield Check(STORAGE, places.storage, (SETTINGS,))
        yield Check("ledger", places.ledger, (SETTINGS, STORAGE))
        if SETTINGS not in self._failed and self._installation.settings.costs is not None:
            yield Check("costs", costs, (STORAGE,))
        if SETTINGS not in self._failed and self._installation.settings.deployments is not None:
            yield Check("deployments", places.deployments)
        if SETTINGS not in self._failed and self._installation.settings.job_details is not None:
            yield Check("job details", places.job_details, (STORAGE,))
        yield Check("inside jobs", source.inside_jobs, (TOKEN, "job details"))
        yield Check(HOME, places.dagster_home)
        if self._pools is not None:
            yield Check(POOLS, self._pools, (HOME,))
        yield Check("version", places.version)

    def run(self, check: Check) -> Finding:
        """Run `check` and return its finding. A PipelineError becomes a failed finding."""
        root = next((self._failed[name] for name in check.needs if name in self._failed), None)
        if root is not None:
            self._failed[check.name] = root
            return Finding(check.name, Verdict.SKIPPED, f"skipped because {root} failed")
        try:
            answer = check.run(self._installation)
        except PipelineError as exc:
            self._failed[check.name] = check.name
            return Finding(
                check.name, Verdict.FAILED, str(exc), is_config_error=isinstance(exc, ConfigError)
            )
        verdict = Verdict.WARNING if answer.is_warning else Verdict.OK
        return Finding(check.name, verdict, redact_tokens(answer.message))

    def _destinations(self) -> Iterator[Check]:
        if SETTINGS in self._failed:
            yield Check(DESTINATIONS, _no_destination, (SETTINGS,))
            return
        try:
            configured = destinations(self._installation.settings)
        except ConfigError as exc:
            yield Check(DESTINATIONS, partial(_raise, exc))
            return
        if not configured:
            yield Check(DESTINATIONS, _no_destination)
        for one in configured:
            yield Check(one.asset, partial(places.destination, one))
            if self._installation.test_event:
                yield Check(
                    f"test event, {one.asset}", partial(places.test_event, one), (one.asset,)
                )
        if self._installation.settings.markers is not None:
            yield Check("honeycomb_markers", places.markers)
        if self._installation.settings.honeycomb_configuration_key is not None:
            yield Check("honeycomb board", places.board)


def _no_destination(_: Installation) -> CheckResult:
    return warning(
        "no destination is configured: spans are made and stored, but not sent. Set HONEYCOMB_API_KEY "
        "or OTEL_EXPORTER_OTLP_ENDPOINT."
    )


def _raise(error: ConfigError, _: Installation) -> CheckResult:
    raise error

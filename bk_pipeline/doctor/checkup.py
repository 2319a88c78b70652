"""The checks, in the order in which things are needed, and which need which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.doctor import places, source
from bk_pipeline.doctor.findings import Answer, Finding, Installation, Verdict, remark
from bk_pipeline.errors import ConfigError, PipelineError
from bk_pipeline.tokens import redact_tokens

SETTINGS, TOKEN, ORGANIZATION, COST = "settings", "token", "organization", "backfill"
DESTINATIONS, STORAGE = "destinations", "storage"
HOME, POOLS = "DAGSTER_HOME", "pools"


@dataclass(frozen=True, slots=True)
class Check:
    """One question. Not asked if one of those that it `needs` has failed."""

    name: str
    ask: Callable[[Installation], Answer]
    needs: tuple[str, ...] = ()


class Checkup:
    """Asks one check after the other, and remembers what has failed.

    Args:
        installation: What is looked at.
        pools: Looks at Dagster's pools, of which this room knows nothing.
    """

    def __init__(
        self, installation: Installation, pools: Callable[[Installation], Answer] | None = None
    ) -> None:
        self._installation = installation
        self._pools = pools
        # Name of a check that gave no answer: the one at the root of it.
        self._failed: dict[str, str] = {}

    def checks(self) -> Iterator[Check]:
        """The checks in order; those of the destinations are known once settings are."""
        yield Check(SETTINGS, places.settings)
        yield Check(TOKEN, source.token, (SETTINGS,))
        yield Check(ORGANIZATION, source.organization, (TOKEN,))
        yield Check("rate limits", source.rate_limits, (ORGANIZATION,))
        yield Check(COST, source.backfill_cost, (ORGANIZATION,))
        yield from self._destinations()
        yield Check(STORAGE, places.storage, (SETTINGS,))
        yield Check("ledger", places.ledger, (SETTINGS, STORAGE))
        yield Check(HOME, places.dagster_home)
        if self._pools is not None:
            yield Check(POOLS, self._pools, (HOME,))
        yield Check("version", places.version)

    def run(self, check: Check) -> Finding:
        """What `check` comes to. Every error of ours becomes a finding."""
        root = next((self._failed[name] for name in check.needs if name in self._failed), None)
        if root is not None:
            self._failed[check.name] = root
            return Finding(check.name, Verdict.UNCHECKED, f"not checked because of {root}")
        try:
            answer = check.ask(self._installation)
        except PipelineError as exc:
            self._failed[check.name] = check.name
            return Finding(
                check.name, Verdict.FAILED, str(exc), setting=isinstance(exc, ConfigError)
            )
        verdict = Verdict.REMARK if answer.remark else Verdict.FINE
        return Finding(check.name, verdict, redact_tokens(answer.words))

    def _destinations(self) -> Iterator[Check]:
        if SETTINGS in self._failed:
            yield Check(DESTINATIONS, _nowhere, (SETTINGS,))
            return
        try:
            configured = destinations(self._installation.settings)
        except ConfigError as exc:
            yield Check(DESTINATIONS, partial(_refused, exc))
            return
        if not configured:
            yield Check(DESTINATIONS, _nowhere)
        for one in configured:
            yield Check(one.asset, partial(places.destination, one))
        if self._installation.settings.markers is not None:
            yield Check("honeycomb_markers", places.markers)


def _nowhere(_: Installation) -> Answer:
    return remark(
        "none is configured: spans are made and stored, and sent nowhere. Set HONEYCOMB_API_KEY "
        "or OTEL_EXPORTER_OTLP_ENDPOINT."
    )


def _refused(error: ConfigError, _: Installation) -> Answer:
    raise error

"""The kinds of destinations, and those that the settings configure.

To add a kind, add an entry to `KINDS`; its code is imported when a destination is opened. There can
be several destinations of a kind: `otlp` is the one of the plain variables, `otlp:tempo` one with
variables that start with `BK_PIPELINE_TEMPO_`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.delivery import otlp_max_age
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS, TRACES, Signal
from bk_pipeline.environment import SDK_DISABLED
from bk_pipeline.errors import ConfigError
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.settings import Settings

if TYPE_CHECKING:
    from bk_pipeline.deliver.destination import Destination
    from bk_pipeline.deliver.otlp.endpoint import Otlp

ENTRY = re.compile(r"([a-z_]+)(?::([a-z][a-z0-9_]*))?")
VARIABLE = "BK_PIPELINE_DESTINATIONS"
# Kind and asset of metrics of deployments. They go where `otlp_metrics` go.
DEPLOYMENT_METRICS = "deployment_metrics"
DEPLOYMENTS_COUNTED = (
    "The day's deployments as metrics at an OTLP endpoint: how many, which failed, lead times and "
    "times to restore, each counted once."
)

OpenDestination = Callable[[Clock], "Destination"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A destination that the settings configure.

    Attributes:
        open: Creates it.
        name: Its id in the ledger, or empty if the service has to be asked for it.
        deployments: Creates the one for metrics of deployments at the same place, if it takes them.
    """

    open: OpenDestination
    name: str = ""
    deployments: OpenDestination | None = None


Configure = Callable[[Settings, str], Resolved | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of destination.

    Attributes:
        asset: The Dagster asset of the one with plain variables.
        description: A description of the asset.
        required_variable: The variable that is required.
        configured: Returns the destination, given the settings and the prefix of its variables;
            None if they configure none.
    """

    asset: str
    description: str
    required_variable: str
    configured: Configure


@dataclass(frozen=True, slots=True)
class Configured:
    """A destination that the settings name. `open` creates it without connecting.

    Attributes:
        deployments: The one for metrics of deployments at the same place, if it takes them and
            there are rules that find deployments.
    """

    kind: str
    asset: str
    description: str
    open: OpenDestination
    deployments: Configured | None = None


def _honeycomb(settings: Settings, _prefix: str) -> Resolved | None:
    if settings.honeycomb_api_key is None:
        return None

    def open_(clock: Clock) -> Destination:
        from bk_pipeline.deliver.honeycomb.destination import Honeycomb  # noqa: PLC0415

        return Honeycomb.from_settings(settings, clock=clock)

    return Resolved(open_)


def _otlp(signal: Signal, load_class: Callable[[Settings], Callable[..., Otlp]]) -> Configure:
    """Return what configures a destination for one signal at an OTLP endpoint."""

    def configured(settings: Settings, prefix: str) -> Resolved | None:
        endpoint = OtlpSettings.from_environment(
            settings.environment, signal=signal, shown_prefix=prefix
        )
        if endpoint is None:
            return None
        policy = RetryPolicy(deadline_s=settings.http_deadline_s)
        age = otlp_max_age(endpoint.url, settings, endpoint.signal.name, shown_prefix=prefix)

        def open_(clock: Clock) -> Destination:
            return load_class(settings)(endpoint, clock=clock, age=age, retry_policy=policy)

        def deployments(clock: Clock) -> Destination:
            from bk_pipeline.deliver.metrics.destination import DeploymentMetrics  # noqa: PLC0415

            return DeploymentMetrics(endpoint, clock=clock, age=age, retry_policy=policy)

        counted = signal is METRICS and settings.deployments is not None
        return Resolved(open_, endpoint.name, deployments if counted else None)

    return configured


def _load_otlp(_settings: Settings) -> type[Otlp]:
    from bk_pipeline.deliver.otlp.endpoint import Otlp  # noqa: PLC0415

    return Otlp


def _load_otlp_metrics(settings: Settings) -> Callable[..., Otlp]:
    from bk_pipeline.deliver.metrics.destination import OtlpMetrics  # noqa: PLC0415

    return partial(OtlpMetrics, conventions=settings.spans_conventions)


KINDS: Mapping[str, Kind] = {
    "honeycomb": Kind(
        "honeycomb_events",
        "The day's spans as Honeycomb events, each sent once.",
        "HONEYCOMB_API_KEY",
        _honeycomb,
    ),
    "otlp": Kind(
        "otlp_traces",
        "The day's spans at an OTLP endpoint, each sent once.",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        _otlp(TRACES, _load_otlp),
    ),
    "otlp_metrics": Kind(
        "otlp_metrics",
        "The day's builds and jobs as metrics at an OTLP endpoint, each counted once.",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        _otlp(METRICS, _load_otlp_metrics),
    ),
}


def destinations(settings: Settings) -> list[Configured]:
    """Return the destinations of these settings, in the order named.

    They are those of `BK_PIPELINE_DESTINATIONS` if it is set, else every kind whose plain variables
    are set.

    Raises:
        ConfigError: An entry is unknown, its variables are not set, or two are the same place.
    """
    if not settings.destinations:
        all_kinds = ((kind, KINDS[kind].configured(settings, "")) for kind in KINDS)
        return [_configured(kind, "", resolved) for kind, resolved in all_kinds if resolved]
    result: list[Configured] = []
    entries: dict[str, str] = {}
    for entry in dict.fromkeys(settings.destinations):
        match = ENTRY.fullmatch(entry)
        if match is None or match[1] not in KINDS:
            raise ConfigError(
                f"{VARIABLE} is malformed: expected {' or '.join(KINDS)}, or several with names of "
                "your own, like honeycomb,otlp:tempo."
            )
        kind, name = match[1], match[2] or ""
        prefix = f"BK_PIPELINE_{name.upper()}_" if name else ""
        resolved = KINDS[kind].configured(
            settings.for_destination(prefix) if name else settings, prefix
        )
        if resolved is None:
            raise ConfigError(
                f"{VARIABLE} names {entry}, but {prefix}{KINDS[kind].required_variable} is not set"
                f"{_switched_off(settings, prefix)}."
            )
        if resolved.name in entries:
            raise ConfigError(
                f"{VARIABLE} names {entries[resolved.name]} and {entry}, which are the same place to "
                f"the ledger ({resolved.name}), so spans sent to one would never be sent to the "
                f"other. Set {prefix or 'BK_PIPELINE_'}OTLP_ACCOUNT to a word that distinguishes "
                "them, like team-a."
            )
        if resolved.name:
            entries[resolved.name] = entry
        result.append(_configured(kind, name, resolved))
    return result


def _switched_off(settings: Settings, prefix: str) -> str:
    names = (f"{prefix}{SDK_DISABLED}", SDK_DISABLED)
    variable = next((name for name in names if settings.environment.get(name)), None)
    return f", or {variable} switches it off" if variable else ""


def _configured(kind: str, name: str, resolved: Resolved) -> Configured:
    declared, suffix = KINDS[kind], f"_{name}" if name else ""
    deployments = resolved.deployments and Configured(
        DEPLOYMENT_METRICS, DEPLOYMENT_METRICS + suffix, DEPLOYMENTS_COUNTED, resolved.deployments
    )
    asset = declared.asset + suffix
    return Configured(kind, asset, declared.description, resolved.open, deployments)

"""Which destinations there are, and which of them are configured.

To add a kind, add its line to `KINDS`. A kind can be there several times: `otlp` is the one
of the plain variables, `otlp:tempo` one whose variables begin with `BK_PIPELINE_TEMPO_`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.metrics.destination import OtlpMetrics
from bk_pipeline.deliver.otlp.destination import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.signals import METRICS
from bk_pipeline.errors import ConfigError
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.settings import Settings

ENTRY = re.compile(r"([a-z_]+)(?::([a-z][a-z0-9_]*))?")
VARIABLE = "BK_PIPELINE_DESTINATIONS"

Open = Callable[[Clock], Destination]


@dataclass(frozen=True, slots=True)
class Kind:
    """One way of delivering.

    Attributes:
        asset: The Dagster asset of the plain one.
        meaning: What the asset is, for people.
        needs: The variable without which there is none.
        configured: What makes the destination of these settings; None if they name none.
    """

    asset: str
    meaning: str
    needs: str
    configured: Callable[[Settings], Open | None]


@dataclass(frozen=True, slots=True)
class Configured:
    """A destination that the settings name. `open` makes it, and connects to nothing."""

    kind: str
    asset: str
    meaning: str
    open: Open


def _honeycomb(settings: Settings) -> Open | None:
    if settings.honeycomb_api_key is None:
        return None
    return lambda clock: Honeycomb.from_settings(settings, clock=clock)


def _otlp(settings: Settings) -> Open | None:
    given = OtlpSettings.from_environment(settings.environment)
    if given is None:
        return None
    policy = RetryPolicy(deadline_s=settings.http_deadline_s)
    return lambda clock: Otlp(given, clock=clock, retry_policy=policy)


def _otlp_metrics(settings: Settings) -> Open | None:
    given = OtlpSettings.from_environment(settings.environment, signal=METRICS)
    if given is None:
        return None
    policy = RetryPolicy(deadline_s=settings.http_deadline_s)
    return lambda clock: OtlpMetrics(given, clock=clock, retry_policy=policy)


KINDS: Mapping[str, Kind] = {
    "honeycomb": Kind(
        "honeycomb_events",
        "The day's spans as Honeycomb events, each sent once.",
        "HONEYCOMB_API_KEY",
        _honeycomb,
    ),
    "otlp": Kind(
        "otlp_traces",
        "The day's spans at an OTLP/HTTP endpoint, each sent once.",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        _otlp,
    ),
    "otlp_metrics": Kind(
        "otlp_metrics",
        "The day's builds and jobs as metrics at an OTLP/HTTP endpoint, each counted once.",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        _otlp_metrics,
    ),
}


def destinations(settings: Settings) -> list[Configured]:
    """The destinations of these settings, in the order named.

    Those of `BK_PIPELINE_DESTINATIONS` if it is set, else every kind whose plain variables
    are.

    Raises:
        ConfigError: An entry is unknown, or its variables are not set.
    """
    if not settings.destinations:
        found = ((kind, KINDS[kind].configured(settings)) for kind in KINDS)
        return [_configured(kind, "", open_) for kind, open_ in found if open_]
    chosen: list[Configured] = []
    for entry in dict.fromkeys(settings.destinations):
        match = ENTRY.fullmatch(entry)
        if match is None or match[1] not in KINDS:
            raise ConfigError(
                f"{VARIABLE} is malformed: give {' or '.join(KINDS)}, or several with names of "
                "your own, like honeycomb,otlp:tempo."
            )
        kind, name = match[1], match[2] or ""
        prefix = f"BK_PIPELINE_{name.upper()}_" if name else ""
        open_ = KINDS[kind].configured(settings.named(prefix) if name else settings)
        if open_ is None:
            raise ConfigError(
                f"{VARIABLE} names {entry}, and {prefix}{KINDS[kind].needs} is not set."
            )
        chosen.append(_configured(kind, name, open_))
    return chosen


def _configured(kind: str, name: str, open_: Open) -> Configured:
    chosen = KINDS[kind]
    asset = f"{chosen.asset}_{name}" if name else chosen.asset
    return Configured(kind, asset, chosen.meaning, open_)

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
from bk_pipeline.deliver.max_age import otlp_max_age
from bk_pipeline.deliver.metrics.destination import OtlpMetrics
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS
from bk_pipeline.environment import SDK_DISABLED
from bk_pipeline.errors import ConfigError
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.settings import Settings

ENTRY = re.compile(r"([a-z_]+)(?::([a-z][a-z0-9_]*))?")
VARIABLE = "BK_PIPELINE_DESTINATIONS"

Open = Callable[[Clock], Destination]


@dataclass(frozen=True, slots=True)
class Found:
    """What settings say of a destination.

    Attributes:
        open: Makes it.
        name: The ledger's for it, where nobody has to be asked for that.
    """

    open: Open
    name: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way of delivering.

    Attributes:
        asset: The Dagster asset of the plain one.
        meaning: What the asset is, for people.
        needs: The variable without which there is none.
        configured: What the settings say of it, given what its variables begin with; None if
            they name none.
    """

    asset: str
    meaning: str
    needs: str
    configured: Callable[[Settings, str], Found | None]


@dataclass(frozen=True, slots=True)
class Configured:
    """A destination that the settings name. `open` makes it, and connects to nothing."""

    kind: str
    asset: str
    meaning: str
    open: Open


def _honeycomb(settings: Settings, _prefix: str) -> Found | None:
    if settings.honeycomb_api_key is None:
        return None
    return Found(lambda clock: Honeycomb.from_settings(settings, clock=clock))


def _otlp(settings: Settings, prefix: str) -> Found | None:
    given = OtlpSettings.from_environment(settings.environment, shown_prefix=prefix)
    if given is None:
        return None
    policy = RetryPolicy(deadline_s=settings.http_deadline_s)
    age = otlp_max_age(given.url, settings, given.signal.name, shown_prefix=prefix)
    return Found(lambda clock: Otlp(given, clock=clock, age=age, retry_policy=policy), given.name)


def _otlp_metrics(settings: Settings, prefix: str) -> Found | None:
    given = OtlpSettings.from_environment(settings.environment, signal=METRICS, shown_prefix=prefix)
    if given is None:
        return None
    policy = RetryPolicy(deadline_s=settings.http_deadline_s)
    age = otlp_max_age(given.url, settings, given.signal.name, shown_prefix=prefix)
    return Found(
        lambda clock: OtlpMetrics(given, clock=clock, age=age, retry_policy=policy), given.name
    )


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
        ConfigError: An entry is unknown, its variables are not set, or two are one place.
    """
    if not settings.destinations:
        all_kinds = ((kind, KINDS[kind].configured(settings, "")) for kind in KINDS)
        return [_configured(kind, "", found) for kind, found in all_kinds if found]
    chosen: list[Configured] = []
    entries: dict[str, str] = {}
    for entry in dict.fromkeys(settings.destinations):
        match = ENTRY.fullmatch(entry)
        if match is None or match[1] not in KINDS:
            raise ConfigError(
                f"{VARIABLE} is malformed: give {' or '.join(KINDS)}, or several with names of "
                "your own, like honeycomb,otlp:tempo."
            )
        kind, name = match[1], match[2] or ""
        prefix = f"BK_PIPELINE_{name.upper()}_" if name else ""
        found = KINDS[kind].configured(settings.named(prefix) if name else settings, prefix)
        if found is None:
            raise ConfigError(
                f"{VARIABLE} names {entry}, and {prefix}{KINDS[kind].needs} is not set"
                f"{_switched_off(settings, prefix)}."
            )
        if found.name in entries:
            raise ConfigError(
                f"{VARIABLE} names {entries[found.name]} and {entry}, which are one place to the "
                f"ledger ({found.name}): what one has sent the other never would. Set "
                f"{prefix or 'BK_PIPELINE_'}OTLP_ACCOUNT to a word for whose it is, like team-a."
            )
        if found.name:
            entries[found.name] = entry
        chosen.append(_configured(kind, name, found))
    return chosen


def _switched_off(settings: Settings, prefix: str) -> str:
    names = (f"{prefix}{SDK_DISABLED}", SDK_DISABLED)
    off = next((name for name in names if settings.environment.get(name)), None)
    return f", or {off} switches it off" if off else ""


def _configured(kind: str, name: str, found: Found) -> Configured:
    chosen = KINDS[kind]
    asset = f"{chosen.asset}_{name}" if name else chosen.asset
    return Configured(kind, asset, chosen.meaning, found.open)

"""The maximum span age of each destination, with known values by host. Pure.

A backend that accepts an old span with a 2xx but never shows it loses it silently, so such spans
are counted and not sent. Datadog states no limit, and the host of a self-run collector does not
reveal what is behind it: `BK_PIPELINE_OTLP_MAX_AGE` sets a limit for those.

Sources: the vendors' documentation, 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from bk_pipeline.settings import Settings

TRACES, METRICS = "traces", "metrics"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# The path of Dynatrace's ActiveGate, which may run on any host.
ACTIVE_GATE = "/api/v2/otlp"
HONEYCOMB_AGE = "BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS"
HONEYCOMB_REASON = "Honeycomb would bill them but never show them"


@dataclass(frozen=True, slots=True)
class MaxAge:
    """The maximum age of a destination and the reason for it.

    Attributes:
        limit: Older spans are not sent; None sends spans of any age.
        reason: What would happen to older spans, or why there is no limit.
        setting: The variable that changes the limit.
        by_end: Measure a span's age from its end instead of its start.
    """

    limit: timedelta | None
    reason: str
    setting: str
    by_end: bool = False

    @property
    def description(self) -> str:
        """The limit, its reason and its setting, as a sentence."""
        if self.limit is None:
            return f"Spans of any age are sent: {self.reason}."
        since = " since their end" if self.by_end else ""
        return (
            f"Spans older than {age_text(self.limit)}{since} are not sent: {self.reason}. "
            f"{self.setting}=0 sends them anyway."
        )


NO_LIMIT = MaxAge(None, "no maximum age is known", "BK_PIPELINE_OTLP_MAX_AGE")


@dataclass(frozen=True, slots=True)
class _Backend:
    name: str
    hosts: tuple[str, ...]
    limit: timedelta
    by_end: bool = False
    # New Relic and others treat old metrics differently from old spans, or do not document it.
    signals: tuple[str, ...] = (TRACES,)


HONEYCOMB = _Backend("Honeycomb", ("honeycomb.io",), 60 * DAY, signals=(TRACES, METRICS))
DYNATRACE = _Backend("Dynatrace", ("dynatrace.com",), HOUR, by_end=True, signals=(TRACES, METRICS))
BACKENDS = (
    HONEYCOMB,
    DYNATRACE,
    _Backend("New Relic", ("nr-data.net", "newrelic.com"), DAY),
    _Backend("Sumo Logic", ("sumologic.com",), DAY),
    _Backend("Yandex Monium", ("yandex.cloud",), DAY),
)


def honeycomb_max_age(settings: Settings) -> MaxAge:
    """Return Honeycomb's limit, which applies to its own API and to OTLP."""
    days = settings.honeycomb_max_age_days
    if not days:
        return MaxAge(None, f"{HONEYCOMB_AGE} is 0", HONEYCOMB_AGE)
    return MaxAge(days * DAY, HONEYCOMB_REASON, HONEYCOMB_AGE)


def otlp_max_age(url: str, settings: Settings, signal: str, *, shown_prefix: str) -> MaxAge:
    """Return the limit of an OTLP endpoint: the configured one, else the known one of its host.

    Args:
        url: The URL of the endpoint.
        settings: The settings of the destination.
        signal: The name of the signal: `traces` or `metrics`.
        shown_prefix: The prefix of the destination's variables, for messages.
    """
    backend = _backend(url)
    by_end = backend is not None and backend.by_end
    setting = f"{shown_prefix or 'BK_PIPELINE_'}OTLP_MAX_AGE"
    configured = settings.otlp_max_age
    if signal == METRICS and settings.otlp_metrics_max_age is not None:
        setting = f"{shown_prefix or 'BK_PIPELINE_'}OTLP_METRICS_MAX_AGE"
        configured = settings.otlp_metrics_max_age
    if configured is not None:
        reason = f"{setting} is {age_text(configured) if configured else '0'}"
        return MaxAge(configured or None, reason, setting, by_end)
    if backend is HONEYCOMB:
        return honeycomb_max_age(settings)
    if backend is not None and signal in backend.signals:
        return MaxAge(backend.limit, f"{backend.name} does not keep them", setting, by_end)
    host = urlsplit(url).hostname
    return MaxAge(
        None,
        f"no maximum age is known for {host}. If the backend drops old spans, set {setting}, "
        "for example to 90m, 24h or 60d",
        setting,
    )


def age_text(age: timedelta) -> str:
    """Return an age as text: `60 minutes`, `24 hours`, `60 days`."""
    for unit, name, minimum in ((DAY, "days", 2), (HOUR, "hours", 2)):
        if not age % unit and age // unit >= minimum:
            return f"{age // unit} {name}"
    return f"{age // timedelta(minutes=1)} minutes"


def _backend(url: str) -> _Backend | None:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if ACTIVE_GATE in parts.path:
        return DYNATRACE
    return next(
        (
            one
            for one in BACKENDS
            if any(host == known or host.endswith(f".{known}") for known in one.hosts)
        ),
        None,
    )

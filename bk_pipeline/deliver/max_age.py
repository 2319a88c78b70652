"""How old a span may be for a destination to keep it; the known values by host. Pure.

A backend that takes an old span with a 2xx and never shows it loses it in silence, so such spans
are counted and not sent. Sources: the vendors' documentation, 2026. Datadog states no limit, and
what stands behind a collector of one's own its host does not tell: `BK_PIPELINE_OTLP_MAX_AGE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from bk_pipeline.settings import Settings

TRACES, METRICS = "traces", "metrics"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Dynatrace's ActiveGate, whatever its host.
ACTIVE_GATE = "/api/v2/otlp"
HONEYCOMB_AGE = "BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS"
HONEYCOMB_REASON = "Honeycomb would bill them and never show them"


@dataclass(frozen=True, slots=True)
class MaxAge:
    """A destination's limit, and why it is in force.

    Attributes:
        limit: Older spans are not sent; None: all are.
        reason: What would happen to older ones, or why there is no limit.
        setting: The variable that changes it.
        by_end: A span's age is counted from its end, not from its start.
    """

    limit: timedelta | None
    reason: str
    setting: str
    by_end: bool = False

    @property
    def sentence(self) -> str:
        """The limit for people."""
        if self.limit is None:
            return f"Spans of any age are sent: {self.reason}."
        since = " since their end" if self.by_end else ""
        return (
            f"Spans older than {shown(self.limit)}{since} are not sent: {self.reason}. "
            f"{self.setting}=0 sends them all the same."
        )


NO_LIMIT = MaxAge(None, "no maximum age is known", "BK_PIPELINE_OTLP_MAX_AGE")


@dataclass(frozen=True, slots=True)
class _Backend:
    name: str
    hosts: tuple[str, ...]
    limit: timedelta
    by_end: bool = False
    # New Relic and others take old metrics differently from old spans, or do not say.
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
    """The limit of Honeycomb, whichever way spans go there."""
    days = settings.honeycomb_max_age_days
    if not days:
        return MaxAge(None, f"{HONEYCOMB_AGE} is 0", HONEYCOMB_AGE)
    return MaxAge(days * DAY, HONEYCOMB_REASON, HONEYCOMB_AGE)


def otlp_max_age(url: str, settings: Settings, signal: str, *, shown_prefix: str) -> MaxAge:
    """The limit of an OTLP endpoint: the setting's, else what is known of its host.

    Args:
        url: Where the signal goes.
        settings: The destination's own.
        signal: What goes there: `traces` or `metrics`.
        shown_prefix: What the destination's variables begin with, for messages.
    """
    backend = _backend(url)
    by_end = backend is not None and backend.by_end
    setting = f"{shown_prefix or 'BK_PIPELINE_'}OTLP_MAX_AGE"
    given = settings.otlp_max_age
    if signal == METRICS and settings.otlp_metrics_max_age is not None:
        setting = f"{shown_prefix or 'BK_PIPELINE_'}OTLP_METRICS_MAX_AGE"
        given = settings.otlp_metrics_max_age
    if given is not None:
        reason = f"{setting} is {shown(given) if given else '0'}"
        return MaxAge(given or None, reason, setting, by_end)
    if backend is HONEYCOMB:
        return honeycomb_max_age(settings)
    if backend is not None and signal in backend.signals:
        return MaxAge(backend.limit, f"{backend.name} does not keep them", setting, by_end)
    host = urlsplit(url).hostname
    return MaxAge(
        None,
        f"no maximum age is known of {host}. If the backend drops old ones, set {setting}, "
        "like 90m, 24h or 60d",
        setting,
    )


def shown(age: timedelta) -> str:
    """`60 minutes`, `24 hours`, `60 days`."""
    for unit, name, least in ((DAY, "days", 2), (HOUR, "hours", 2)):
        if not age % unit and age // unit >= least:
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

"""How to deliver and with what result: policies, maximum span ages, totals.

A backend that accepts an old span with a 2xx but never shows it loses it silently, so spans above
its maximum age are not sent, and their number is noted in the ledger. Datadog states no limit, and
the host of a self-run collector does not reveal what is behind it: `BK_PIPELINE_OTLP_MAX_AGE` sets
a limit for those. Sources of the ages: the vendors' documentation, 2026.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

from bk_pipeline.contracts import Rejection
from bk_pipeline.settings import Settings

REJECTIONS_SHOWN = 10


class Guarantee(StrEnum):
    """What happens to a batch whose response never arrived."""

    AT_LEAST_ONCE = "at_least_once"  # resent: nothing is lost, some items may be duplicated
    AT_MOST_ONCE = "at_most_once"  # presumed sent: nothing is duplicated, some items may be lost


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """Guarantee and concurrency of a delivery.

    Attributes:
        guarantee: What to do with items in doubt.
        in_flight: The maximum number of concurrent requests.
    """

    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE
    in_flight: int = 4


@dataclass(slots=True)
class Delivery:
    """The result of a delivery, counted in items. Results are added up with `+`.

    Attributes:
        accepted: Accepted by the destination.
        rejected: Rejected permanently; `rejections` has the first few.
        rejected_unnamed: The number of accepted items that the destination rejected without naming
            them; `warnings` has its message. They are settled, because resending them would
            duplicate the others of their batch.
        already_settled: Not sent, because the ledger has them settled or because they were in the
            tables twice.
        presumed_sent: In doubt from earlier runs and presumed sent ("at most once").
        in_doubt_resent: In doubt from earlier runs and sent again ("at least once").
        too_old: Not sent, because they exceed the maximum age of the destination.
        sampled_out: Spans not sent, because the sampling rules drop their builds.
        sampled_out_builds: The number of these builds of the day, each counted once.
        future: Sent, but too far in the future for the destination to keep their time.
        trimmed: Accepted with less than the whole span.
        batches: The number of requests that got a response.
        body_bytes: The size of those requests before compression.
        sent_bytes: The size of those requests as sent.
        seconds: The duration of the delivery.
        rejections: The first few rejected items.
        warnings: The first few warnings of the destination.
        age_limit: A sentence that says which spans are too old for the destination, and why.
    """

    accepted: int = 0
    rejected: int = 0
    rejected_unnamed: int = 0
    already_settled: int = 0
    presumed_sent: int = 0
    in_doubt_resent: int = 0
    too_old: int = 0
    sampled_out: int = 0
    sampled_out_builds: int = 0
    future: int = 0
    trimmed: int = 0
    batches: int = 0
    body_bytes: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    rejections: list[Rejection] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    age_limit: str = ""

    def __add__(self, other: Delivery) -> Delivery:
        total = Delivery()
        total += self
        total += other
        return total

    def __iadd__(self, other: Delivery) -> Self:
        age_limit = other.age_limit or self.age_limit
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        del self.rejections[REJECTIONS_SHOWN:]
        del self.warnings[REJECTIONS_SHOWN:]
        self.age_limit = age_limit
        return self


@dataclass(frozen=True, slots=True)
class PartNote:
    """The ledger's note that a part is delivered, except for spans that were not to be sent.

    Attributes:
        part: The name of the part.
        too_old: The number of its spans that exceeded `max_age_s`.
        max_age_s: The maximum age then, in seconds.
        sampled_out: The number of its spans whose builds were dropped by `rules`.
        rules: The digest of the sampling rules then.
    """

    part: str
    too_old: int = 0
    max_age_s: int = 0
    sampled_out: int = 0
    rules: str = ""

    @classmethod
    def parse(cls, note: str) -> Self:
        """Return the note that this is the text of."""
        found = _NOTE.fullmatch(note)
        if found is None:
            return cls(note)
        part, max_age_s, too_old, rules, sampled_out = found.groups()
        return cls(part, int(too_old or 0), int(max_age_s or 0), int(sampled_out or 0), rules or "")

    def __str__(self) -> str:
        text = self.part
        if self.too_old:
            text += f" older than {self.max_age_s} s: {self.too_old}"
        if self.sampled_out:
            text += f" sampled by {self.rules}: {self.sampled_out}"
        return text

    def holds(self, max_age: timedelta | None, rules: str) -> bool:
        """Return whether nothing more is to be sent of the part with this age and these rules."""
        age_s = None if max_age is None else int(max_age.total_seconds())
        same_age = not self.too_old or self.max_age_s == age_s
        return same_age and (not self.sampled_out or self.rules == rules)


_NOTE = re.compile(r"(\S+)(?: older than (\d+) s: (\d+))?(?: sampled by ([0-9a-f]+): (\d+))?")


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


def is_honeycomb(url: str) -> bool:
    """Return whether an OTLP endpoint is Honeycomb's."""
    return _backend(url) is HONEYCOMB


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

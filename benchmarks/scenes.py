"""The environment of fault benchmarks: a sandbox, a destination, a ledger and a day of spans.

What has become of the spans is counted by what the sandbox stored, and never by what the
delivery or the ledger say of themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destination import Destination, Item, SendResult, Verdict
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.errors import ServiceUnavailable, UnexpectedAnswer
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox
from bk_pipeline_tests.deliver.tables import DAY, tables

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
BATCH = 50
IN_FLIGHT = 4
SPANS_TO_POISON = 500
RETRY = RetryPolicy(deadline_s=60)
# Seconds of the real clock; how long an answer may take as a whole is by ours.
PATIENT = Timeouts(connect_s=30, read_s=30, total_s=10**6)
# For responses that never arrive. Half a second is long on loopback.
IMPATIENT = Timeouts(connect_s=30, read_s=0.5, total_s=10**6)

SpanId = tuple[str, str]


class HastyClock:
    """A clock that starts at noon; `sleep` advances it without waiting."""

    def __init__(self) -> None:
        self._slept_s = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the current simulated time."""
        return NOON

    def monotonic(self) -> float:
        """Return simulated monotonic seconds."""
        return self._slept_s

    def sleep(self, seconds: float) -> None:
        """Advance the clock by `seconds` at once."""
        with self._lock:
            self._slept_s += seconds


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of destination, with its name in the sandbox.

    Attributes:
        service: The sandbox's name for it.
        path: Where spans go.
        open: Makes the destination, given the sandbox's URL and key, a clock and timeouts.
        stored: The ids of all that the sandbox has stored, doubles included.
    """

    name: str
    service: str
    path: str
    open: Callable[[str, str, Clock, Timeouts], Honeycomb | Otlp]
    stored: Callable[[Sandbox], list[SpanId]]


def _honeycomb(url: str, key: str, clock: Clock, timeouts: Timeouts) -> Honeycomb | Otlp:
    return Honeycomb(url, key, "ci", clock=clock, retry_policy=RETRY, timeouts=timeouts)


def _otlp(url: str, _: str, clock: Clock, timeouts: Timeouts) -> Honeycomb | Otlp:
    settings = OtlpSettings(f"{url}/v1/traces")
    return Otlp(settings, clock=clock, retry_policy=RETRY, timeouts=timeouts)


TARGETS: Mapping[str, Target] = {
    "Honeycomb": Target(
        "Honeycomb",
        "honeycomb",
        "/1/batch/*",
        _honeycomb,
        lambda sandbox: [
            (one.data["trace.trace_id"], one.data["trace.span_id"])
            for one in sandbox.honeycomb.events
        ],
    ),
    "OTLP": Target(
        "OTLP",
        "otlp",
        "/v1/traces",
        _otlp,
        lambda sandbox: [(one.trace_id, one.span_id) for one in sandbox.otlp.spans],
    ),
}


class Watched:
    """A destination that counts the items whose response leaves them in doubt."""

    def __init__(self, inner: Destination) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.in_doubt = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send(self, items: Sequence[Item]) -> SendResult:
        """Send items, and return the destination's result."""
        try:
            answer = self._inner.send(items)
        except ServiceUnavailable as exc:
            self._doubt(len(items) if exc.maybe_processed else 0)
            raise
        except UnexpectedAnswer:
            self._doubt(len(items))
            raise
        self._doubt(sum(one.verdict is Verdict.UNANSWERED for one in answer.outcomes))
        return answer

    def _doubt(self, count: int) -> None:
        with self._lock:
            self.in_doubt += count


def small_batches(destination: Honeycomb | Otlp, items: int = BATCH) -> Destination:
    """Return the destination with small batches, so that there are several."""
    destination.limits = replace(destination.limits, batch_items=items)
    return destination


def send(
    made: Iterable[pa.Table],
    *,
    destination: Destination,
    ledger: Ledger,
    clock: Clock,
    guarantee: Guarantee,
) -> Delivery:
    """Deliver the day once under the delivery lock, as `pipeline.deliver_day` does."""
    with ledger.delivery_lock(destination.name, DAY):
        return deliver(
            made,
            day=DAY,
            destination=destination,
            ledger=ledger,
            clock=clock,
            policy=DeliveryPolicy(guarantee, IN_FLIGHT),
        )


def day_of(builds: int) -> list[pa.Table]:
    """Return the spans of a day: 8 per build, without links."""
    return tables(builds)

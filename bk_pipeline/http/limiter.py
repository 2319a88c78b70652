"""Rate limiting of requests to one service, for all threads that send to it.

A limiter closes when the service throttles a request, or reports that only a reserve remains
of its limit. Pauses grow until a request succeeds; if several requests under way at the same
time are throttled, that counts once. Buildkite's two quotas, which must never be exceeded and
are shared between processes, have their own module, `buildkite/quota.py`.

Source: Honeycomb's API description: `RateLimit: limit=100, remaining=50, reset=60`, reset in
seconds. Its text and its examples differ in case, which is ignored here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from threading import Lock

from bk_pipeline import telemetry
from bk_pipeline.clock import Clock
from bk_pipeline.errors import DeliveryThrottled
from bk_pipeline.http.retry import LONGEST_WAIT_S, RetryPolicy

# Requests left for other users of the same key.
RESERVE = 5

_NUMBER = re.compile(r"\b(limit|remaining|reset)\s*=\s*(\d{1,9})")


class RateLimiter:
    """Delays requests to one service while it is closed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._opens_at = 0.0
        self._closings = 0
        self._closings_in_a_row = 0

    def enter(
        self,
        clock: Clock,
        *,
        stopped: Callable[[], bool] = lambda: False,
        on_wait: Callable[[float], None] | None = None,
    ) -> int:
        """Wait until the limiter is open or `stopped` returns True; return a permit.

        Args:
            clock: Used for waiting.
            stopped: Ends the wait before its time.
            on_wait: Called before each wait, with its length in seconds.

        Returns:
            The permit, for `passed` or `refused`.
        """
        while not stopped():
            with self._lock:
                left_s = self._opens_at - clock.monotonic()
                if left_s <= 0:
                    break
            if on_wait is not None:
                on_wait(left_s)
            with telemetry.leaf_span("wait for pace"):
                clock.sleep(left_s)
        return self._closings

    def passed(self, permit: int) -> None:
        """Record that the request with `permit` succeeded."""
        with self._lock:
            if permit == self._closings:
                self._closings_in_a_row = 0

    def refused(
        self, permit: int, error: DeliveryThrottled, *, policy: RetryPolicy, clock: Clock
    ) -> float:
        """Close because the request with `permit` was throttled.

        Returns:
            Seconds until the limiter opens.
        """
        with self._lock:
            now = clock.monotonic()
            if permit == self._closings:
                self._closings += 1
                self._closings_in_a_row += 1
                pause_s = policy.pause_s(self._closings_in_a_row, error)
                self._opens_at = max(self._opens_at, now + pause_s)
            return max(self._opens_at - now, 0.0)

    def learn(self, headers: Mapping[str, str], *, clock: Clock) -> None:
        """Close until the limit resets, if `headers` show that only the reserve remains.

        A limit no larger than the reserve is used up completely. Headers without a limit
        change nothing.
        """
        found = {
            name: int(number) for name, number in _NUMBER.findall(headers.get("RateLimit", ""))
        }
        if "remaining" in found and "reset" in found:
            reserve = RESERVE if found.get("limit", RESERVE + 1) > RESERVE else 0
            if found["remaining"] <= reserve:
                with self._lock:
                    pause_s = min(found["reset"], LONGEST_WAIT_S)
                    self._opens_at = max(self._opens_at, clock.monotonic() + pause_s)


_limiters: dict[str, RateLimiter] = {}
_limiters_lock = Lock()


def limiter_of(destination: str) -> RateLimiter:
    """The process-wide limiter of the destination with this name."""
    with _limiters_lock:
        return _limiters.setdefault(destination, RateLimiter())

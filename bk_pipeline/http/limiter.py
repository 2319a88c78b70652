"""Rate limiting of requests to one service, for all threads that send to it.

A limiter closes when the service asks to slow down, or says that only a reserve is left of
its limit. The pauses grow as long as nothing gets through: several refusals of requests that
were under way together count as one. Buildkite's two quotas, which must never be exceeded and
are shared between processes, are kept in `buildkite/quota.py`.

Source: Honeycomb's API description: `RateLimit: limit=100, remaining=50, reset=60`, reset in
seconds. Its text and its examples spell the header differently; case does not matter to us.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from threading import Lock

from bk_pipeline import telemetry
from bk_pipeline.clock import Clock
from bk_pipeline.errors import DeliveryThrottled
from bk_pipeline.http.retry import LONGEST_WAIT_S, RetryPolicy

# The requests that are left to others who use the same key.
RESERVE = 5

_NUMBER = re.compile(r"\b(limit|remaining|reset)\s*=\s*(\d{1,9})")


class RateLimiter:
    """Holds back the requests to one service while it is closed."""

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
        """A permit for one request, once the limiter is open or `stopped` returns True.

        `on_wait` is called with the seconds of each wait, before it.
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
        """The request with `permit` was taken."""
        with self._lock:
            if permit == self._closings:
                self._closings_in_a_row = 0

    def refused(
        self, permit: int, error: DeliveryThrottled, *, policy: RetryPolicy, clock: Clock
    ) -> float:
        """Close because of `error`, the answer to the request with `permit`; seconds until it opens."""
        with self._lock:
            now = clock.monotonic()
            if permit == self._closings:
                self._closings += 1
                self._closings_in_a_row += 1
                pause_s = policy.pause_s(self._closings_in_a_row, error)
                self._opens_at = max(self._opens_at, now + pause_s)
            return max(self._opens_at - now, 0.0)

    def learn(self, headers: Mapping[str, str], *, clock: Clock) -> None:
        """Close until the limit's reset if an answer's headers say that only the reserve is left.

        A limit too small for the reserve is used to its end. Headers without a limit change
        nothing.
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
    """The limiter of the destination of this name, the same for the whole process."""
    with _limiters_lock:
        return _limiters.setdefault(destination, RateLimiter())

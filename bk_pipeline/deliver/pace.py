"""One rate for all threads of the process that send to the same place.

Who is told to slow down closes the gate for all. The pauses grow as long as nothing gets
through, whoever tried: several refusals of requests that were under way together count
as one.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from bk_pipeline import telemetry
from bk_pipeline.clock import Clock
from bk_pipeline.errors import DeliveryThrottled
from bk_pipeline.http.retry import RetryPolicy


class Pace:
    """The gate of one destination."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._opens_at = 0.0
        self._closings = 0
        self._closings_in_a_row = 0

    def enter(
        self,
        clock: Clock,
        *,
        stopped: Callable[[], bool],
        on_wait: Callable[[float], None] | None = None,
    ) -> int:
        """A ticket for one request, once the gate is open or `stopped` says yes.

        `on_wait` is called with the seconds of each wait, before it.
        """
        while not stopped():
            with self._lock:
                left_s = self._opens_at - clock.monotonic()
                if left_s <= 0:
                    break
            if on_wait is not None:
                on_wait(left_s)
            with telemetry.leaf("wait for pace"):
                clock.sleep(left_s)
        return self._closings

    def passed(self, ticket: int) -> None:
        """The request with `ticket` was taken."""
        with self._lock:
            if ticket == self._closings:
                self._closings_in_a_row = 0

    def refused(
        self, ticket: int, error: DeliveryThrottled, *, policy: RetryPolicy, clock: Clock
    ) -> float:
        """Close the gate because of `error`; seconds until it opens."""
        with self._lock:
            now = clock.monotonic()
            if ticket == self._closings:
                self._closings += 1
                self._closings_in_a_row += 1
                pause_s = policy.pause_s(self._closings_in_a_row, error)
                self._opens_at = max(self._opens_at, now + pause_s)
            return max(self._opens_at - now, 0.0)


_paces: dict[str, Pace] = {}
_paces_lock = Lock()


def pace_of(destination: str) -> Pace:
    """The gate of the destination of this name, the same for the whole process."""
    with _paces_lock:
        return _paces.setdefault(destination, Pace())

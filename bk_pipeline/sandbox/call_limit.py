"""Honeycomb's limit on calls that manage things: markers, colours, the auth endpoint.

The headers are as its API description has them. Not published, and so a guess: how the calls
are counted; here in windows of a minute that begin with a call.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import ceil
from threading import Lock

LIMIT = 100
WINDOW_S = 60.0


class CallLimit:
    """Counts calls. With `enforced` False none is refused; the headers are there either way."""

    def __init__(self, clock: Callable[[], float], *, enforced: bool) -> None:
        self.enforced = enforced
        self.limit = LIMIT
        self._clock = clock
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Forgets what was counted."""
        self._opened = 0.0
        self._count = 0

    def spend(self) -> tuple[dict[str, str], bool]:
        """Counts a call: the headers of its answer, and whether it is one too many."""
        with self._lock:
            now = self._clock()
            if now >= self._opened + WINDOW_S:
                self._opened, self._count = now, 0
            self._count += self.enforced
            reset_s = ceil(self._opened + WINDOW_S - now)
            left = max(self.limit - self._count, 0)
            headers = {
                "RateLimit": f"limit={self.limit}, remaining={left}, reset={reset_s}",
                "RateLimitPolicy": f"{self.limit};w={WINDOW_S:.0f}",
            }
            passed = self._count > self.limit
            if passed:
                until = datetime.fromtimestamp(now, UTC) + timedelta(seconds=reset_s)
                headers["Retry-After"] = format_datetime(until, usegmt=True)
            return headers, passed

"""Honeycomb's limit on management calls, read from each answer and kept to.

Source: Honeycomb's API description: `RateLimit: limit=100, remaining=50, reset=60`, reset in
seconds. Its text and its examples spell the header differently; case does not matter to us.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from bk_pipeline.clock import Clock
from bk_pipeline.http.retry_after import LONGEST_WAIT_S

# What stays for whoever else uses the same key.
RESERVE = 5

_NUMBER = re.compile(r"\b(limit|remaining|reset)\s*=\s*(\d{1,9})")


class Pace:
    """Waits before a call that would go over the limit.

    Args:
        clock: Tells time and waits.
        on_wait: Told, in a sentence, of each wait.
    """

    def __init__(self, clock: Clock, on_wait: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_wait = on_wait
        self._remaining: int | None = None
        self._reset_at = 0.0

    def wait(self) -> None:
        """Return when a call may be made."""
        pause_s = min(self._reset_at - self._clock.monotonic(), LONGEST_WAIT_S)
        if self._remaining is None or self._remaining > RESERVE or pause_s <= 0:
            return
        self._remaining = None
        self._on_wait(f"Honeycomb's limit on such calls is reached: waiting {pause_s:.0f} s")
        self._clock.sleep(pause_s)

    def note(self, headers: Mapping[str, str]) -> None:
        """Learn from an answer's headers; from one without them, nothing."""
        found = dict(_NUMBER.findall(headers.get("RateLimit", "")))
        if "remaining" in found and "reset" in found:
            # A limit too small for the reserve is used to its end.
            small = int(found.get("limit", RESERVE + 1)) <= RESERVE
            self._remaining = int(found["remaining"]) + (RESERVE if small else 0)
            self._reset_at = self._clock.monotonic() + int(found["reset"])

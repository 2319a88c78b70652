"""The only place that knows the time or waits; whoever needs either is handed a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from bk_pipeline import stopping


class Clock(Protocol):
    """What the program asks of time. Tests pass one that never really waits."""

    def now(self) -> datetime:
        """The moment, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes backwards."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The machine's own time. Nobody sleeps on once the process was asked to stop."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        if stopping.PROCESS.wait(seconds):
            raise KeyboardInterrupt

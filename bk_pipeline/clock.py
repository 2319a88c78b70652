"""The clock: the only module that reads the time or sleeps. Other code is passed a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from bk_pipeline import stopping


class Clock(Protocol):
    """Tells the time and sleeps. Tests pass one that does not really sleep."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary point in time; never goes backwards."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block for `seconds`."""
        ...


class SystemClock:
    """The system's clock. `sleep` ends early when the process was asked to stop."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return `time.monotonic()`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block for `seconds`.

        Raises:
            KeyboardInterrupt: A stop of the process was requested.
        """
        if stopping.PROCESS.wait(seconds):
            raise KeyboardInterrupt

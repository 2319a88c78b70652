"""The clock, and cooperative shutdown: the only module that reads the time or sleeps.

Code that needs the time is passed a `Clock`. Code that waits (for a server, a quota, a lock, a
retry) checks here whether a stop was requested, and gives up soon after: a signal interrupts only
the main thread, and only between two bytecodes. A request in flight gets `GRACE_S` to finish,
because a batch whose response has arrived is not in doubt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from threading import Event
from typing import Protocol

# How long a request in flight may still take after a stop was requested.
GRACE_S = 1.5


class Stop:
    """A request to stop, which any thread may make or check."""

    def __init__(self) -> None:
        self._event = Event()
        self._requested_at = 0.0

    def request(self) -> None:
        """Request the stop. Further calls have no effect."""
        if not self._event.is_set():
            self._requested_at = time.monotonic()
            self._event.set()

    def requested(self, *, for_s: float = 0.0) -> bool:
        """Return whether the stop was requested at least `for_s` seconds ago."""
        return self._event.is_set() and time.monotonic() - self._requested_at >= for_s

    def wait(self, seconds: float) -> bool:
        """Wait for `seconds`; return True at once if the stop is requested."""
        return self._event.wait(seconds)


# Requested by SIGINT or SIGTERM; see `cli/signals.py`.
PROCESS = Stop()

_block: ContextVar[Stop | None] = ContextVar("bk_pipeline_stop", default=None)


@contextmanager
def stopped_by(stop: Stop) -> Iterator[None]:
    """Let `stop` also abort the requests made in this block, in this thread only."""
    token = _block.set(stop)
    try:
        yield
    finally:
        _block.reset(token)


def grace_period_over() -> bool:
    """Return whether work in flight in this thread must be abandoned now."""
    block = _block.get()
    return PROCESS.requested(for_s=GRACE_S) or (
        block is not None and block.requested(for_s=GRACE_S)
    )


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
        if PROCESS.wait(seconds):
            raise KeyboardInterrupt

"""Stopping in time: who asked the program to stop, and who has to know.

A signal interrupts the main thread only, and only between two bytecodes. So everything that
waits (for a server, a quota, a lock, a retry) asks here, and gives up soon after a stop was
asked for. What is under way gets `GRACE_S` to be answered: a batch that is answered is not in
doubt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

# How long a request that is under way may still take.
GRACE_S = 1.5


class Stop:
    """A request to stop. Any thread may make it or ask for it."""

    def __init__(self) -> None:
        self._event = Event()
        self._asked_at = 0.0

    def ask(self) -> None:
        """Ask for the stop. Only the first time counts."""
        if not self._event.is_set():
            self._asked_at = time.monotonic()
            self._event.set()

    def asked(self, *, for_s: float = 0.0) -> bool:
        """Whether the stop was asked for, at least `for_s` seconds ago."""
        return self._event.is_set() and time.monotonic() - self._asked_at >= for_s

    def wait(self, seconds: float) -> bool:
        """Return after `seconds`, or at once with True if the stop is asked for."""
        return self._event.wait(seconds)


# Asked for by SIGINT or SIGTERM; see `cli/signals.py`.
PROCESS = Stop()

_block: ContextVar[Stop | None] = ContextVar("bk_pipeline_stop", default=None)


@contextmanager
def heeding(stop: Stop) -> Iterator[None]:
    """A block whose requests `stop` ends too. It holds for this thread alone."""
    token = _block.set(stop)
    try:
        yield
    finally:
        _block.reset(token)


def out_of_time() -> bool:
    """Whether what is under way here must be given up now."""
    block = _block.get()
    return PROCESS.asked(for_s=GRACE_S) or (block is not None and block.asked(for_s=GRACE_S))

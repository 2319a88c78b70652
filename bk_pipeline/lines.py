"""Lines for a log or a pipe: few enough to be read, and none of a wait is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock, Timer

# How often a line may be written.
LINE_EVERY_S = 10.0


class Lines:
    """Writes at most one line every `LINE_EVERY_S` seconds. For several threads at once.

    Progress that comes too soon is dropped: what follows says more. A wait may be followed by
    silence, so its line is kept, and written as soon as one may be.

    Args:
        write: Writes a line.
        now: Monotonic seconds.
    """

    def __init__(
        self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._now = now
        self._lock = Lock()
        self._began_at = now()
        self._written_at: float | None = None
        self._kept = ""
        self._timer: Timer | None = None

    def progress(self, line: str) -> None:
        """Write `line`, or a wait that was kept, if one may be written now."""
        with self._lock:
            since = self._began_at if self._written_at is None else self._written_at
            if self._now() - since >= LINE_EVERY_S:
                self._put(self._kept or line)

    def wait(self, line: str) -> None:
        """Write `line` now, or as soon as a line may be written."""
        with self._lock:
            left_s = self._left_s()
            if left_s <= 0:
                self._put(line)
                return
            self._kept = line
            if self._timer is None:
                self._timer = Timer(left_s, self._flush)
                self._timer.daemon = True
                self._timer.start()

    def say(self, line: str) -> None:
        """Write `line` whatever the time."""
        with self._lock:
            self._written_at = self._now()
            self._write(line)

    def close(self) -> None:
        """Write nothing from now on that was kept."""
        with self._lock:
            self._kept = ""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _left_s(self) -> float:
        since = self._written_at
        return 0.0 if since is None else since + LINE_EVERY_S - self._now()

    def _flush(self) -> None:
        with self._lock:
            self._timer = None
            if self._kept:
                self._put(self._kept)

    def _put(self, line: str) -> None:
        self._kept = ""
        self._written_at = self._now()
        self._write(line)

"""Throttled status lines for logs and pipes; notices of a wait are delayed, never dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock, Timer

# Minimum time between two lines.
LINE_EVERY_S = 10.0


class Lines:
    """Writes at most one line every `LINE_EVERY_S` seconds. Thread-safe.

    Progress that comes too early is dropped, because a later line supersedes it. A notice of
    a wait may be followed by silence, so it is held back and written as soon as allowed.

    Args:
        write: Writes a line.
        now: Returns monotonic seconds.
    """

    def __init__(
        self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._write_line = write
        self._now = now
        self._lock = Lock()
        self._began_at = now()
        self._written_at: float | None = None
        self._pending = ""
        self._timer: Timer | None = None

    def progress(self, line: str) -> None:
        """Write the pending notice of a wait, or else `line`; drop `line` if it is too early."""
        with self._lock:
            since = self._began_at if self._written_at is None else self._written_at
            if self._now() - since >= LINE_EVERY_S:
                self._write(self._pending or line)

    def wait(self, line: str) -> None:
        """Write `line`, a notice of a wait, now or as soon as a line is allowed."""
        with self._lock:
            delay_s = self._delay_s()
            if delay_s <= 0:
                self._write(line)
                return
            self._pending = line
            if self._timer is None:
                self._timer = Timer(delay_s, self._flush)
                self._timer.daemon = True
                self._timer.start()

    def write(self, line: str) -> None:
        """Write `line` at once, without throttling."""
        with self._lock:
            self._written_at = self._now()
            self._write_line(line)

    def close(self) -> None:
        """Discard the pending line."""
        with self._lock:
            self._pending = ""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _delay_s(self) -> float:
        since = self._written_at
        return 0.0 if since is None else since + LINE_EVERY_S - self._now()

    def _flush(self) -> None:
        with self._lock:
            self._timer = None
            if self._pending:
                self._write(self._pending)

    def _write(self, line: str) -> None:
        self._pending = ""
        self._written_at = self._now()
        self._write_line(line)

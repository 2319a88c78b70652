"""What a client's questions have cost so far: requests, and seconds of waiting for leave."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from bk_pipeline.clock import Clock


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests made, and seconds waited for the quota or before another attempt."""

    requests: int = 0
    waited_s: float = 0.0

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.requests - earlier.requests, self.waited_s - earlier.waited_s)


class Tally:
    """A `Clock` that adds up for how long it was slept on. For several threads at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        return self._usage

    def count_request(self) -> None:
        self._add(Usage(requests=1))

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self._add(Usage(waited_s=seconds))
        self._clock.sleep(seconds)

    def _add(self, more: Usage) -> None:
        with self._lock:
            before = self._usage
            self._usage = Usage(before.requests + more.requests, before.waited_s + more.waited_s)

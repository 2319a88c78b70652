"""Where requests wait for the quota; the only place of this room that sleeps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from bk_pipeline.buildkite.quota import Quota, Ticket
from bk_pipeline.clock import Clock


class Gate:
    """Lets requests go when the quota has room for them, whichever thread makes them."""

    def __init__(self, quota: Quota, *, clock: Clock, on_wait: Callable[[str], None]) -> None:
        self._quota = quota
        self._clock = clock
        self._on_wait = on_wait

    def enter(self) -> Ticket:
        """Leave for one request, however long it takes to get; hand it to `Quota.settle`.

        While other requests are under way, their answers are waited for, since they may
        tell of more room; otherwise the quota's reset is, and that is announced.
        """
        while True:
            with self._quota.changed:
                now = self._clock.monotonic()
                ticket = self._quota.begin(now)
                if ticket is not None:
                    return ticket
                wait = self._quota.wait(now)
                if wait is None:
                    continue
                if self._quota.under_way and now >= self._quota.blocked_until:
                    self._quota.changed.wait(timeout=wait.seconds)
                    continue
            until = self._clock.now() + timedelta(seconds=wait.seconds)
            self._on_wait(f"{wait.why} Waiting {wait.seconds:.0f} s, until {until:%H:%M:%SZ}.")
            self._clock.sleep(wait.seconds)

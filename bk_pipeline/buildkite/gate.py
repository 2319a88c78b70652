"""Where requests wait for the quota; the only place of this room that sleeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

from bk_pipeline import telemetry
from bk_pipeline.buildkite.quota import LOOK_AGAIN_S, Quota, Ticket
from bk_pipeline.clock import Clock
from bk_pipeline.errors import QuotaSpent

# A wait for other requests' answers is announced if it is longer than this.
QUIET_S = 3.0


class Gate:
    """Lets requests go when the quota has room for them, whichever thread makes them.

    Args:
        quota: The token's.
        clock: Tells time and waits.
        on_wait: Told of each wait before it.
        patience_s: The longest wait; rather than wait longer, nothing is asked.
    """

    def __init__(
        self,
        quota: Quota,
        *,
        clock: Clock,
        on_wait: Callable[[str], None],
        patience_s: float = math.inf,
    ) -> None:
        self._quota = quota
        self._clock = clock
        self._on_wait = on_wait
        self._patience_s = patience_s

    def enter(self) -> Ticket:
        """Leave for one request, however long it takes to get; hand it to `Quota.settle`.

        While other requests are under way, their answers are waited for, since they may
        tell of more room; otherwise the quota's reset is, and that is announced.

        Raises:
            QuotaSpent: There is no room before the patience ends.
        """
        began_at = self._clock.monotonic()
        announced = False
        while True:
            with self._quota.changed:
                now = self._clock.monotonic()
                ticket = self._quota.begin(now)
                if ticket is not None:
                    return ticket
                wait = self._quota.wait(now)
                if wait is None:
                    continue
                elsewhere = self._quota.elsewhere
                waited_s = now - began_at
                answers = now >= self._quota.blocked_until and waited_s < self._patience_s
                soon = min(wait.seconds, LOOK_AGAIN_S) if elsewhere else wait.seconds
                quiet_s = QUIET_S - waited_s  # how long this wait may still go unannounced
                if answers and self._quota.under_way > elsewhere and (announced or quiet_s > 0):
                    self._quota.changed.wait(timeout=soon if announced else min(soon, quiet_s))
                    continue
            if answers and not announced and quiet_s <= 0:
                announced = True
                self._on_wait(f"{wait.why} Waiting for the answers to requests under way.")
                continue
            if answers and elsewhere:
                self._clock.sleep(soon)
                continue
            if waited_s + wait.seconds > self._patience_s:
                raise QuotaSpent(
                    f"{wait.why} There is room in {wait.seconds:.0f} s.", retry_in_s=wait.seconds
                )
            until = self._clock.now() + timedelta(seconds=wait.seconds)
            self._on_wait(f"{wait.why} Waiting {wait.seconds:.0f} s, until {until:%H:%M:%SZ}.")
            with telemetry.leaf("wait for quota", {"bk_pipeline.reason": wait.why}):
                self._clock.sleep(wait.seconds)

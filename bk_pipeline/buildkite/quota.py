"""Stay within the two rate limits of Buildkite's REST API.

`Quota` is updated with the headers of every response and consulted before every request. The
invariant: a request may be sent only if both quotas would keep their reserve even if Buildkite
counted it and all requests under way right now. Responses arrive late and in any order, so:

- a report counts until the window that it may describe is certainly over, and the lowest of
  several reports wins;
- a request without a response may have been counted, so it counts for one window;
- without a current report, one probe request goes first and the others wait for its response,
  because other users may have used up the new window.

Other processes of this host share the quota through a file (`shared_quota.py`). Other users of
the token or the organization show only in the headers; the reserve is for them.

A quota in the background (`background`, a share) is for requests that can wait: logs and
artifacts. It may use that share of what remains after the reserve and after as many requests as
the others made in the last minute. So it stops while they make many, and what they find when
they begin is at least the other share of a window.

Source: Buildkite REST API, "Rate limits": `RateLimit-*` for the organization,
`RateLimit-User-*` for the token's owner, each over 60 seconds.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from bk_pipeline.http.retry import LONGEST_WAIT_S

WINDOW_S = 60.0
# Reset is in whole seconds with unspecified rounding.
ROUNDING_S = 1.0
# Share of the organization's quota that is left to other users.
ORGANIZATION_RESERVE = 0.1
# Requests of the user quota that are left to the token's owner.
USER_RESERVE = 2
# Interval at which to check for the response that reports a new window.
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds to wait before a request; `why` is the reason as a sentence."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """The state of one quota according to the last responses.

    Attributes:
        name: Organization or user.
        limit: Requests per window.
        remaining: Requests left in the current window.
        usable: The limit less the reserve.
    """

    name: str
    limit: int
    remaining: int
    usable: int


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission for one request, to be settled with its response."""

    number: int


@dataclass(frozen=True, slots=True)
class Report:
    """The rate limit headers of one response for one family."""

    limit: int | None
    remaining: int
    reset_s: float


@dataclass
class Family:
    """One quota and what is known about its current window.

    Attributes:
        name: Organization or user.
        prefix: Common prefix of its headers.
        share: The reserve as a share of the limit.
        least: Minimum reserve, in requests.
        limit: Requests per window; None until a response has reported it.
        reports: Pairs of the time at which the reported window is certainly over, and the
            requests that remained. Sorted by time, and so by number: dominated reports are
            dropped.
        lost: Ends of the windows in which requests without a response may be counted.
        probe: Number of the request that goes first while there is no current report.
        absent: Whether responses have no such headers, so that there is no limit to keep.
    """

    name: str
    prefix: str
    share: float
    least: int
    limit: int | None = None
    reports: list[tuple[float, int]] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    probe: int | None = None
    absent: bool = False

    @property
    def reserve(self) -> int:
        """Requests left to other users; at least one per window always stays usable."""
        if self.limit is None:
            return self.least
        return min(max(math.ceil(self.limit * self.share), self.least), max(self.limit - 1, 0))

    def withheld(self, share: float, recent: int) -> float:
        """Requests besides the reserve that a quota in the background leaves to the others.

        Args:
            share: The share of the rest that it may use; at least one request.
            recent: Requests that the others made in the last window.
        """
        if self.limit is None:
            return 0.0
        rest = max(self.limit - self.reserve - recent, 0)
        return recent + max(min((1 - share) * rest, rest - 1), 0)

    def wait(
        self,
        now: float,
        under_way: int,
        withheld: Callable[[float], float] = lambda _: 0.0,
        changes: Iterable[float] = (),
    ) -> Wait | None:
        """How long to wait before one more request besides `under_way` others; None if not.

        Args:
            now: The current time.
            under_way: Number of requests without a response yet.
            withheld: Requests to leave besides the reserve, at a time.
            changes: The times at which that becomes less.
        """
        if self.absent:
            return None
        if self.probe is not None and not self._in_force(now):
            return Wait(POLL_S, f"Another request is checking Buildkite's {self.name} quota.")

        def has_room(at: float) -> bool:
            return self.left(at) - under_way - 1 >= self.reserve + withheld(at)

        if has_room(now):
            return None
        moments = sorted({over for over, _ in self.reports} | {*self.lost, *changes})
        enough = (moment for moment in moments if moment > now and has_room(moment))
        left = f"{self.left(now):.0f} of {self.limit}" if self.limit else f"{self.left(now):.0f}"
        kept = "down to its reserve" if withheld(now) <= 0 else "left to extraction"
        why = f"Buildkite's {self.name} quota is {kept} ({left} left)."
        return Wait(next(enough, now + POLL_S) - now, why)

    def begin(self, now: float, number: int) -> None:
        """Register request `number`; it becomes the probe if there is no current report."""
        self.reports = self._in_force(now)
        self.lost = [over for over in self.lost if over > now]
        if not self.reports:
            self.probe = number

    def settle(self, number: int, report: Report | None, now: float, *, complete: bool) -> None:
        """Update with the response to request `number`.

        Args:
            number: Of the request.
            report: Its rate limit headers; None if it has none, or there was no response.
            now: Time of the response.
            complete: Whether it is a success, whose missing headers mean there is no limit.
        """
        if self.probe == number:
            self.probe = None
        if report is None:
            self.lost.append(now + WINDOW_S)
            self.absent = self.absent or (complete and not self._in_force(now))
            return
        self.absent = False
        self.limit = report.limit or self.limit
        over, remaining = now + report.reset_s + ROUNDING_S, report.remaining
        kept = [(o, r) for o, r in self.reports if o > over or r < remaining]
        if not any(o >= over and r <= remaining for o, r in kept):
            kept.append((over, remaining))
        self.reports = sorted(kept)

    def _in_force(self, now: float) -> list[tuple[float, int]]:
        return [(over, remaining) for over, remaining in self.reports if over > now]

    def left(self, now: float) -> float:
        """Requests that certainly remain, not counting those under way; infinite if unknown."""
        whole = math.inf if self.limit is None else self.limit
        lowest = min((remaining for _, remaining in self._in_force(now)), default=whole)
        return lowest - sum(over > now for over in self.lost)


def families(
    reserve: float = ORGANIZATION_RESERVE, user_reserve: int = USER_RESERVE
) -> tuple[Family, ...]:
    """Both quotas in their initial state.

    Args:
        reserve: Share of the organization's quota to leave to other users.
        user_reserve: Requests of the user quota to leave to the token's owner.
    """
    return (
        # Dashboards and scripts share the 200 requests a minute. A tenth keeps them working
        # during a backfill, and the user quota is usually the tighter limit anyway.
        Family("organization", "RateLimit", share=reserve, least=1),
        # For the owner's own commands, and for a request counted after it was abandoned.
        Family("user", "RateLimit-User", share=0.0, least=user_reserve),
    )


@dataclass
class Quota:
    """Both families together, for any number of threads and clients with the same token.

    `now` is always in seconds of a monotonic clock. `changed` is notified after each response.

    Attributes:
        background: The share of the rest that requests in the background may use; None for
            requests that do not stand back.
        recent: Times of the permits in the last window that were not in the background.
    """

    families: tuple[Family, ...] = field(default_factory=families)
    under_way: int = 0
    issued: int = 0
    blocked_until: float = 0.0
    background: float | None = None
    recent: list[float] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    @contextmanager
    def locked(self, now: float) -> Iterator[None]:  # noqa: ARG002  # used by SharedQuota
        """Lock the quota against other threads within the block."""
        with self.changed:
            yield

    @property
    def under_way_elsewhere(self) -> int:
        """Number of requests under way in other processes; `changed` is not notified of them."""
        return 0

    def wait(self, now: float) -> Wait | None:
        """The wait before a request may be made; None if it may be made now."""
        with self.locked(now):
            waits = [self._wait_for(family, now) for family in self.families]
            if now < self.blocked_until:
                waits.append(Wait(self.blocked_until - now, "Buildkite answered 429."))
            return max((w for w in waits if w), key=lambda w: w.seconds, default=None)

    def _wait_for(self, family: Family, now: float) -> Wait | None:
        share = self.background
        if share is None:
            return family.wait(now, self.under_way)

        def withheld(at: float) -> float:
            return family.withheld(share, sum(made > at - WINDOW_S for made in self.recent))

        changes = [made + WINDOW_S for made in self.recent]
        return family.wait(now, self.under_way, withheld, changes)

    def pause_s(self, now: float) -> float:
        """Seconds until a request may be made or `wait` may change; 0 if it may be made now."""
        wait = self.wait(now)
        return wait.seconds if wait else 0.0

    def statuses(self, now: float) -> list[QuotaStatus]:
        """The state of both quotas, without those that no response has reported yet."""
        with self.locked(now):
            return [
                QuotaStatus(one.name, one.limit, int(one.left(now)), one.limit - one.reserve)
                for one in self.families
                if one.limit is not None
            ]

    def begin(self, now: float) -> Permit | None:
        """A permit for one request, to be passed to `settle`; None if it has to wait."""
        with self.locked(now):
            if self.wait(now):
                return None
            self.issued += 1
            self.recent = [made for made in self.recent if made > now - WINDOW_S]
            if self.background is None:
                self.recent.append(now)
            self._add_under_way(self.issued, now)
            for family in self.families:
                family.begin(now, self.issued)
            return Permit(self.issued)

    def settle(
        self, permit: Permit, now: float, headers: Mapping[str, str] | None, *, complete: bool
    ) -> None:
        """Update the quota with a request's response.

        Args:
            permit: From `begin`; settled exactly once.
            now: Time of the response.
            headers: Of the response; None if there was none.
            complete: Whether it was a success, and so from Buildkite itself.
        """
        with self.locked(now):
            self._remove_under_way(permit.number)
            for family in self.families:
                report = read_report(headers, family.prefix) if headers is not None else None
                family.settle(permit.number, report, now, complete=complete)
            self.changed.notify_all()

    def block(self, now: float, seconds: float) -> None:
        """Block all requests for `seconds`, after a 429."""
        with self.locked(now):
            wait_s = min(seconds, LONGEST_WAIT_S) + ROUNDING_S
            self.blocked_until = max(self.blocked_until, now + wait_s)

    def _add_under_way(self, number: int, now: float) -> None:  # noqa: ARG002  # used by SharedQuota
        self.under_way += 1

    def _remove_under_way(self, number: int) -> None:  # noqa: ARG002  # used by SharedQuota
        self.under_way -= 1


def read_report(headers: Mapping[str, str], prefix: str) -> Report | None:
    """The rate limit headers that begin with `prefix`; None without a number of remaining requests.

    Malformed values count as missing; impossible ones are clamped.
    """
    remaining = _number(headers.get(f"{prefix}-Remaining"))
    if remaining is None:
        return None
    limit = _number(headers.get(f"{prefix}-Limit"))
    if limit is not None and limit >= 1:
        remaining = min(remaining, limit)
    else:
        limit = None
    reset = _number(headers.get(f"{prefix}-Reset"))
    reset = WINDOW_S if reset is None else min(max(reset, 0), LONGEST_WAIT_S)
    return Report(int(limit) if limit else None, max(int(remaining), 0), reset)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None

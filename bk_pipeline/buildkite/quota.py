"""The two rate limits of Buildkite's REST API, kept before they bite.

Fed by the headers of every answer, asked before every request. The rule that must hold: a
request is let go only if, were it and all those under way counted by Buildkite right now,
either quota would still have its reserve. Answers come late and in any order, so:

- a report counts until the window that it may describe is certainly over, and of several
  the lowest counts;
- a request without an answer may have been counted, and counts for one window;
- with no report in force one request goes first, and the others wait for what it reports:
  other users may have spent the new window already.

Other processes of this host share it through a file (`shared_quota.py`). Whoever else uses
the token or the organization is seen only through the headers, and left the reserve.

Source: Buildkite REST API, "Rate limits": `RateLimit-*` for the organization,
`RateLimit-User-*` for the token's owner, each over 60 seconds.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from bk_pipeline.http.retry import LONGEST_WAIT_S

WINDOW_S = 60.0
# Reset comes as whole seconds, rounded who knows how.
ROUNDING_S = 1.0
# The share of the organization's quota that is left to others.
RESERVE = 0.1
# The requests that are left to the token's owner.
OWNERS = 2
# How soon to look again for the answer that tells about a new window.
LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Make no request for `seconds`; `why` is a sentence."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One quota as the last answers tell it. `ours` is what we let ourselves make a minute."""

    name: str
    limit: int
    left: int
    ours: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave for one request, given back with its answer."""

    number: int


@dataclass(frozen=True, slots=True)
class Report:
    """What one answer says of one family."""

    limit: int | None
    remaining: int
    reset_s: float


@dataclass
class Family:
    """One quota and what is known of its present window.

    Attributes:
        name: Organization or user.
        prefix: What its headers' names begin with.
        share: The reserve, as a share of the limit.
        least: The reserve at least, in requests.
        reports: What remained, and when the window that said so is certainly over. Soonest
            first, which is also lowest first: others are outweighed and dropped.
        lost: When the windows are over that requests without an answer may be counted in.
        asking: The request that goes first while no report is in force.
        absent: Answers carry no such headers; nothing to keep.
    """

    name: str
    prefix: str
    share: float
    least: int
    limit: int | None = None
    reports: list[tuple[float, int]] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    asking: int | None = None
    absent: bool = False

    @property
    def reserve(self) -> int:
        """Requests that are not ours to make; at least one a window always is."""
        if self.limit is None:
            return self.least
        return min(max(math.ceil(self.limit * self.share), self.least), max(self.limit - 1, 0))

    def wait(self, now: float, under_way: int) -> Wait | None:
        """None if one more request may go beside `under_way` others."""
        if self.absent:
            return None
        if self.asking is not None and not self._in_force(now):
            return Wait(LOOK_AGAIN_S, f"Buildkite's {self.name} quota is being asked for.")
        if self._has_room(now, under_way):
            return None
        moments = sorted({over for over, _ in self.reports} | set(self.lost))
        later = (moment for moment in moments if moment > now)
        enough = (moment for moment in later if self._has_room(moment, under_way))
        left = f"{self.left(now):.0f} of {self.limit}" if self.limit else f"{self.left(now):.0f}"
        why = f"Buildkite's {self.name} quota is down to its reserve ({left} left)."
        return Wait(next(enough, now + LOOK_AGAIN_S) - now, why)

    def begin(self, now: float, number: int) -> None:
        self.reports = self._in_force(now)
        self.lost = [over for over in self.lost if over > now]
        if not self.reports:
            self.asking = number

    def settle(self, number: int, report: Report | None, now: float, *, complete: bool) -> None:
        """Take in one answer. `complete`: a success, so that headers it lacks do not exist."""
        if self.asking == number:
            self.asking = None
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
        """What surely remains, were nothing under way; infinite before the first report."""
        whole = math.inf if self.limit is None else self.limit
        lowest = min((remaining for _, remaining in self._in_force(now)), default=whole)
        return lowest - sum(over > now for over in self.lost)

    def _has_room(self, now: float, under_way: int) -> bool:
        return self.left(now) - under_way - 1 >= self.reserve


def families(reserve: float = RESERVE, owners: int = OWNERS) -> tuple[Family, ...]:
    """Both quotas, nothing known of either.

    `reserve` is the organization's, as a share; `owners` is the user's, in requests.
    """
    return (
        # Others' dashboards, webhooks and scripts live on the same 200 a minute: a tenth
        # keeps them going while we run flat out, and the user quota binds us earlier anyway.
        Family("organization", "RateLimit", share=reserve, least=1),
        # The token's owner at a terminal, and a request counted after we gave it up.
        Family("user", "RateLimit-User", share=0.0, least=owners),
    )


@dataclass
class Quota:
    """Both families together; for any number of threads and clients with the same token.

    `now` is always seconds on a clock that never goes backwards. `changed` is notified
    whenever an answer has been taken in.
    """

    families: tuple[Family, ...] = field(default_factory=families)
    under_way: int = 0
    issued: int = 0
    blocked_until: float = 0.0
    changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    @contextmanager
    def held(self, now: float) -> Iterator[None]:  # noqa: ARG002  # for those who share it
        """A block in which nobody else looks at the quota or changes it."""
        with self.changed:
            yield

    @property
    def elsewhere(self) -> int:
        """Of those under way: requests of others, of whose answers `changed` is not notified."""
        return 0

    def wait(self, now: float) -> Wait | None:
        """What to wait for before a request may be made; None if it may be made now."""
        with self.held(now):
            waits = [family.wait(now, self.under_way) for family in self.families]
            if now < self.blocked_until:
                waits.append(Wait(self.blocked_until - now, "Buildkite answered 429."))
            return max((w for w in waits if w), key=lambda w: w.seconds, default=None)

    def pause_s(self, now: float) -> float:
        """Seconds until a request may be made, or until asking again may help; 0 for now."""
        wait = self.wait(now)
        return wait.seconds if wait else 0.0

    def standings(self, now: float) -> list[Standing]:
        """Both quotas; without those that the answers so far said nothing of."""
        with self.held(now):
            return [
                Standing(one.name, one.limit, int(one.left(now)), one.limit - one.reserve)
                for one in self.families
                if one.limit is not None
            ]

    def begin(self, now: float) -> Ticket | None:
        """Leave for one request, to be given back to `settle`; None if one must wait."""
        with self.held(now):
            if self.wait(now):
                return None
            self.issued += 1
            self._depart(self.issued, now)
            for family in self.families:
                family.begin(now, self.issued)
            return Ticket(self.issued)

    def settle(
        self, ticket: Ticket, now: float, headers: Mapping[str, str] | None, *, complete: bool
    ) -> None:
        """Take in a request's answer.

        Args:
            ticket: From `begin`; each exactly once.
            now: When the answer came.
            headers: The answer's; None if none came.
            complete: It was a success from Buildkite itself, no proxy's 502.
        """
        with self.held(now):
            self._arrive(ticket.number)
            for family in self.families:
                report = read_report(headers, family.prefix) if headers is not None else None
                family.settle(ticket.number, report, now, complete=complete)
            self.changed.notify_all()

    def block(self, now: float, seconds: float) -> None:
        """Let nothing go for `seconds`: a 429 said so."""
        with self.held(now):
            wait_s = min(seconds, LONGEST_WAIT_S) + ROUNDING_S
            self.blocked_until = max(self.blocked_until, now + wait_s)

    def _depart(self, number: int, now: float) -> None:  # noqa: ARG002  # for those who share it
        self.under_way += 1

    def _arrive(self, number: int) -> None:  # noqa: ARG002  # for those who share it
        self.under_way -= 1


def read_report(headers: Mapping[str, str], prefix: str) -> Report | None:
    """What `headers` say of the family `prefix`; None if they do not say what remains.

    Malformed values count as absent, impossible ones as the nearest possible.
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

"""Buildkite's two REST rate limits: one shared by the organization, one for each user.

Both hold at once, and every answer tells how both stand. Not known of the
real service, and so a guess: a window opens with the first request after the
last one has passed; requests that are refused count too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import ceil
from threading import Lock
from typing import Any

ORGANIZATION = "rest"
USER = "rest_user"


@dataclass(slots=True)
class Window:
    """The requests of one scope in the current window."""

    scope: str
    limit: int
    opened: float | None = None
    count: int = 0

    def roll(self, now: float, window_s: float) -> None:
        """Begins anew if the window has passed."""
        if self.opened is not None and now >= self.opened + window_s:
            self.opened, self.count = None, 0

    def add(self, now: float, count: int) -> None:
        if self.opened is None:
            self.opened = now
        self.count += count

    def reset_s(self, now: float, window_s: float) -> int:
        """Whole seconds until the window has passed, rounded up."""
        return math.ceil(window_s if self.opened is None else self.opened + window_s - now)

    @property
    def remaining(self) -> int:
        return max(self.limit - self.count, 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one request fares. `refusal` is the 429's body, None if there is none."""

    headers: Mapping[str, str]
    refusal: dict[str, Any] | None = None


@dataclass
class RateLimits:
    """The limits of one organization.

    Args:
        enforced: False: nothing is counted, all answers say that all is left.
        clock: Seconds; a test passes its own.
        background_requests: How many requests others in the organization make with each that is counted.

    Attributes:
        refused_count: Requests that were over a limit.
        lowest_remaining: The least that ever remained after a request, by scope.
    """

    enforced: bool
    user_limit: int
    organization_limit: int
    window_s: float
    clock: Callable[[], float]
    main_user: str
    background_requests: int = 0
    refused_count: int = 0
    lowest_remaining: dict[str, int] = field(default_factory=dict)
    _users: dict[str, Window] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._organization = Window(ORGANIZATION, self.organization_limit)

    def spend(self, user: str | None) -> Verdict:
        """Counts one request. `user` is None for a token that nobody owns."""
        with self._lock:
            now = self.clock()
            windows = self._windows(user, now)
            if self.enforced and user is not None:
                for window in windows:
                    window.add(now, 1)
                    left = window.limit - window.count
                    self.lowest_remaining[window.scope] = min(
                        left, self.lowest_remaining.get(window.scope, left)
                    )
            headers: dict[str, str] = {}
            for window, prefix in zip(windows, ("RateLimit", "RateLimit-User"), strict=True):
                headers |= self._headers(window, prefix, now)
            exceeded = next((window for window in windows if window.count > window.limit), None)
            if exceeded is None or user is None:
                self._others_ask(now)
                return Verdict(headers)
            self.refused_count += 1
            return Verdict(headers, self._refusal(exceeded, now))

    def consume(self, scope: str = ORGANIZATION, count: int = 1, user: str | None = None) -> None:
        """Counts requests that others made: in the organization, or with the same user's tokens.

        Raises:
            ValueError: `scope` is neither "rest" nor "rest_user".
        """
        if scope not in (ORGANIZATION, USER):
            raise ValueError(f"There is no scope {scope!r}; take {ORGANIZATION!r} or {USER!r}.")
        if not self.enforced:
            return
        with self._lock:
            now = self.clock()
            organization, own = self._windows(user or self.main_user, now)
            (own if scope == USER else organization).add(now, count)

    def standing(self) -> dict[str, Any]:
        """The body of the organization's rate_limit endpoint. GraphQL is not served: always idle."""
        with self._lock:
            now = self.clock()
            rest, _ = self._windows(None, now)
            return {
                "scopes": {
                    "rest": self._scope(rest, now, self.window_s),
                    "graphql": self._scope(Window("graphql", 50_000), now, 300),
                }
            }

    def _others_ask(self, now: float) -> None:
        if self.enforced and self.background_requests:
            self._organization.add(now, self.background_requests)

    def _windows(self, user: str | None, now: float) -> tuple[Window, Window]:
        own = Window(USER, self.user_limit)
        if user is not None:
            own = self._users.setdefault(user, own)
        self._organization.roll(now, self.window_s)
        own.roll(now, self.window_s)
        return self._organization, own

    def _headers(self, window: Window, prefix: str, now: float) -> dict[str, str]:
        return {
            f"{prefix}-Remaining": str(window.remaining),
            f"{prefix}-Limit": str(window.limit),
            f"{prefix}-Reset": str(window.reset_s(now, self.window_s)),
            f"{prefix}-Scope": window.scope,
        }

    def _refusal(self, window: Window, now: float) -> dict[str, Any]:
        return {
            "message": "You have exceeded your API rate limit. Please wait for the reset.",
            "scope": window.scope,
            "limit": window.limit,
            "current": window.count,
            "reset": window.reset_s(now, self.window_s),
        }

    def _scope(self, window: Window, now: float, window_s: float) -> dict[str, Any]:
        reset = window.reset_s(now, window_s)
        return {
            "limit": window.limit,
            "current": window.count,
            "reset": reset,
            "reset_at": datetime.fromtimestamp(now + reset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "enforced": self.enforced,
        }


LIMIT = 100
WINDOW_S = 60.0


class CallLimit:
    """Counts calls. With `enforced` False none is refused; the headers are there either way."""

    def __init__(self, clock: Callable[[], float], *, enforced: bool) -> None:
        self.enforced = enforced
        self.limit = LIMIT
        self._clock = clock
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Forgets what was counted."""
        self._opened = 0.0
        self._count = 0

    def spend(self) -> tuple[dict[str, str], bool]:
        """Counts a call: the headers of its answer, and whether it is one too many."""
        with self._lock:
            now = self._clock()
            if now >= self._opened + WINDOW_S:
                self._opened, self._count = now, 0
            self._count += self.enforced
            reset_s = ceil(self._opened + WINDOW_S - now)
            left = max(self.limit - self._count, 0)
            headers = {
                "RateLimit": f"limit={self.limit}, remaining={left}, reset={reset_s}",
                "RateLimitPolicy": f"{self.limit};w={WINDOW_S:.0f}",
            }
            passed = self._count > self.limit
            if passed:
                until = datetime.fromtimestamp(now, UTC) + timedelta(seconds=reset_s)
                headers["Retry-After"] = format_datetime(until, usegmt=True)
            return headers, passed

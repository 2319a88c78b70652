"""Rate limits: Buildkite's two REST limits, and Honeycomb's limit of management calls.

Buildkite has one limit for the organization and one for each user. Both apply
at once, and every response reports both. Guesses, because the real behavior
is not documented: a window opens with the first request after the previous
one has ended, and rejected requests count too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import ceil
from threading import Lock
from typing import Any

ORGANIZATION_SCOPE = "rest"
USER_SCOPE = "rest_user"

HONEYCOMB_CALL_LIMIT = 100
HONEYCOMB_WINDOW_S = 60.0


@dataclass(slots=True)
class LimitWindow:
    """The requests of one scope in its current window. `opened_s` is None before the first."""

    scope: str
    limit: int
    opened_s: float | None = None
    count: int = 0

    def expire(self, now_s: float, window_s: float) -> None:
        """Clear the window if it has ended."""
        if self.opened_s is not None and now_s >= self.opened_s + window_s:
            self.opened_s, self.count = None, 0

    def add(self, now_s: float, count: int) -> None:
        """Count `count` requests, which open the window if it is not open yet."""
        if self.opened_s is None:
            self.opened_s = now_s
        self.count += count

    def reset_s(self, now_s: float, window_s: float) -> int:
        """Seconds until the window ends, rounded up."""
        return ceil(window_s if self.opened_s is None else self.opened_s + window_s - now_s)

    @property
    def remaining(self) -> int:
        """How many requests are left; never negative."""
        return max(self.limit - self.count, 0)


@dataclass(frozen=True, slots=True)
class LimitCheck:
    """The rate limit headers of a response, and the body of a 429 if a limit is exceeded."""

    headers: Mapping[str, str]
    error_body: dict[str, Any] | None = None


@dataclass
class RateLimits:
    """Buildkite's rate limits for one organization. Safe to use from several threads.

    Args:
        enforced: If False, no request is counted and every response reports the full limit.
        user_limit: Requests per window for each user.
        organization_limit: Requests per window for all users together.
        window_s: Length of a window.
        clock: Seconds since 1970.
        main_user: The user that `consume` charges by default.
        background_requests: Requests that others in the organization make for each counted one.

    Attributes:
        refused_count: Requests that exceeded a limit.
        lowest_remaining: The smallest number left after any request, by scope.
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
    _users: dict[str, LimitWindow] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._organization = LimitWindow(ORGANIZATION_SCOPE, self.organization_limit)

    def count_request(self, user: str | None) -> LimitCheck:
        """Count one request and check it against both limits.

        A request with an unknown token (`user` is None) is not counted.
        """
        with self._lock:
            now_s = self.clock()
            windows = self._windows(user, now_s)
            if self.enforced and user is not None:
                for window in windows:
                    window.add(now_s, 1)
                    left = window.limit - window.count
                    lowest = self.lowest_remaining.get(window.scope, left)
                    self.lowest_remaining[window.scope] = min(left, lowest)
            headers: dict[str, str] = {}
            for window, prefix in zip(windows, ("RateLimit", "RateLimit-User"), strict=True):
                headers |= self._headers(window, prefix, now_s)
            exceeded = next((window for window in windows if window.count > window.limit), None)
            if exceeded is None or user is None:
                self._add_background_requests(now_s)
                return LimitCheck(headers)
            self.refused_count += 1
            return LimitCheck(headers, self._error_body(exceeded, now_s))

    def consume(
        self, scope: str = ORGANIZATION_SCOPE, count: int = 1, user: str | None = None
    ) -> None:
        """Count requests made elsewhere: by the organization, or with the same user's tokens.

        Raises:
            ValueError: `scope` is neither "rest" nor "rest_user".
        """
        if scope not in (ORGANIZATION_SCOPE, USER_SCOPE):
            raise ValueError(
                f"There is no scope {scope!r}; use {ORGANIZATION_SCOPE!r} or {USER_SCOPE!r}."
            )
        if not self.enforced:
            return
        with self._lock:
            now_s = self.clock()
            organization, own = self._windows(user or self.main_user, now_s)
            (own if scope == USER_SCOPE else organization).add(now_s, count)

    def status(self) -> dict[str, Any]:
        """The body of the `rate_limit` endpoint. GraphQL is not served, so it is always unused."""
        with self._lock:
            now_s = self.clock()
            rest, _ = self._windows(None, now_s)
            return {
                "scopes": {
                    "rest": self._scope(rest, now_s, self.window_s),
                    "graphql": self._scope(LimitWindow("graphql", 50_000), now_s, 300),
                }
            }

    def _add_background_requests(self, now_s: float) -> None:
        if self.enforced and self.background_requests:
            self._organization.add(now_s, self.background_requests)

    def _windows(self, user: str | None, now_s: float) -> tuple[LimitWindow, LimitWindow]:
        """The organization's window and the user's. Without a user, the second one is empty."""
        own = LimitWindow(USER_SCOPE, self.user_limit)
        if user is not None:
            own = self._users.setdefault(user, own)
        self._organization.expire(now_s, self.window_s)
        own.expire(now_s, self.window_s)
        return self._organization, own

    def _headers(self, window: LimitWindow, prefix: str, now_s: float) -> dict[str, str]:
        return {
            f"{prefix}-Remaining": str(window.remaining),
            f"{prefix}-Limit": str(window.limit),
            f"{prefix}-Reset": str(window.reset_s(now_s, self.window_s)),
            f"{prefix}-Scope": window.scope,
        }

    def _error_body(self, window: LimitWindow, now_s: float) -> dict[str, Any]:
        return {
            "message": "You have exceeded your API rate limit. Please wait for the reset.",
            "scope": window.scope,
            "limit": window.limit,
            "current": window.count,
            "reset": window.reset_s(now_s, self.window_s),
        }

    def _scope(self, window: LimitWindow, now_s: float, window_s: float) -> dict[str, Any]:
        reset_s = window.reset_s(now_s, window_s)
        reset_at = datetime.fromtimestamp(now_s + reset_s, UTC)
        return {
            "limit": window.limit,
            "current": window.count,
            "reset": reset_s,
            "reset_at": reset_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "enforced": self.enforced,
        }


class CallLimit:
    """Honeycomb's limit of management calls (markers, auth) in a fixed window.

    Args:
        clock: Seconds since 1970.
        enforced: If False, no call is counted; the headers are sent either way.
    """

    def __init__(self, clock: Callable[[], float], *, enforced: bool) -> None:
        self.enforced = enforced
        self.limit = HONEYCOMB_CALL_LIMIT
        self._clock = clock
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Forget all counted calls."""
        self._opened_s = 0.0
        self._count = 0

    def count_call(self) -> tuple[dict[str, str], bool]:
        """Count a call. Returns the response's headers, and whether the limit is exceeded."""
        with self._lock:
            now_s = self._clock()
            if now_s >= self._opened_s + HONEYCOMB_WINDOW_S:
                self._opened_s, self._count = now_s, 0
            self._count += self.enforced
            reset_s = ceil(self._opened_s + HONEYCOMB_WINDOW_S - now_s)
            remaining = max(self.limit - self._count, 0)
            headers = {
                "RateLimit": f"limit={self.limit}, remaining={remaining}, reset={reset_s}",
                "RateLimitPolicy": f"{self.limit};w={HONEYCOMB_WINDOW_S:.0f}",
            }
            exceeded = self._count > self.limit
            if exceeded:
                reset_at = datetime.fromtimestamp(now_s, UTC) + timedelta(seconds=reset_s)
                headers["Retry-After"] = format_datetime(reset_at, usegmt=True)
            return headers, exceeded

"""Retries, the only loop of the package that waits for a service to recover; and rate limiting.

One deadline covers all attempts together. Only a `RetryableError` is retried; any other
exception is raised at once.

A `RateLimiter` is shared by all threads that send to one service. It closes when the service
throttles a request, or reports that only a reserve remains of its limit. Pauses grow until a
request succeeds; if several requests under way at the same time are throttled, that counts once.
Buildkite's two quotas, which must never be exceeded and are shared between processes, have their
own module, `buildkite/quota.py`.

Source: Honeycomb's API description: `RateLimit: limit=100, remaining=50, reset=60`, reset in
seconds. Its text and its examples differ in case, which is ignored here.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import TYPE_CHECKING, NoReturn, TypeVar

from bk_pipeline import telemetry
from bk_pipeline.clock import Clock
from bk_pipeline.errors import DeliveryThrottled, RetryableError

if TYPE_CHECKING:
    from tenacity import RetryCallState

# Five of Buildkite's rate limit windows. After a longer outage the next run tries again.
LONGEST_WAIT_S = 300.0


def wait_s(value: object, now: datetime) -> float | None:
    """The wait that a service asks for, in seconds, clamped to 0 to `LONGEST_WAIT_S`.

    Args:
        value: A number of seconds or an HTTP date, from a header or a body.
        now: The current time, aware.

    Returns:
        Seconds; None if `value` is neither.

    Source: RFC 9110, section 10.2.3.
    """
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return LONGEST_WAIT_S if isinstance(value, int) and value > 0 else 0.0
    except ValueError:
        moment = http_date(str(value).strip())
        if moment is None:
            return None
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_S) if math.isfinite(seconds) else None


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """The wait in the Retry-After header, in seconds; see `wait_s`."""
    return wait_s(headers.get("Retry-After"), now)


def http_date(text: str) -> datetime | None:
    """An HTTP date as an aware UTC datetime; None if `text` is not one."""
    try:
        moment = parsedate_to_datetime(text)
        moment = moment.replace(tzinfo=moment.tzinfo or UTC)
        return moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Deadline and exponential backoff of retries.

    Attributes:
        deadline_s: Measured from the start of the first attempt; every pause ends before it.
        first_pause_s: Upper bound of the first pause; doubles with each further one.
        longest_pause_s: Maximum of that bound. A service may ask for longer pauses, up to
            `LONGEST_WAIT_S`.
        jitter: Returns a pause's share of its bound, from 0 to 1 ("full jitter"), so that
            clients that failed at the same time do not retry at the same time.
    """

    deadline_s: float = 300.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    jitter: Callable[[], float] = field(default=random.random, repr=False)

    def pause_s(self, attempt: int, error: RetryableError) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed with `error`."""
        growth = 2.0 ** min(attempt - 1, 60)
        pause = self.jitter() * min(self.first_pause_s * growth, self.longest_pause_s)
        requested = error.retry_in_s
        if requested is None or math.isnan(requested):
            return pause
        return max(pause, min(requested, LONGEST_WAIT_S))


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait that is about to begin.

    Attributes:
        attempt: Number of the attempt that failed, from 1.
        seconds: Length of the wait.
        until: End of the wait, aware UTC.
        error: The reason of the failure.
    """

    attempt: int
    seconds: float
    until: datetime
    error: RetryableError

    @property
    def message(self) -> str:
        """What failed, and when the next attempt follows, for logs."""
        return (
            f"{self.error} Attempt {self.attempt + 1} follows in {self.seconds:.0f} s, "
            f"at {self.until:%H:%M:%SZ}."
        )


_listener: ContextVar[Callable[[Pause], None] | None] = ContextVar("_listener", default=None)


@contextmanager
def report_pauses_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Within the block, call `listener` with a message for each pause of this thread.

    Pauses of a `retry` with its own `on_pause` are reported there instead.
    """
    token = _listener.set(lambda pause: listener(pause.message))
    try:
        yield
    finally:
        _listener.reset(token)


def retry(
    call: Callable[[], T],
    *,
    policy: RetryPolicy,
    clock: Clock,
    on_pause: Callable[[Pause], None] | None = None,
) -> T:
    """Call `call` until it succeeds, and return its result.

    Attempts are not interrupted: the last one may exceed the deadline by its own timeout.

    Args:
        call: Must be safe to repeat after each `RetryableError` that it raises.
        policy: Deadline and pauses.
        clock: Used for measuring and waiting.
        on_pause: Called before each pause. Default: the listener of `report_pauses_to`.

    Raises:
        RetryableError: The error of the last attempt, with the number of attempts and the
            elapsed seconds added: the next pause would not end before the deadline.
        Exception: Any other exception of `call`, at once.
    """
    # Imported here because Dagster's definitions load this module and make no request.
    from tenacity import Retrying, retry_if_exception_type  # noqa: PLC0415

    listener = on_pause or _listener.get()
    started = clock.monotonic()

    def elapsed_s() -> float:
        return clock.monotonic() - started

    def announce(state: RetryCallState) -> None:
        if listener is not None:
            until = clock.now() + timedelta(seconds=state.upcoming_sleep)
            listener(Pause(state.attempt_number, state.upcoming_sleep, until, _error(state)))

    def pause(seconds: float) -> None:
        with telemetry.leaf_span("pause before retry"):
            clock.sleep(seconds)

    def give_up(state: RetryCallState) -> NoReturn:
        error = _error(state)
        tries = "1 attempt" if state.attempt_number == 1 else f"{state.attempt_number} attempts"
        error.args = (f"{error} Gave up after {tries} in {elapsed_s():.0f} s.", *error.args[1:])
        raise error

    loop = Retrying(
        retry=retry_if_exception_type(RetryableError),
        wait=lambda state: policy.pause_s(state.attempt_number, _error(state)),
        stop=lambda state: elapsed_s() + state.upcoming_sleep >= policy.deadline_s,
        before_sleep=announce,
        sleep=pause,
        retry_error_callback=give_up,
    )
    return loop(call)


def _error(state: RetryCallState) -> RetryableError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, RetryableError)
    return error


# Requests left for other users of the same key.
RESERVE = 5

_NUMBER = re.compile(r"\b(limit|remaining|reset)\s*=\s*(\d{1,9})")


class RateLimiter:
    """Delays requests to one service while it is closed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._opens_at = 0.0
        self._closings = 0
        self._closings_in_a_row = 0

    def enter(
        self,
        clock: Clock,
        *,
        stopped: Callable[[], bool] = lambda: False,
        on_wait: Callable[[float], None] | None = None,
    ) -> int:
        """Wait until the limiter is open or `stopped` returns True; return a permit.

        Args:
            clock: Used for waiting.
            stopped: Ends the wait before its time.
            on_wait: Called before each wait, with its length in seconds.

        Returns:
            The permit, for `passed` or `refused`.
        """
        while not stopped():
            with self._lock:
                left_s = self._opens_at - clock.monotonic()
                if left_s <= 0:
                    break
            if on_wait is not None:
                on_wait(left_s)
            with telemetry.leaf_span("wait for pace"):
                clock.sleep(left_s)
        return self._closings

    def passed(self, permit: int) -> None:
        """Record that the request with `permit` succeeded."""
        with self._lock:
            if permit == self._closings:
                self._closings_in_a_row = 0

    def refused(
        self, permit: int, error: DeliveryThrottled, *, policy: RetryPolicy, clock: Clock
    ) -> float:
        """Close because the request with `permit` was throttled.

        Returns:
            Seconds until the limiter opens.
        """
        with self._lock:
            now = clock.monotonic()
            if permit == self._closings:
                self._closings += 1
                self._closings_in_a_row += 1
                pause_s = policy.pause_s(self._closings_in_a_row, error)
                self._opens_at = max(self._opens_at, now + pause_s)
            return max(self._opens_at - now, 0.0)

    def learn(self, headers: Mapping[str, str], *, clock: Clock) -> None:
        """Close until the limit resets, if `headers` show that only the reserve remains.

        A limit no larger than the reserve is used up completely. Headers without a limit
        change nothing.
        """
        found = {
            name: int(number) for name, number in _NUMBER.findall(headers.get("RateLimit", ""))
        }
        if "remaining" in found and "reset" in found:
            reserve = RESERVE if found.get("limit", RESERVE + 1) > RESERVE else 0
            if found["remaining"] <= reserve:
                with self._lock:
                    pause_s = min(found["reset"], LONGEST_WAIT_S)
                    self._opens_at = max(self._opens_at, clock.monotonic() + pause_s)


_limiters: dict[str, RateLimiter] = {}
_limiters_lock = Lock()


def limiter_of(destination: str) -> RateLimiter:
    """The process-wide limiter of the destination with this name."""
    with _limiters_lock:
        return _limiters.setdefault(destination, RateLimiter())

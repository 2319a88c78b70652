"""Trying again: the one loop of the package that waits for a service to recover.

One deadline holds for all attempts together. Only what is a `RetryableError` is tried
again; everything else passes through untouched.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from bk_pipeline import telemetry
from bk_pipeline.clock import Clock
from bk_pipeline.errors import RetryableError

# Five of Buildkite's windows. A service that needs longer is asked again by the next run.
LONGEST_WAIT_S = 300.0


def wait_s(value: object, now: datetime) -> float | None:
    """Seconds from `now` on, from 0 to `LONGEST_WAIT_S`; None if `value` cannot be read.

    Args:
        value: A number of seconds or an HTTP date, from a header or a body.
        now: The moment, aware.

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
    """What the header Retry-After asks for; see `wait_s`."""
    return wait_s(headers.get("Retry-After"), now)


def http_date(text: str) -> datetime | None:
    """The moment of an HTTP date, aware; None if `text` is none."""
    try:
        moment = parsedate_to_datetime(text)
        moment = moment.replace(tzinfo=moment.tzinfo or UTC)
        return moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to go on, and how the pauses grow.

    Attributes:
        deadline_s: From the first attempt's start; every pause must end before it.
        first_pause_s: Upper bound of the first pause; doubles with each further one.
        longest_pause_s: Where the doubling ends. A service may ask for longer, up to
            `LONGEST_WAIT_S`.
        draw: A pause's share of its bound, from 0 to 1 ("full jitter"), so that clients
            that failed together do not return together.
    """

    deadline_s: float = 300.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    draw: Callable[[], float] = field(default=random.random, repr=False)

    def pause_s(self, attempt: int, error: RetryableError) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) ended in `error`."""
        growth = 2.0 ** min(attempt - 1, 60)
        pause = self.draw() * min(self.first_pause_s * growth, self.longest_pause_s)
        asked = error.retry_in_s
        if asked is None or math.isnan(asked):
            return pause
        return max(pause, min(asked, LONGEST_WAIT_S))


@dataclass(frozen=True, slots=True)
class Pause:
    """The wait that begins now: until when, after which attempt (from 1), because of what."""

    attempt: int
    seconds: float
    until: datetime
    error: RetryableError

    @property
    def sentence(self) -> str:
        """What failed, and when the next attempt follows."""
        return (
            f"{self.error} Attempt {self.attempt + 1} follows in {self.seconds:.0f} s, "
            f"at {self.until:%H:%M:%SZ}."
        )


_listener: ContextVar[Callable[[Pause], None] | None] = ContextVar("_listener", default=None)


@contextmanager
def pauses_told_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside, `listener` gets a sentence for each pause of this thread that no `on_pause` takes."""
    token = _listener.set(lambda pause: listener(pause.sentence))
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
    """What `call` returns, once it does.

    An attempt is not interrupted: the last one may outlast the deadline by its own timeout.

    Args:
        call: Must be safe to call again after each `RetryableError` that it raises.
        policy: Deadline and pauses.
        clock: Tells time and waits.
        on_pause: Told of each pause before it begins; without it, who `pauses_told_to` names.

    Raises:
        RetryableError: The last attempt's, with attempts and seconds added to its message:
            the next pause would not end before the deadline.
        Exception: Whatever else `call` raises, at once.
    """
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

"""Send one request to the REST API with retries, within both quotas.

`QuotaLimiter` grants a permit, the session sends the request, the response's headers update
the quota and its body becomes a value or an error, and `http/retry.py` retries if that helps.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from bk_pipeline import telemetry
from bk_pipeline.buildkite.answers import Subject, exhausted_quota, refusal, reset_in_s, server_time
from bk_pipeline.buildkite.quota import POLL_S, Permit, Quota
from bk_pipeline.clock import Clock
from bk_pipeline.errors import QuotaSpent, ServiceUnavailable
from bk_pipeline.http.answers import TOO_MANY_REQUESTS
from bk_pipeline.http.retry import Pause, RetryPolicy, retry
from bk_pipeline.http.session import REDIRECTS, HttpSession, Params, Response, Streamed

# A wait for the responses of other requests is reported if it is longer than this.
ANNOUNCE_AFTER_S = 3.0


class QuotaLimiter:
    """Delays requests until the quota has room for them. Thread-safe.

    Args:
        quota: Of the token.
        clock: Used for measuring and waiting.
        on_wait: Called with a message before each wait.
        max_wait_s: Longest wait, in seconds; a longer one is an error instead.
    """

    def __init__(
        self,
        quota: Quota,
        *,
        clock: Clock,
        on_wait: Callable[[str], None],
        max_wait_s: float = math.inf,
    ) -> None:
        self._quota = quota
        self._clock = clock
        self._on_wait = on_wait
        self._max_wait_s = max_wait_s

    def acquire(self) -> Permit:
        """Wait for a permit for one request; return it to `Quota.settle`.

        While other requests are under way, this waits for their responses, which may report
        more room; otherwise it waits for the quota's reset, and reports that.

        Raises:
            QuotaSpent: No room becomes available within `max_wait_s`.
        """
        began_at = self._clock.monotonic()
        announced = False
        while True:
            with self._quota.changed:
                now = self._clock.monotonic()
                permit = self._quota.begin(now)
                if permit is not None:
                    return permit
                wait = self._quota.wait(now)
                if wait is None:
                    continue
                under_way_elsewhere = self._quota.under_way_elsewhere
                waited_s = now - began_at
                answers = now >= self._quota.blocked_until and waited_s < self._max_wait_s
                soon = min(wait.seconds, POLL_S) if under_way_elsewhere else wait.seconds
                quiet_s = ANNOUNCE_AFTER_S - waited_s  # until this wait has to be reported
                if (
                    answers
                    and self._quota.under_way > under_way_elsewhere
                    and (announced or quiet_s > 0)
                ):
                    self._quota.changed.wait(timeout=soon if announced else min(soon, quiet_s))
                    continue
            if answers and not announced and quiet_s <= 0:
                announced = True
                self._on_wait(f"{wait.why} Waiting for the answers to requests under way.")
                continue
            if answers and under_way_elsewhere:
                self._clock.sleep(soon)
                continue
            if waited_s + wait.seconds > self._max_wait_s:
                raise QuotaSpent(
                    f"{wait.why} There is room in {wait.seconds:.0f} s.", retry_in_s=wait.seconds
                )
            until = self._clock.now() + timedelta(seconds=wait.seconds)
            self._on_wait(f"{wait.why} Waiting {wait.seconds:.0f} s, until {until:%H:%M:%SZ}.")
            with telemetry.leaf_span("wait for quota", {"bk_pipeline.reason": wait.why}):
                self._clock.sleep(wait.seconds)


@dataclass(frozen=True, slots=True)
class Usage:
    """Number of requests, and seconds waited for the quota or before a retry."""

    requests: int = 0
    waited_s: float = 0.0

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.requests - earlier.requests, self.waited_s - earlier.waited_s)


class UsageClock:
    """A `Clock` that also counts requests and the seconds slept. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """The totals so far."""
        return self._usage

    def count_request(self) -> None:
        """Add one request."""
        self._add(Usage(requests=1))

    def now(self) -> datetime:
        """The current time, aware UTC."""
        return self._clock.now()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes backwards."""
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` and add them to the usage."""
        self._add(Usage(waited_s=seconds))
        self._clock.sleep(seconds)

    def _add(self, more: Usage) -> None:
        with self._lock:
            before = self._usage
            self._usage = Usage(before.requests + more.requests, before.waited_s + more.waited_s)


T = TypeVar("T")


class Api:
    """Makes the requests of one token, all of which only read. Thread-safe."""

    def __init__(
        self,
        session: HttpSession,
        *,
        quota: Quota,
        clock: Clock,
        policy: RetryPolicy,
        on_wait: Callable[[str], None],
        max_wait_s: float = math.inf,
    ) -> None:
        self.session = session
        self._quota = quota
        self._timeout_s: float | None = None
        self._clock = self.usage_clock = UsageClock(clock)
        self._policy = policy
        self._on_wait = on_wait
        self._limiter = QuotaLimiter(
            quota, clock=self.usage_clock, on_wait=on_wait, max_wait_s=max_wait_s
        )
        # The least of what the responses show; each includes the response's time in transit.
        self._clock_skew = timedelta.max

    def within(self, deadline_s: float) -> Api:
        """Return an Api that shares everything with this one, but gives up after `deadline_s`.

        That limits the retries and each response, but not the waits for the quota.
        """
        hurried = copy(self)
        retried_s = min(self._policy.deadline_s, deadline_s)
        hurried._policy = replace(self._policy, deadline_s=retried_s)  # noqa: SLF001  # of this class
        hurried._timeout_s = deadline_s  # noqa: SLF001  # of this class
        return hurried

    def with_quota(self, quota: Quota, *, max_wait_s: float = math.inf) -> Api:
        """Return an Api that shares everything with this one, but goes by another quota.

        Args:
            quota: Of the same token, with another reserve.
            max_wait_s: Longest wait for it, in seconds.
        """
        other = copy(self)
        other._quota = quota  # noqa: SLF001  # of this class
        other._limiter = QuotaLimiter(  # noqa: SLF001  # of this class
            quota, clock=self.usage_clock, on_wait=self._on_wait, max_wait_s=max_wait_s
        )
        return other

    def get(
        self,
        path_or_url: str,
        read: Callable[[Response], T],
        *,
        subject: Subject,
        params: Params | None = None,
        max_bytes: int | None = None,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        redirects: bool = False,
    ) -> T:
        """Make one request, with retries, and return the result of `read`.

        Waiting for the quota before the first attempt does not count against the deadline of
        the retries, because it is not a failure.

        Args:
            path_or_url: "/v2/...", or a link from a response.
            read: Called with a successful response. If it raises a RetryableError, the request
                is retried.
            subject: What is requested, for messages.
            params: Query parameters.
            max_bytes: Limit of the decompressed body.
            method: GET or HEAD.
            headers: Additional headers without secrets.
            redirects: Whether a redirect is a success.

        Raises:
            RetryableError: No usable response before the deadline.
            AnswerTooLarge: The body exceeds `max_bytes`.
            FatalError: By status; see `answers.refusal`.
        """
        first: list[Permit] = [self._limiter.acquire()]

        def attempt() -> T:
            permit = first.pop() if first else self._limiter.acquire()
            send = partial(
                self.session.send,
                method,
                path_or_url,
                params=params,
                timeout_s=self._timeout_s,
                max_bytes=max_bytes,
                headers=headers,
                redirects=redirects,
            )
            return read(self._ask(send, permit, subject, redirects=redirects))

        return self.retry(attempt)

    @contextmanager
    def stream(
        self, path: str, *, subject: Subject, headers: Mapping[str, str] | None = None
    ) -> Iterator[Streamed]:
        """Make one request, without retries, and read its body within the block.

        Args:
            path: "/v2/...".
            subject: What is requested, for messages.
            headers: Additional headers without secrets.

        Raises:
            RetryableError: No response; also while the body is read.
            FatalError: By status; see `answers.refusal`.
        """
        with ExitStack() as opened:

            def send() -> Response:
                found.append(opened.enter_context(self.session.stream(path, headers=headers)))
                return found[0].response

            found: list[Streamed] = []
            self._ask(send, self._limiter.acquire(), subject)
            yield found[0]

    def retry(self, attempt: Callable[[], T]) -> T:
        """The result of `attempt`, called again after each RetryableError until the deadline."""
        return retry(attempt, policy=self._policy, clock=self._clock, on_pause=self._announce)

    @property
    def clock_skew(self) -> timedelta:
        """Upper bound of how far this host's clock is ahead of Buildkite's.

        Zero if it is not ahead, or no response has shown it yet.
        """
        return (
            max(self._clock_skew, timedelta()) if self._clock_skew < timedelta.max else timedelta()
        )

    def _ask(
        self,
        send: Callable[[], Response],
        permit: Permit,
        subject: Subject,
        *,
        redirects: bool = False,
    ) -> Response:
        """Send a request and return its response if it is a success. Always settles the permit."""
        headers: Mapping[str, str] | None = None
        complete = False
        self.usage_clock.count_request()
        try:
            response = self._reached(send)
            complete = response.ok or (redirects and response.status in REDIRECTS)
            headers = response.headers
            if (date := server_time(response)) is not None:
                self._clock_skew = min(self._clock_skew, self._clock.now() - date)
            if response.status == TOO_MANY_REQUESTS:
                raise self._quota_error(response)
        finally:
            self._quota.settle(permit, self._clock.monotonic(), headers, complete=complete)
        if complete:
            return response
        failed = refusal(response, subject, quote=self.session.quote, now=self._clock.now())
        assert failed is not None
        raise failed

    def _reached(self, send: Callable[[], Response]) -> Response:
        try:
            return send()
        except ServiceUnavailable as exc:
            if exc.maybe_processed:
                raise
            raise ServiceUnavailable(
                f"Buildkite cannot be reached. {exc} Check the network, and "
                f"{self.session.setting} if it is set.",
                maybe_processed=False,
            ) from exc

    def _quota_error(self, response: Response) -> QuotaSpent:
        """The error for a 429. Blocks all requests of this quota until its reset."""
        now = self._clock.monotonic()
        self._quota.block(now, reset_in_s(response, self._clock.now()))
        return QuotaSpent(
            f"Buildkite's {exhausted_quota(response)} is spent (429).",
            retry_in_s=self._quota.pause_s(now),
        )

    def _announce(self, pause: Pause) -> None:
        self._on_wait(pause.message)

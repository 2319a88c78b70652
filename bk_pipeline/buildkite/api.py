"""One question to the REST API, asked until it is answered, within both quotas.

This is where the pieces meet: the gate lets it go, the session sends it, the answer feeds
the quota and becomes a value or an error, and `http/retry.py` asks again where that helps.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from bk_pipeline import telemetry
from bk_pipeline.buildkite.answers import Subject, refusal, reset_in_s, sent_at, spent_shown
from bk_pipeline.buildkite.quota import LOOK_AGAIN_S, Quota, Ticket
from bk_pipeline.clock import Clock
from bk_pipeline.errors import QuotaSpent, ServiceUnavailable
from bk_pipeline.http.answers import TOO_MANY_REQUESTS
from bk_pipeline.http.retry import Pause, RetryPolicy, retry
from bk_pipeline.http.session import HttpSession, Params, Response

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
            with telemetry.leaf_span("wait for quota", {"bk_pipeline.reason": wait.why}):
                self._clock.sleep(wait.seconds)


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


T = TypeVar("T")


class Api:
    """GET requests of one token. For several threads at once."""

    def __init__(
        self,
        session: HttpSession,
        *,
        quota: Quota,
        clock: Clock,
        policy: RetryPolicy,
        on_wait: Callable[[str], None],
        patience_s: float = math.inf,
    ) -> None:
        self.session = session
        self._quota = quota
        self._clock = self.tally = Tally(clock)
        self._policy = policy
        self._on_wait = on_wait
        self._gate = Gate(quota, clock=self.tally, on_wait=on_wait, patience_s=patience_s)
        # Each answer bounds it from above, since it was under way for a while.
        self._ahead = timedelta.max

    def get(
        self,
        path_or_url: str,
        read: Callable[[Response], T],
        *,
        subject: Subject,
        params: Params | None = None,
        max_bytes: int | None = None,
    ) -> T:
        """What `read` makes of the answer.

        Waiting for the quota before the first attempt does not count against the retries'
        deadline: it is no failure.

        Args:
            path_or_url: "/v2/...", or a link that the API gave.
            read: Called with a success. A RetryableError of its own has the question asked
                again.
            subject: What is asked for, for messages.
            params: The query.
            max_bytes: How large an answer may be.

        Raises:
            RetryableError: No usable answer until the deadline.
            AnswerTooLarge: The answer is larger than `max_bytes`.
            FatalError: By status; see `answers.refusal`.
        """
        first: list[Ticket] = [self._gate.enter()]

        def attempt() -> T:
            ticket = first.pop() if first else self._gate.enter()
            send = partial(self._send, path_or_url, params, max_bytes)
            return read(self._ask(send, ticket, subject))

        return retry(attempt, policy=self._policy, clock=self._clock, on_pause=self._announce)

    @property
    def ahead(self) -> timedelta:
        """By how much our clock is ahead of Buildkite's, at most; 0 if it is not, or unknown."""
        return max(self._ahead, timedelta()) if self._ahead < timedelta.max else timedelta()

    def _ask(self, send: Callable[[], Response], ticket: Ticket, subject: Subject) -> Response:
        """The answer, if it is a success. Gives the ticket back whatever happens."""
        headers: Mapping[str, str] | None = None
        complete = False
        self.tally.count_request()
        try:
            response = send()
            headers, complete = response.headers, response.ok
            if (date := sent_at(response)) is not None:
                self._ahead = min(self._ahead, self._clock.now() - date)
            if response.status == TOO_MANY_REQUESTS:
                raise self._spent(response)
        finally:
            self._quota.settle(ticket, self._clock.monotonic(), headers, complete=complete)
        failed = refusal(response, subject, quote=self.session.quote, now=self._clock.now())
        if failed is not None:
            raise failed
        return response

    def _send(self, path_or_url: str, params: Params | None, max_bytes: int | None) -> Response:
        try:
            return self.session.send("GET", path_or_url, params=params, max_bytes=max_bytes)
        except ServiceUnavailable as exc:
            if exc.maybe_processed:
                raise
            raise ServiceUnavailable(
                f"Buildkite cannot be reached. {exc} Check the network, and "
                f"{self.session.setting} if it is set.",
                maybe_processed=False,
            ) from exc

    def _spent(self, response: Response) -> QuotaSpent:
        """The error of a 429, after which no thread of this client asks before the reset."""
        now = self._clock.monotonic()
        self._quota.block(now, reset_in_s(response, self._clock.now()))
        return QuotaSpent(
            f"Buildkite's {spent_shown(response)} is spent (429).",
            retry_in_s=self._quota.pause_s(now),
        )

    def _announce(self, pause: Pause) -> None:
        self._on_wait(pause.message)

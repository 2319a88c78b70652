"""One batch, from the ledger's "in doubt" to the last outcome.

What the ledger says at any moment is true if the process dies then. Items are in doubt
from before they leave until they are answered; what is known not to have arrived (a
refusal, a throttling, a connection that was never made) is taken back at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from bk_pipeline.clock import Clock
from bk_pipeline.contracts import Rejection
from bk_pipeline.deliver.batching import body_bytes, halves, ids_by_trace
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destination import (
    ACCEPTED,
    DeliveryLedger,
    Destination,
    Item,
    Outcome,
    SendResult,
    Verdict,
)
from bk_pipeline.errors import (
    DeliveryThrottled,
    PipelineError,
    RequestTooLarge,
    RetryableError,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from bk_pipeline.http.limiter import limiter_of
from bk_pipeline.http.retry import Pause, retry

LONGEST_NAP_S = 1.0
SETTLED = (Verdict.ACCEPTED, Verdict.REJECTED)


class Stopped(Exception):
    """No error: the delivery is over, and what has not left yet stays here."""


class _NotRetried(Exception):
    """Carries an error past the retries: it may pass, but sending again would be wrong."""

    def __init__(self, error: RetryableError) -> None:
        super().__init__()
        self.error = error


@dataclass(slots=True)
class _Waiting:
    """Items without an outcome.

    Attributes:
        items: In their order.
        batch: Under which the ledger has them in doubt; None: they are not.
        maybe_arrived: An earlier attempt may have brought them there.
    """

    items: Sequence[Item]
    batch: int | None = None
    maybe_arrived: bool = False


class Sender:
    """Sends batches of one day to one destination. For several threads at once."""

    def __init__(
        self,
        destination: Destination,
        ledger: DeliveryLedger,
        *,
        day: str,
        clock: Clock,
        policy: DeliveryPolicy,
        stop: Event,
        on_settled: Callable[[Delivery], None],
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self._destination = destination
        self._name = destination.name
        self._ledger = ledger
        self._day = day
        self._policy = policy
        self._stop = stop
        self._on_settled = on_settled
        self._on_wait = on_wait
        self._patient_clock = clock
        self._clock = _NappingClock(clock, stop)
        self._limiter = limiter_of(self._name)

    def deliver(self, items: Sequence[Item]) -> Delivery:
        """What came of `items`: all of them are settled.

        Raises:
            PipelineError: Not all of them are. What is, is in the ledger.
            Stopped: The same, because another thread had such an error.
        """
        total = Delivery()
        waiting = [items]
        try:
            while waiting:
                too_many = self._settle(waiting.pop(), total)
                if too_many:
                    waiting.extend(reversed(halves(too_many)))
        except BaseException:
            self._stop.set()
            raise
        return total

    def _settle(self, items: Sequence[Item], total: Delivery) -> Sequence[Item]:
        """Those of `items` that are too many for one request; all others are settled."""
        waiting = _Waiting(items)
        # The first wait for a permit is no failure: it does not count against the deadline.
        permits = [self._enter()]
        try:
            retry(
                lambda: self._attempt(waiting, permits.pop() if permits else self._enter(), total),
                policy=self._destination.retry,
                clock=self._clock,
                on_pause=self._announce,
            )
        except RequestTooLarge:
            return waiting.items
        except _NotRetried as exc:
            raise exc.error from exc.error.__cause__
        return ()

    def _announce(self, pause: Pause) -> None:
        if self._on_wait is not None:
            self._on_wait(pause.sentence)

    def _enter(self) -> int:
        permit = self._limiter.enter(
            self._clock, stopped=self._stop.is_set, on_wait=self._throttled
        )
        if self._stop.is_set():
            raise Stopped
        return permit

    def _throttled(self, seconds: float) -> None:
        if self._on_wait is not None:
            self._on_wait(
                f"{self._name} asked us to slow down: sending goes on in {seconds:.0f} s."
            )

    def _attempt(self, waiting: _Waiting, permit: int, total: Delivery) -> None:
        """Send what waits, once, and settle what was answered.

        Raises:
            RetryableError: Something is left, and trying again may help.
        """
        with _not_retried():
            if waiting.batch is None:
                waiting.batch = self._ledger.begin(
                    self._name, self._day, ids_by_trace(waiting.items)
                )
            else:
                # Somebody else may have the turn by now, and send this very batch.
                self._ledger.begin_again(self._name, self._day, waiting.batch)
        try:
            answer = self._destination.send(waiting.items)
        except RequestTooLarge as exc:
            if len(waiting.items) == 1:
                self._reject_alone(waiting, exc.detail or str(exc), total)
                return
            self._take_back(waiting)
            raise
        except UnexpectedAnswer:
            raise
        except PipelineError as exc:
            self._explain(exc, waiting, permit)
            raise
        self._settle_answered(waiting, answer, total)
        if waiting.items:
            error = _leftover_error(self._name, waiting.items, answer)
            self._explain(error, waiting, permit)
            raise error
        self._limiter.passed(permit)

    def _explain(self, error: PipelineError, waiting: _Waiting, permit: int) -> None:
        """Tell the ledger and the rate limiter what `error` means for the items that it concerns.

        Raises:
            _NotRetried: At most once, and they may have arrived.
        """
        if isinstance(error, ServiceUnavailable) and error.maybe_processed:
            waiting.maybe_arrived = True
            if self._policy.guarantee is Guarantee.AT_MOST_ONCE:
                raise _NotRetried(error) from error
            return
        self._take_back(waiting)
        if isinstance(error, DeliveryThrottled):
            error.retry_in_s = self._limiter.refused(
                permit, error, policy=self._destination.retry, clock=self._clock
            )

    def _take_back(self, waiting: _Waiting) -> None:
        """These have not arrived, unless an earlier attempt brought them."""
        if waiting.batch is not None and not waiting.maybe_arrived:
            with _not_retried():
                self._ledger.settle(waiting.batch)
            waiting.batch = None

    def _reject_alone(self, waiting: _Waiting, words: str, total: Delivery) -> None:
        rejected = [_rejection(waiting.items[0], words)]
        self._write(waiting, lambda batch: self._ledger.settle(batch, rejected=rejected))
        self._count(Delivery(rejected=1, rejections=rejected), total)

    def _count(self, settled: Delivery, total: Delivery) -> None:
        total += settled
        self._on_settled(settled)

    def _settle_answered(self, waiting: _Waiting, answer: SendResult, total: Delivery) -> None:
        """Settle what has an outcome; what is left goes on waiting."""
        accepted, rejected, left = _divided(waiting.items, answer.outcomes)
        if left and any(one.verdict is Verdict.UNANSWERED for one in answer.outcomes):
            waiting.maybe_arrived = True
        doubtful = left if waiting.maybe_arrived else []
        settled = Delivery(
            accepted=len(accepted),
            rejected=len(rejected),
            rejected_unnamed=answer.rejected_unnamed,
            trimmed=sum(item.trimmed for item in accepted),
            batches=1,
            body_bytes=body_bytes(waiting.items, self._destination.limits),
            sent_bytes=answer.sent_bytes,
            rejections=rejected,
            warnings=[answer.warning] if answer.warning else [],
        )
        # First: it is so, whether or not the ledger can be told.
        self._count(settled, total)
        if accepted is waiting.items:
            self._write(waiting, self._ledger.accept)
        else:
            self._write(
                waiting,
                lambda batch: self._ledger.settle(
                    batch,
                    accepted=ids_by_trace(accepted),
                    rejected=rejected,
                    in_doubt=ids_by_trace(doubtful),
                ),
            )
        waiting.items = left
        waiting.batch = waiting.batch if doubtful else None

    def _write(self, waiting: _Waiting, write: Callable[[int], None]) -> None:
        """Settle, and try hard: what the ledger does not learn now is sent again later."""
        batch = waiting.batch
        assert batch is not None
        with _not_retried():
            retry(
                lambda: write(batch),
                policy=self._destination.retry,
                clock=self._patient_clock,
                on_pause=self._announce,
            )


@contextmanager
def _not_retried() -> Iterator[None]:
    try:
        yield
    except RetryableError as exc:
        raise _NotRetried(exc) from exc


def _divided(
    items: Sequence[Item], outcomes: Sequence[Outcome]
) -> tuple[Sequence[Item], list[Rejection], list[Item]]:
    """The accepted items, the rejections, and the items that have no outcome yet.

    Where all are accepted, those are `items` itself.
    """
    if len(items) == len(outcomes) == outcomes.count(ACCEPTED):
        return items, [], []
    pairs = list(zip(items, outcomes, strict=True))
    return (
        [item for item, outcome in pairs if outcome.verdict is Verdict.ACCEPTED],
        [
            _rejection(item, outcome.message)
            for item, outcome in pairs
            if outcome.verdict is Verdict.REJECTED
        ],
        [item for item, outcome in pairs if outcome.verdict not in SETTLED],
    )


def _leftover_error(name: str, left: Sequence[Item], answer: SendResult) -> RetryableError:
    """What to raise because of the items that an answer left over."""
    over = [one for one in answer.outcomes if one.verdict not in SETTLED]
    words = next((f" ({one.message})" for one in over if one.message), "")
    what = (
        f"{name}: {len(left)} of {len(answer.outcomes)} spans of a batch were "
        f"{over[0].verdict.value}{words}, the first of them {left[0].item_id.hex()}; the "
        "others are settled, and these are tried again alone."
    )
    if any(one.verdict is Verdict.UNANSWERED for one in over):
        return ServiceUnavailable(what)
    if any(one.verdict is Verdict.THROTTLED for one in over):
        return DeliveryThrottled(what)
    return ServiceUnavailable(what, maybe_processed=False)


def _rejection(item: Item, words: str) -> Rejection:
    return Rejection(item.trace_id, item.item_id, item.name, words)


class _NappingClock:
    """A clock that sleeps in short naps, and not at all once the stop was given."""

    def __init__(self, clock: Clock, stop: Event) -> None:
        self._clock = clock
        self._stop = stop
        self.now = clock.now
        self.monotonic = clock.monotonic

    def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while not self._stop.is_set() and (left := until - self.monotonic()) > 0:
            self._clock.sleep(min(left, LONGEST_NAP_S))

"""Send one batch until all its items are settled, and keep the ledger up to date.

The ledger is correct even if the process dies at any moment. Items are in doubt from before they
are sent until there is a response. Items known not to have arrived (after a refusal, a throttling
or a failed connection) are removed from doubt at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from bk_pipeline.clock import Clock
from bk_pipeline.contracts import Rejection
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
from bk_pipeline.deliver.selection import body_bytes, halves, ids_by_trace
from bk_pipeline.errors import (
    DeliveryThrottled,
    PipelineError,
    RequestTooLarge,
    RetryableError,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from bk_pipeline.http.retry import Pause, limiter_of, retry

MAX_SLEEP_S = 1.0
SETTLED = (Verdict.ACCEPTED, Verdict.REJECTED)


class Stopped(Exception):
    """The delivery was stopped by another sender; items not sent yet are not sent. Not an error."""


class _NotRetried(Exception):
    """Carries a retryable error past the retries, because sending again would be wrong."""

    def __init__(self, error: RetryableError) -> None:
        super().__init__()
        self.error = error


@dataclass(slots=True)
class _PendingItems:
    """Items without an outcome.

    Attributes:
        items: The items, in order.
        batch: Their batch in the ledger while they are in doubt, else None.
        maybe_arrived: Whether an earlier attempt may have delivered them.
    """

    items: Sequence[Item]
    batch: int | None = None
    maybe_arrived: bool = False


class Sender:
    """Sends batches of one day to one destination. Thread-safe.

    Args:
        destination: The destination.
        ledger: Records the outcomes.
        day: The day of all items.
        clock: The clock for retries.
        policy: The guarantee.
        stop: Set when a sender fails, so that the others stop.
        on_settled: Called with the result of each response.
        on_wait: Called with a sentence before each wait.
    """

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
        self._uninterrupted_clock = clock
        self._clock = _InterruptibleClock(clock, stop)
        self._limiter = limiter_of(self._name)

    def deliver(self, items: Sequence[Item]) -> Delivery:
        """Send `items` until all are settled, and return the result.

        Raises:
            PipelineError: Not all are settled; those that are, are in the ledger.
            Stopped: The same, because another sender failed.
        """
        total = Delivery()
        pending = [items]
        try:
            while pending:
                too_large = self._settle(pending.pop(), total)
                if too_large:
                    pending.extend(reversed(halves(too_large)))
        except BaseException:
            self._stop.set()
            raise
        return total

    def _settle(self, items: Sequence[Item], total: Delivery) -> Sequence[Item]:
        """Settle `items`, except for those returned, which are too many for one request."""
        pending = _PendingItems(items)
        # The first wait for a permit is not a failure, so it does not count against the deadline.
        permits = [self._acquire_permit()]
        try:
            retry(
                lambda: self._attempt(
                    pending, permits.pop() if permits else self._acquire_permit(), total
                ),
                policy=self._destination.retry,
                clock=self._clock,
                on_pause=self._report_pause,
            )
        except RequestTooLarge:
            return pending.items
        except _NotRetried as exc:
            raise exc.error from exc.error.__cause__
        return ()

    def _report_pause(self, pause: Pause) -> None:
        if self._on_wait is not None:
            self._on_wait(pause.message)

    def _acquire_permit(self) -> int:
        permit = self._limiter.enter(
            self._clock, stopped=self._stop.is_set, on_wait=self._report_throttling
        )
        if self._stop.is_set():
            raise Stopped
        return permit

    def _report_throttling(self, seconds: float) -> None:
        if self._on_wait is not None:
            self._on_wait(
                f"{self._name} asked us to slow down: sending continues in {seconds:.0f} s."
            )

    def _attempt(self, pending: _PendingItems, permit: int, total: Delivery) -> None:
        """Send the waiting items once and settle those with an outcome.

        Raises:
            RetryableError: Some items are left, and retrying may help.
        """
        with _not_retried():
            if pending.batch is None:
                pending.batch = self._ledger.begin(
                    self._name, self._day, ids_by_trace(pending.items)
                )
            else:
                # Another process may hold the delivery lock by now, and send this batch too.
                self._ledger.begin_again(self._name, self._day, pending.batch)
        try:
            result = self._destination.send(pending.items)
        except RequestTooLarge as exc:
            if len(pending.items) == 1:
                self._reject_single(pending, exc.detail or str(exc), total)
                return
            self._clear_doubt(pending)
            raise
        except UnexpectedAnswer:
            raise
        except PipelineError as exc:
            self._record_error(exc, pending, permit)
            raise
        self._settle_outcomes(pending, result, total)
        if pending.items:
            error = _unsettled_error(self._name, pending.items, result)
            self._record_error(error, pending, permit)
            raise error
        self._limiter.passed(permit)

    def _record_error(self, error: PipelineError, pending: _PendingItems, permit: int) -> None:
        """Update the ledger and the rate limiter according to `error`.

        Raises:
            _NotRetried: The guarantee is at most once, and the items may have arrived.
        """
        if isinstance(error, ServiceUnavailable) and error.maybe_processed:
            pending.maybe_arrived = True
            if self._policy.guarantee is Guarantee.AT_MOST_ONCE:
                raise _NotRetried(error) from error
            return
        self._clear_doubt(pending)
        if isinstance(error, DeliveryThrottled):
            error.retry_in_s = self._limiter.refused(
                permit, error, policy=self._destination.retry, clock=self._clock
            )

    def _clear_doubt(self, pending: _PendingItems) -> None:
        """Remove items from doubt, unless an earlier attempt may have delivered them."""
        if pending.batch is not None and not pending.maybe_arrived:
            with _not_retried():
                self._ledger.settle(pending.batch)
            pending.batch = None

    def _reject_single(self, pending: _PendingItems, message: str, total: Delivery) -> None:
        rejected = [_rejection(pending.items[0], message)]
        self._settle_in_ledger(pending, lambda batch: self._ledger.settle(batch, rejected=rejected))
        self._count(Delivery(rejected=1, rejections=rejected), total)

    def _count(self, settled: Delivery, total: Delivery) -> None:
        total += settled
        self._on_settled(settled)

    def _settle_outcomes(self, pending: _PendingItems, result: SendResult, total: Delivery) -> None:
        """Settle the items with an outcome; the others keep waiting."""
        accepted, rejected, left = _split_by_outcome(pending.items, result.outcomes)
        if left and any(one.verdict is Verdict.UNANSWERED for one in result.outcomes):
            pending.maybe_arrived = True
        in_doubt = left if pending.maybe_arrived else []
        settled = Delivery(
            accepted=len(accepted),
            rejected=len(rejected),
            rejected_unnamed=result.rejected_unnamed,
            trimmed=sum(item.trimmed for item in accepted),
            batches=1,
            body_bytes=body_bytes(pending.items, self._destination.limits),
            sent_bytes=result.sent_bytes,
            rejections=rejected,
            warnings=[result.warning] if result.warning else [],
        )
        # Counted first, because it holds whether or not the ledger can be updated.
        self._count(settled, total)
        if accepted is pending.items:
            self._settle_in_ledger(pending, self._ledger.accept)
        else:
            self._settle_in_ledger(
                pending,
                lambda batch: self._ledger.settle(
                    batch,
                    accepted=ids_by_trace(accepted),
                    rejected=rejected,
                    in_doubt=ids_by_trace(in_doubt),
                ),
            )
        pending.items = left
        pending.batch = pending.batch if in_doubt else None

    def _settle_in_ledger(self, pending: _PendingItems, write: Callable[[int], None]) -> None:
        """Settle in the ledger, with retries: unsettled items would be sent again later."""
        batch = pending.batch
        assert batch is not None
        with _not_retried():
            retry(
                lambda: write(batch),
                policy=self._destination.retry,
                clock=self._uninterrupted_clock,
                on_pause=self._report_pause,
            )


@contextmanager
def _not_retried() -> Iterator[None]:
    try:
        yield
    except RetryableError as exc:
        raise _NotRetried(exc) from exc


def _split_by_outcome(
    items: Sequence[Item], outcomes: Sequence[Outcome]
) -> tuple[Sequence[Item], list[Rejection], list[Item]]:
    """Return the accepted items, the rejections, and the items without an outcome yet.

    If all are accepted, the first result is `items` itself.
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


def _unsettled_error(name: str, left: Sequence[Item], result: SendResult) -> RetryableError:
    """Return the error for the items that a response left without an outcome."""
    unsettled = [one for one in result.outcomes if one.verdict not in SETTLED]
    message = next((f" ({one.message})" for one in unsettled if one.message), "")
    text = (
        f"{name}: {len(left)} of {len(result.outcomes)} spans of a batch were "
        f"{unsettled[0].verdict.value}{message}, the first of them {left[0].item_id.hex()}; the "
        "others are settled, and these are retried on their own."
    )
    if any(one.verdict is Verdict.UNANSWERED for one in unsettled):
        return ServiceUnavailable(text)
    if any(one.verdict is Verdict.THROTTLED for one in unsettled):
        return DeliveryThrottled(text)
    return ServiceUnavailable(text, maybe_processed=False)


def _rejection(item: Item, message: str) -> Rejection:
    return Rejection(item.trace_id, item.item_id, item.name, message)


class _InterruptibleClock:
    """A clock that sleeps in short intervals, and not at all once `stop` is set."""

    def __init__(self, clock: Clock, stop: Event) -> None:
        self._clock = clock
        self._stop = stop
        self.now = clock.now
        self.monotonic = clock.monotonic

    def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while not self._stop.is_set() and (left := until - self.monotonic()) > 0:
            self._clock.sleep(min(left, MAX_SLEEP_S))

"""Items in doubt: both guarantees, and ledgers that fail."""

from __future__ import annotations

import pytest

from bk_pipeline.deliver.destination import SendResult
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import (
    DeliveryThrottled,
    RetryableError,
    ServiceUnavailable,
    StorageError,
)
from bk_pipeline_tests.deliver.destinations import (
    DOWN,
    LOST,
    MOST_ONCE,
    ONE_BY_ONE,
    UNANSWERED,
    ScriptedDestination,
    stored_once,
)
from bk_pipeline_tests.deliver.tables import DAY, span_count, tables


def test_at_least_once_resends_items_in_doubt(send, ledger):
    made = tables(3)
    destination = ScriptedDestination()
    left = destination.encode(SpanRows.from_table(made[0]))[:5]
    ledger.begin(destination.name, DAY, {item.trace_id: [item.item_id] for item in left})
    in_doubt = ledger.summary(destination.name).in_doubt

    delivery = send(made, destination=destination)

    assert delivery.in_doubt_resent == in_doubt > 0
    assert delivery.accepted == span_count(made)
    assert ledger.summary(destination.name).in_doubt == 0


def test_at_most_once_presumes_items_in_doubt_sent(send, ledger):
    made = tables(3)
    destination = ScriptedDestination()
    left = destination.encode(SpanRows.from_table(made[0]))[:1]
    ledger.begin(destination.name, DAY, {item.trace_id: [item.item_id] for item in left})

    delivery = send(made, destination=destination, policy=MOST_ONCE)

    assert delivery.presumed_sent == 1
    assert delivery.accepted == span_count(made) - 1
    assert left[0].key not in {item.key for item in destination.stored}
    assert ledger.summary(destination.name).presumed == 1


@pytest.mark.parametrize("kind", ["lost", "unanswered"])
def test_at_most_once_never_resends_items_that_may_have_arrived(send, ledger, kind):
    destination = ScriptedDestination(items=10)
    lost = {
        "lost": destination.accept_and_raise(LOST),
        "unanswered": lambda items: SendResult(
            [UNANSWERED, *destination.accept(items).outcomes[1:]], 1
        ),
    }
    destination.replies = [lost[kind]]
    made = tables(5)

    with pytest.raises(ServiceUnavailable):
        send(made, destination=destination, policy=MOST_ONCE)
    delivery = send(made, destination=destination, policy=MOST_ONCE)

    assert delivery.presumed_sent == (10 if kind == "lost" else 1)
    assert stored_once(destination, span_count(made))
    assert ledger.summary(destination.name).in_doubt == 0


@pytest.mark.parametrize("error", [DeliveryThrottled("slow down"), DOWN], ids=["429", "down"])
def test_at_most_once_retries_items_that_did_not_arrive(send, error):
    destination = ScriptedDestination(error)

    delivery = send(tables(1), destination=destination, policy=MOST_ONCE)

    assert delivery.accepted == span_count(tables(1))


class BrokenLedger:
    """A ledger with one method that fails `count` times, starting after `after` calls."""

    def __init__(self, ledger, method, error, *, after=0, count=10**6):
        self._ledger = ledger
        self._method = method
        self._error = error
        self._after = after
        self._left = count

    def __getattr__(self, name):
        return self._failing if name == self._method else getattr(self._ledger, name)

    def _failing(self, *args, **kwargs):
        self._after -= 1
        if self._after < 0 < self._left:
            self._left -= 1
            raise self._error
        return getattr(self._ledger, self._method)(*args, **kwargs)


def test_batch_that_cannot_be_recorded_is_not_sent(ledger, send):
    destination = ScriptedDestination(items=10)
    full = BrokenLedger(ledger, "begin", StorageError("the disk is full"), after=1)

    with pytest.raises(StorageError, match="full"):
        send(tables(10), destination=destination, ledger=full, policy=ONE_BY_ONE)

    assert len(destination.requests) == 1


def test_busy_ledger_is_retried_without_resending_the_batch(ledger, send):
    destination = ScriptedDestination()
    busy = BrokenLedger(ledger, "accept", RetryableError("locked"), count=3)
    made = tables(1)

    delivery = send(made, destination=destination, ledger=busy)

    assert delivery.accepted == span_count(made)
    assert stored_once(destination, span_count(made))


def test_ledger_failure_after_the_response_leaves_items_in_doubt(ledger, send):
    destination = ScriptedDestination()
    broken = BrokenLedger(ledger, "accept", RetryableError("locked"))

    with pytest.raises(RetryableError, match=r"locked.*Gave up"):
        send(tables(1), destination=destination, ledger=broken)

    assert len(destination.requests) == 1
    assert ledger.summary(destination.name).in_doubt == span_count(tables(1))

"""Destinations that refuse, throttle or break: what is retried, settled and raised."""

from __future__ import annotations

import threading

import pytest

from bk_pipeline.deliver.delivery import DeliveryPolicy
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    FatalError,
    StorageError,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline_tests.deliver.destinations import (
    DOWN,
    FAILED,
    LOST,
    ONE_BY_ONE,
    REJECTED,
    THROTTLED,
    UNANSWERED,
    ScriptedDestination,
    stored_once,
    too_large,
)
from bk_pipeline_tests.deliver.tables import DAY, span_count, tables


@pytest.mark.parametrize(
    "outcome", [THROTTLED, FAILED, UNANSWERED], ids=lambda one: one.verdict.value
)
def test_failed_items_are_retried_alone_after_the_others_are_settled(send, ledger, outcome):
    destination = ScriptedDestination()
    destination.replies = [destination.outcomes(at_1=outcome, at_3=outcome)]
    settled_before_the_second: list[int] = []

    def second(items):
        settled_before_the_second.append(ledger.summary(destination.name).accepted)
        return destination.accept(items)

    destination.replies.append(second)
    made = tables(2)
    count = span_count(made)

    delivery = send(made, destination=destination)

    first, again = destination.requests
    assert again == [first[1], first[3]]
    assert settled_before_the_second == [count - 2]
    assert delivery.accepted == count
    assert stored_once(destination, count)
    assert ledger.summary(destination.name).in_doubt == 0


def test_rejected_item_is_settled_with_its_message_and_not_resent(send, ledger):
    destination = ScriptedDestination()
    destination.replies = [destination.outcomes(at_2=REJECTED)]
    made = tables(1)

    delivery = send(made, destination=destination)
    again = send(made, destination=destination)

    assert (delivery.rejected, delivery.accepted) == (1, span_count(made) - 1)
    rejected = destination.requests[0][2]
    assert [one.item_id for one in delivery.rejections] == [rejected.item_id]
    (noted,) = ledger.rejections(destination.name)
    assert (noted.item_id, noted.span_name, noted.reason, noted.day) == (
        rejected.item_id, rejected.name, REJECTED.message, DAY,
    )  # fmt: skip
    assert again.already_settled == span_count(made)
    assert len(destination.requests) == 1


def test_requeued_item_is_sent_again(send, ledger):
    destination = ScriptedDestination()
    destination.replies = [destination.outcomes(at_2=REJECTED)]
    made = tables(1)
    send(made, destination=destination)

    ledger.requeue(destination.name)
    again = send(made, destination=destination)

    assert again.accepted == 1
    assert stored_once(destination, span_count(made))


def test_too_large_batch_is_halved_until_it_is_accepted(send):
    destination = ScriptedDestination(too_large(), too_large())
    made = tables(2)
    count = span_count(made)

    delivery = send(made, destination=destination, policy=ONE_BY_ONE)

    assert [len(request) for request in destination.requests] == [
        count, count // 2, count // 4, count // 4, count // 2,
    ]  # fmt: skip
    assert delivery.accepted == count
    left = [item for request in destination.requests[2:] for item in request]
    assert left == [item for one in made for item in destination.encode(SpanRows.from_table(one))]


def test_too_large_span_is_rejected_with_the_message(send, ledger):
    class Picky(ScriptedDestination):
        poison = None

        def send(self, items):
            self.poison = self.poison or items[3].item_id
            if self.poison in {item.item_id for item in items}:
                self.requests.append(list(items))
                raise too_large()
            return super().send(items)

    destination = Picky()
    made = tables(2)

    delivery = send(made, destination=destination)

    assert (delivery.accepted, delivery.rejected) == (span_count(made) - 1, 1)
    assert [one.reason for one in ledger.rejections(destination.name)] == ["too large"]
    assert stored_once(destination, span_count(made) - 1)


def test_accepted_items_are_not_resent_if_the_rest_is_too_large(send):
    destination = ScriptedDestination()
    destination.replies = [destination.outcomes(at_0=THROTTLED, at_1=THROTTLED), too_large()]
    made = tables(1)

    send(made, destination=destination)

    assert stored_once(destination, span_count(made))


@pytest.mark.parametrize(
    "error", [DeliveryThrottled("slow down"), DOWN, LOST], ids=["429", "down", "lost"]
)
def test_failed_request_is_retried_until_it_succeeds(send, ledger, clock, error):
    destination = ScriptedDestination(error, error)
    made = tables(1)

    delivery = send(made, destination=destination)

    assert delivery.accepted == span_count(made)
    assert [len(request) for request in destination.requests] == [span_count(made)] * 3
    assert sum(clock.slept) == pytest.approx(1 + 2)
    assert ledger.summary(destination.name).in_doubt == 0


def test_throttling_stops_all_senders_until_the_pause_is_over(send, clock):
    destination = ScriptedDestination(DeliveryThrottled("slow down", retry_in_s=30), items=5)
    started = clock.monotonic()
    when: list[float] = []
    original = destination.accept

    def timed(items):
        when.append(clock.monotonic() - started)
        return original(items)

    destination.accept = timed

    send(tables(10), destination=destination, policy=DeliveryPolicy(in_flight=2))

    # One other request may have been in flight when the response arrived.
    assert sum(at < 30 for at in when) <= 1


@pytest.mark.parametrize(
    ("error", "in_doubt"),
    [(DeliveryThrottled("slow down"), False), (DOWN, False), (LOST, True)],
    ids=["429", "down", "lost"],
)
def test_error_after_the_deadline_leaves_sent_items_in_doubt(send, ledger, error, in_doubt):
    destination = ScriptedDestination(*[error] * 100)
    destination.retry = RetryPolicy(deadline_s=20, jitter=lambda: 1.0)
    made = tables(1)

    with pytest.raises(type(error), match=r"Gave up after \d+ attempts"):
        send(made, destination=destination)

    summary = ledger.summary(destination.name)
    assert summary.accepted == 0
    assert summary.in_doubt == (span_count(made) if in_doubt else 0)


@pytest.mark.parametrize(
    "error",
    [TokenRefused("401"), AccessDenied("403"), FatalError("TLS")],
    ids=["401", "403", "TLS"],
)
def test_refusal_is_raised_at_once_and_nothing_is_recorded(send, ledger, clock, error):
    destination = ScriptedDestination(error)

    with pytest.raises(type(error)):
        send(tables(1), destination=destination)

    summary = ledger.summary(destination.name)
    assert (summary.accepted, summary.rejected, summary.in_doubt) == (0, 0, 0)
    assert len(destination.requests) == 1
    assert clock.slept == []


def test_unexpected_response_leaves_the_batch_in_doubt(send, ledger):
    destination = ScriptedDestination(UnexpectedAnswer("html"))

    with pytest.raises(UnexpectedAnswer):
        send(tables(1), destination=destination)

    assert ledger.summary(destination.name).in_doubt == span_count(tables(1))


def test_refusal_after_a_broken_connection_keeps_the_doubt(send, ledger):
    destination = ScriptedDestination()
    destination.replies = [destination.accept_and_raise(LOST), TokenRefused("401")]

    with pytest.raises(TokenRefused):
        send(tables(1), destination=destination)

    assert ledger.summary(destination.name).in_doubt == span_count(tables(1))


def test_items_settled_before_a_failure_are_not_resent(send):
    destination = ScriptedDestination(items=10)
    destination.replies = [destination.accept, destination.accept, TokenRefused("401")]
    made = tables(10)
    with pytest.raises(TokenRefused):
        send(made, destination=destination, policy=ONE_BY_ONE)

    send(made, destination=destination)

    assert stored_once(destination, span_count(made))


def test_failure_of_one_sender_stops_the_others(send, ledger, clock):
    failed = threading.Event()
    destination = ScriptedDestination(items=5)

    def refuse(_items):
        failed.set()
        raise TokenRefused("401")

    destination.replies = [DeliveryThrottled("slow down", retry_in_s=100), refuse]
    destination.retry = RetryPolicy(deadline_s=10_000, jitter=lambda: 1.0)

    with pytest.raises(TokenRefused):
        send(tables(20), destination=destination, policy=DeliveryPolicy(in_flight=2))

    assert failed.is_set()
    # Of dozens: the other thread may have been between two batches at that time.
    assert len(destination.requests) <= 8
    assert ledger.summary(destination.name).in_doubt == 0


def test_error_while_reading_tables_keeps_sent_items_settled(send, ledger):
    destination = ScriptedDestination(items=5)

    def source():
        yield from tables(2)
        raise StorageError("the part cannot be read")

    with pytest.raises(StorageError, match="part"):
        send(source(), destination=destination)

    assert ledger.summary(destination.name).accepted == len(destination.stored)
    assert ledger.summary(destination.name).in_doubt == 0


def test_interruption_keeps_sent_items_settled(send, ledger):
    destination = ScriptedDestination(items=5)

    def interrupt(_so_far):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send(tables(20), destination=destination, on_progress=interrupt)

    assert 0 < ledger.summary(destination.name).accepted == len(destination.stored)
    assert len(destination.stored) < span_count(tables(20))

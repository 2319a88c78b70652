"""Delivering, whatever the destination: against one that follows a script."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from bk_pipeline.deliver import loop
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destination import Answer, Outcome, Verdict
from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    FatalError,
    RequestTooLarge,
    RetryableError,
    ServiceUnavailable,
    StorageError,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline_tests.deliver.destinations import ScriptedDestination
from bk_pipeline_tests.deliver.tables import DAY, payload, span_count, table, tables

ONE_BY_ONE = DeliveryPolicy(in_flight=1)
MOST_ONCE = DeliveryPolicy(guarantee=Guarantee.AT_MOST_ONCE, in_flight=1)
THROTTLED = Outcome(Verdict.THROTTLED, "429: slow down")
FAILED = Outcome(Verdict.FAILED, "500: oops")
REJECTED = Outcome(Verdict.REJECTED, "400: too many columns")
UNANSWERED = Outcome(Verdict.UNANSWERED)
LOST = ServiceUnavailable("the connection broke")
DOWN = ServiceUnavailable("no connection", maybe_processed=False)


def too_large():
    return RequestTooLarge("too large", status=413, said="too large")


def stored_once(destination, count):
    keys = [item.key for item in destination.stored]
    return len(keys) == len(set(keys)) == count


def test_everything_is_sent_once_and_noted(send, ledger):
    made = tables(20)
    destination = ScriptedDestination(items=7)

    delivery = send(made, destination=destination)

    count = span_count(made)
    assert delivery.accepted == count
    assert stored_once(destination, count)
    assert delivery.batches == len(destination.requests)
    summary = ledger.summary(destination.name)
    assert (summary.accepted, summary.in_doubt, summary.builds) == (count, 0, 20)


def test_a_second_delivery_sends_nothing(send):
    made = tables(5)
    destination = ScriptedDestination()
    send(made, destination=destination)
    requests = len(destination.requests)

    again = send(made, destination=destination)

    assert len(destination.requests) == requests
    assert (again.accepted, again.already_settled) == (0, span_count(made))


def test_only_what_is_new_is_sent(send):
    destination = ScriptedDestination()
    send(tables(3), destination=destination)
    before = len(destination.stored)

    more = send(tables(5), destination=destination)

    assert more.accepted == len(destination.stored) - before == span_count(tables(2, first=4))


def test_a_build_that_stands_in_two_tables_is_sent_once(send):
    made = [*tables(3), *tables(3), table(payload(1), payload(2), payload(1))]
    destination = ScriptedDestination(items=2)

    delivery = send(made, destination=destination)

    assert stored_once(destination, span_count(tables(3)))
    assert delivery.accepted + delivery.already_settled == span_count(made)


def test_spans_leave_in_the_order_of_their_start(send):
    destination = ScriptedDestination(items=10)

    send(
        [table(*(payload(number) for number in (5, 3, 4, 1, 2)))],
        destination=destination,
        policy=ONE_BY_ONE,
    )

    times = [item.time_ns for request in destination.requests for item in request]
    assert times == sorted(times)


def test_several_requests_are_under_way_at_once_and_no_more_than_allowed(send):
    together = threading.Barrier(3, timeout=30)
    under_way: list[int] = []
    lock = threading.Lock()
    now = 0

    class Slow(ScriptedDestination):
        def send(self, items):
            nonlocal now
            with lock:
                now += 1
                under_way.append(now)
            together.wait()
            with lock:
                now -= 1
            return super().send(items)

    made = tables(6)
    count = span_count(made)
    destination = Slow(items=count // 6)

    send(made, destination=destination, policy=DeliveryPolicy(in_flight=3))

    assert max(under_way) == 3
    assert stored_once(destination, count)


def test_tables_are_taken_one_after_the_other_as_batches_leave(send):
    destination = ScriptedDestination(items=5)
    taken = 0

    def source():
        nonlocal taken
        for one in tables(30, per_table=1):
            # Those under way and those that wait for them, and the one being filled.
            assert taken - len(destination.stored) <= 5 * (1 + 2 + 2)
            taken += len(one)
            yield one

    send(source(), destination=destination, policy=ONE_BY_ONE)

    assert taken == len(destination.stored)


def test_a_table_of_any_size_is_encoded_a_piece_at_a_time(send, monkeypatch):
    monkeypatch.setattr(loop, "ROWS_AT_ONCE", 7)
    made = [table(*(payload(number) for number in range(1, 9)))]
    destination = ScriptedDestination(items=3)

    send(made, destination=destination)
    again = send(made, destination=destination)

    assert stored_once(destination, span_count(made))
    assert again.already_settled == span_count(made)


def test_progress_is_told_after_each_batch(send):
    destination = ScriptedDestination(items=10)
    told: list[int] = []

    send(
        tables(10),
        destination=destination,
        on_progress=lambda so_far: told.append(so_far.accepted),
    )

    assert told == sorted(told)
    assert len(told) == len(destination.requests)
    assert told[-1] == span_count(tables(10))


def test_no_tables_are_no_requests(send):
    destination = ScriptedDestination()

    assert send([], destination=destination).accepted == 0
    assert send([table(payload(1)).slice(0, 0)], destination=destination).accepted == 0
    assert destination.requests == []


@pytest.mark.parametrize(
    "outcome", [THROTTLED, FAILED, UNANSWERED], ids=lambda one: one.verdict.value
)
def test_what_did_not_pass_is_tried_again_alone_after_its_neighbours_are_settled(
    send, ledger, outcome
):
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


def test_what_is_rejected_is_settled_with_the_words_and_not_sent_again(send, ledger):
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
        rejected.item_id, rejected.name, REJECTED.words, DAY,
    )  # fmt: skip
    assert again.already_settled == span_count(made)
    assert len(destination.requests) == 1


def test_what_was_requeued_is_sent_again(send, ledger):
    destination = ScriptedDestination()
    destination.replies = [destination.outcomes(at_2=REJECTED)]
    made = tables(1)
    send(made, destination=destination)

    ledger.requeue(destination.name)
    again = send(made, destination=destination)

    assert again.accepted == 1
    assert stored_once(destination, span_count(made))


def test_a_batch_that_is_too_large_is_halved_until_its_pieces_pass(send):
    destination = ScriptedDestination(too_large(), too_large())
    made = tables(2)
    count = span_count(made)

    delivery = send(made, destination=destination, policy=ONE_BY_ONE)

    assert [len(request) for request in destination.requests] == [
        count, count // 2, count // 4, count // 4, count // 2,
    ]  # fmt: skip
    assert delivery.accepted == count
    times = [item.time_ns for request in destination.requests[2:] for item in request]
    assert times == sorted(times)


def test_a_span_that_is_too_large_by_itself_is_rejected_with_the_words(send, ledger):
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


def test_what_was_accepted_before_a_batch_proved_too_large_is_not_sent_again(send):
    destination = ScriptedDestination()
    destination.replies = [destination.outcomes(at_0=THROTTLED, at_1=THROTTLED), too_large()]
    made = tables(1)

    send(made, destination=destination)

    assert stored_once(destination, span_count(made))


@pytest.mark.parametrize(
    "error", [DeliveryThrottled("slow down"), DOWN, LOST], ids=["429", "down", "lost"]
)
def test_a_request_that_fails_is_tried_again_until_it_passes(send, ledger, clock, error):
    destination = ScriptedDestination(error, error)
    made = tables(1)

    delivery = send(made, destination=destination)

    assert delivery.accepted == span_count(made)
    assert [len(request) for request in destination.requests] == [span_count(made)] * 3
    assert sum(clock.slept) == pytest.approx(1 + 2)
    assert ledger.summary(destination.name).in_doubt == 0


def test_after_a_throttling_nobody_sends_until_the_pause_is_over(send, clock):
    destination = ScriptedDestination(DeliveryThrottled("slow down", retry_in_s=30), items=5)
    started = clock.monotonic()
    when: list[float] = []
    original = destination.accept

    def timed(items):
        when.append(clock.monotonic() - started)
        return original(items)

    destination.accept = timed

    send(tables(10), destination=destination, policy=DeliveryPolicy(in_flight=2))

    # One other request may have been under way when the answer came.
    assert sum(at < 30 for at in when) <= 1


@pytest.mark.parametrize(
    ("error", "in_doubt"),
    [(DeliveryThrottled("slow down"), False), (DOWN, False), (LOST, True)],
    ids=["429", "down", "lost"],
)
def test_after_the_deadline_the_error_comes_out_and_the_ledger_knows_what_left(
    send, ledger, error, in_doubt
):
    destination = ScriptedDestination(*[error] * 100)
    destination.retry = RetryPolicy(deadline_s=20, draw=lambda: 1.0)
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
def test_a_refusal_comes_out_at_once_and_nothing_is_marked(send, ledger, clock, error):
    destination = ScriptedDestination(error)

    with pytest.raises(type(error)):
        send(tables(1), destination=destination)

    summary = ledger.summary(destination.name)
    assert (summary.accepted, summary.rejected, summary.in_doubt) == (0, 0, 0)
    assert len(destination.requests) == 1
    assert clock.slept == []


def test_what_an_answer_that_is_none_leaves_open_is_in_doubt(send, ledger):
    destination = ScriptedDestination(UnexpectedAnswer("html"))

    with pytest.raises(UnexpectedAnswer):
        send(tables(1), destination=destination)

    assert ledger.summary(destination.name).in_doubt == span_count(tables(1))


def test_a_refusal_after_a_broken_connection_leaves_the_doubt(send, ledger):
    destination = ScriptedDestination()
    destination.replies = [destination.accept_and_raise(LOST), TokenRefused("401")]

    with pytest.raises(TokenRefused):
        send(tables(1), destination=destination)

    assert ledger.summary(destination.name).in_doubt == span_count(tables(1))


def test_what_was_settled_before_a_failure_is_kept_and_the_rest_is_sent_next_time(send):
    destination = ScriptedDestination(items=10)
    destination.replies = [destination.accept, destination.accept, TokenRefused("401")]
    made = tables(10)
    with pytest.raises(TokenRefused):
        send(made, destination=destination, policy=ONE_BY_ONE)

    send(made, destination=destination)

    assert stored_once(destination, span_count(made))


def test_at_least_once_sends_again_what_an_earlier_run_left_in_doubt(send, ledger):
    made = tables(3)
    destination = ScriptedDestination()
    left = destination.encode(made[0])[:5]
    ledger.begin(destination.name, DAY, {item.trace_id: [item.item_id] for item in left})
    doubtful = ledger.summary(destination.name).in_doubt

    delivery = send(made, destination=destination)

    assert delivery.in_doubt_resent == doubtful > 0
    assert delivery.accepted == span_count(made)
    assert ledger.summary(destination.name).in_doubt == 0


def test_at_most_once_takes_for_sent_what_an_earlier_run_left_in_doubt(send, ledger):
    made = tables(3)
    destination = ScriptedDestination()
    left = destination.encode(made[0])[:1]
    ledger.begin(destination.name, DAY, {item.trace_id: [item.item_id] for item in left})

    delivery = send(made, destination=destination, policy=MOST_ONCE)

    assert delivery.presumed_sent == 1
    assert delivery.accepted == span_count(made) - 1
    assert left[0].key not in {item.key for item in destination.stored}
    assert ledger.summary(destination.name).presumed == 1


@pytest.mark.parametrize("kind", ["lost", "unanswered"])
def test_at_most_once_never_sends_twice_what_may_have_arrived(send, ledger, kind):
    destination = ScriptedDestination(items=10)
    lost = {
        "lost": destination.accept_and_raise(LOST),
        "unanswered": lambda items: Answer(
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
def test_at_most_once_tries_again_what_is_known_not_to_have_arrived(send, error):
    destination = ScriptedDestination(error)

    delivery = send(tables(1), destination=destination, policy=MOST_ONCE)

    assert delivery.accepted == span_count(tables(1))


class BrokenLedger:
    """A ledger of which one method fails, from some call on."""

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


def test_what_cannot_be_noted_is_not_sent(ledger, send):
    destination = ScriptedDestination(items=10)
    full = BrokenLedger(ledger, "begin", StorageError("the disk is full"), after=1)

    with pytest.raises(StorageError, match="full"):
        send(tables(10), destination=destination, ledger=full, policy=ONE_BY_ONE)

    assert len(destination.requests) == 1


def test_a_ledger_that_is_busy_for_a_while_does_not_have_a_batch_sent_twice(ledger, send):
    destination = ScriptedDestination()
    busy = BrokenLedger(ledger, "accept", RetryableError("locked"), count=3)
    made = tables(1)

    delivery = send(made, destination=destination, ledger=busy)

    assert delivery.accepted == span_count(made)
    assert stored_once(destination, span_count(made))


def test_a_ledger_that_fails_after_the_answer_leaves_a_doubt_and_no_second_request(ledger, send):
    destination = ScriptedDestination()
    broken = BrokenLedger(ledger, "accept", RetryableError("locked"))

    with pytest.raises(RetryableError, match=r"locked.*Gave up"):
        send(tables(1), destination=destination, ledger=broken)

    assert len(destination.requests) == 1
    assert ledger.summary(destination.name).in_doubt == span_count(tables(1))


def test_when_one_thread_fails_the_others_neither_wait_nor_start_anew(send, ledger, clock):
    failed = threading.Event()
    destination = ScriptedDestination(items=5)

    def refuse(_items):
        failed.set()
        raise TokenRefused("401")

    destination.replies = [DeliveryThrottled("slow down", retry_in_s=100), refuse]
    destination.retry = RetryPolicy(deadline_s=10_000, draw=lambda: 1.0)

    with pytest.raises(TokenRefused):
        send(tables(20), destination=destination, policy=DeliveryPolicy(in_flight=2))

    assert failed.is_set()
    # Of dozens: the other thread may have been between two batches when this one failed.
    assert len(destination.requests) <= 8
    assert ledger.summary(destination.name).in_doubt == 0


def test_an_error_of_the_tables_comes_out_and_what_left_is_settled(send, ledger):
    destination = ScriptedDestination(items=5)

    def source():
        yield from tables(2)
        raise StorageError("the part cannot be read")

    with pytest.raises(StorageError, match="part"):
        send(source(), destination=destination)

    assert ledger.summary(destination.name).accepted == len(destination.stored)
    assert ledger.summary(destination.name).in_doubt == 0


def test_an_interruption_ends_it_and_what_left_is_settled(send, ledger):
    destination = ScriptedDestination(items=5)

    def interrupt(_so_far):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send(tables(20), destination=destination, on_progress=interrupt)

    assert 0 < ledger.summary(destination.name).accepted == len(destination.stored)
    assert len(destination.stored) < span_count(tables(20))


def test_too_old_spans_are_counted_and_not_sent(send, ledger):
    destination = ScriptedDestination()
    destination.max_age = timedelta(hours=1)

    delivery = send(tables(2), destination=destination)

    assert (delivery.too_old, delivery.accepted) == (span_count(tables(2)), 0)
    assert destination.requests == []
    assert ledger.summary(destination.name).accepted == 0


def test_spans_far_ahead_are_sent_and_counted(send):
    destination = ScriptedDestination()
    destination.future_limit = timedelta(hours=-26)

    delivery = send(tables(2), destination=destination)

    assert delivery.future == delivery.accepted == span_count(tables(2))


def test_deliveries_add_up():
    one = Delivery(accepted=1, rejections=["a"] * 6, seconds=0.5)
    two = Delivery(accepted=2, rejections=["b"] * 6, too_old=3)

    total = one + two

    assert (total.accepted, total.too_old, total.seconds) == (3, 3, 0.5)
    assert total.rejections == ["a"] * 6 + ["b"] * 4
    assert (one.accepted, len(one.rejections)) == (1, 6)

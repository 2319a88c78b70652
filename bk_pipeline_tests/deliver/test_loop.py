"""Delivering, whatever the destination: against one that takes all it is given."""

from __future__ import annotations

import threading
from datetime import timedelta
from itertools import groupby
from operator import attrgetter

from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline_tests.deliver.destinations import (
    ONE_BY_ONE,
    ScriptedDestination,
    stored_once,
)
from bk_pipeline_tests.deliver.tables import payload, span_count, table, tables


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


def test_items_leave_as_they_were_encoded_so_that_those_of_a_build_stand_together(send):
    destination = ScriptedDestination(items=10)
    made = table(*(payload(number) for number in (1, 2, 3, 4, 5)))

    send([made], destination=destination, policy=ONE_BY_ONE)

    left = [item for request in destination.requests for item in request]
    assert left == destination.encode(SpanRows.from_table(made))
    assert len(list(groupby(left, key=attrgetter("trace_id")))) == 5


def test_several_requests_are_in_flight_at_once_and_no_more_than_allowed(send):
    together = threading.Barrier(3, timeout=30)
    in_flight: list[int] = []
    lock = threading.Lock()
    now = 0

    class Slow(ScriptedDestination):
        def send(self, items):
            nonlocal now
            with lock:
                now += 1
                in_flight.append(now)
            together.wait()
            with lock:
                now -= 1
            return super().send(items)

    made = tables(6)
    count = span_count(made)
    destination = Slow(items=count // 6)

    send(made, destination=destination, policy=DeliveryPolicy(in_flight=3))

    assert max(in_flight) == 3
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
    monkeypatch.setattr("bk_pipeline.deliver.loop.MAX_ROWS_PER_ENCODE", 7)
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

"""The delivery loop with a destination that accepts everything."""

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


def test_all_spans_are_sent_once_and_recorded(send, ledger):
    made = tables(20)
    destination = ScriptedDestination(items=7)

    delivery = send(made, destination=destination)

    count = span_count(made)
    assert delivery.accepted == count
    assert stored_once(destination, count)
    assert delivery.batches == len(destination.requests)
    summary = ledger.summary(destination.name)
    assert (summary.accepted, summary.in_doubt, summary.builds) == (count, 0, 20)


def test_second_delivery_sends_nothing(send):
    made = tables(5)
    destination = ScriptedDestination()
    send(made, destination=destination)
    requests = len(destination.requests)

    again = send(made, destination=destination)

    assert len(destination.requests) == requests
    assert (again.accepted, again.already_settled) == (0, span_count(made))


def test_only_new_spans_are_sent(send):
    destination = ScriptedDestination()
    send(tables(3), destination=destination)
    before = len(destination.stored)

    more = send(tables(5), destination=destination)

    assert more.accepted == len(destination.stored) - before == span_count(tables(2, first=4))


def test_build_in_two_tables_is_sent_once(send):
    made = [*tables(3), *tables(3), table(payload(1), payload(2), payload(1))]
    destination = ScriptedDestination(items=2)

    delivery = send(made, destination=destination)

    assert stored_once(destination, span_count(tables(3)))
    assert delivery.accepted + delivery.already_settled == span_count(made)


def test_items_are_sent_in_encoded_order_build_by_build(send):
    destination = ScriptedDestination(items=10)
    made = table(*(payload(number) for number in (1, 2, 3, 4, 5)))

    send([made], destination=destination, policy=ONE_BY_ONE)

    left = [item for request in destination.requests for item in request]
    assert left == destination.encode(SpanRows.from_table(made))
    assert len(list(groupby(left, key=attrgetter("trace_id")))) == 5


def test_concurrent_requests_reach_but_never_exceed_the_limit(send):
    all_in_flight = threading.Barrier(3, timeout=30)
    in_flight: list[int] = []
    lock = threading.Lock()
    now = 0

    class Slow(ScriptedDestination):
        def send(self, items):
            nonlocal now
            with lock:
                now += 1
                in_flight.append(now)
            all_in_flight.wait()
            with lock:
                now -= 1
            return super().send(items)

    made = tables(6)
    count = span_count(made)
    destination = Slow(items=count // 6)

    send(made, destination=destination, policy=DeliveryPolicy(in_flight=3))

    assert max(in_flight) == 3
    assert stored_once(destination, count)


def test_tables_are_read_as_batches_are_sent(send):
    destination = ScriptedDestination(items=5)
    taken = 0

    def source():
        nonlocal taken
        for one in tables(30, per_table=1):
            # At most the batch in flight, the queued ones and the one being filled.
            assert taken - len(destination.stored) <= 5 * (1 + 2 + 2)
            taken += len(one)
            yield one

    send(source(), destination=destination, policy=ONE_BY_ONE)

    assert taken == len(destination.stored)


def test_large_table_is_encoded_in_slices(send, monkeypatch):
    monkeypatch.setattr("bk_pipeline.deliver.loop.MAX_ROWS_PER_ENCODE", 7)
    made = [table(*(payload(number) for number in range(1, 9)))]
    destination = ScriptedDestination(items=3)

    send(made, destination=destination)
    again = send(made, destination=destination)

    assert stored_once(destination, span_count(made))
    assert again.already_settled == span_count(made)


def test_progress_is_reported_after_each_batch(send):
    destination = ScriptedDestination(items=10)
    reported: list[int] = []

    send(
        tables(10),
        destination=destination,
        on_progress=lambda so_far: reported.append(so_far.accepted),
    )

    assert reported == sorted(reported)
    assert len(reported) == len(destination.requests)
    assert reported[-1] == span_count(tables(10))


def test_no_tables_make_no_requests(send):
    destination = ScriptedDestination()

    assert send([], destination=destination).accepted == 0
    assert send([table(payload(1)).slice(0, 0)], destination=destination).accepted == 0
    assert destination.requests == []


def test_too_old_spans_are_counted_but_not_sent(send, ledger):
    destination = ScriptedDestination()
    destination.max_age = timedelta(hours=1)

    delivery = send(tables(2), destination=destination)

    assert (delivery.too_old, delivery.accepted) == (span_count(tables(2)), 0)
    assert destination.requests == []
    assert ledger.summary(destination.name).accepted == 0


def test_spans_in_the_future_are_counted_and_sent(send):
    destination = ScriptedDestination()
    destination.future_limit = timedelta(hours=-26)

    delivery = send(tables(2), destination=destination)

    assert delivery.future == delivery.accepted == span_count(tables(2))


def test_delivery_results_add_up():
    one = Delivery(accepted=1, rejections=["a"] * 6, seconds=0.5)
    two = Delivery(accepted=2, rejections=["b"] * 6, too_old=3)

    total = one + two

    assert (total.accepted, total.too_old, total.seconds) == (3, 3, 0.5)
    assert total.rejections == ["a"] * 6 + ["b"] * 4
    assert (one.accepted, len(one.rejections)) == (1, 6)

"""The contract of every ledger for deliveries, as `deliver/` and `pipeline/` rely on it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bk_pipeline.errors import RetryableError
from bk_pipeline_tests.contract.ledgers import (
    DAY,
    HERE,
    ONE,
    OTHER_DAY,
    THERE,
    TWO,
    A,
    B,
    C,
    doubtful,
    rejection,
    settle,
    settled,
)


def test_new_ledger_is_empty(ledger):
    assert settled(ledger, ONE) == {}
    assert doubtful(ledger) == {}
    assert ledger.delivered_parts(HERE, DAY) == set()
    assert ledger.destinations() == []
    assert ledger.summary(HERE).accepted == 0
    assert ledger.rejections(HERE) == []


def test_begun_items_are_in_doubt_and_not_settled(ledger):
    ledger.begin(HERE, DAY, {ONE: [A, B], TWO: [C]})

    assert doubtful(ledger) == {ONE: {A, B}, TWO: {C}}
    assert settled(ledger, ONE, TWO) == {}


def test_accepted_items_are_settled_and_not_in_doubt(ledger):
    settle(ledger, {ONE: [A, B]}, accepted={ONE: [A, B]})

    assert settled(ledger, ONE) == {ONE: {A, B}}
    assert doubtful(ledger) == {}


def test_accepting_a_batch_settles_all_its_items(ledger):
    ledger.accept(ledger.begin(HERE, DAY, {ONE: [B, A], TWO: [C]}))

    assert settled(ledger, ONE, TWO) == {ONE: {A, B}, TWO: {C}}
    assert doubtful(ledger) == {}
    assert ledger.summary(HERE).last_day == DAY


def test_accepted_items_add_to_settled_ones(ledger):
    settle(ledger, {ONE: [B]}, rejected=[rejection(item_id=B)])
    for items in ({ONE: [C]}, {ONE: [A, C], TWO: [A]}, {ONE: [A, C]}, {TWO: [A]}):
        ledger.accept(ledger.begin(HERE, DAY, items))

    assert settled(ledger, ONE, TWO) == {ONE: {A, B, C}, TWO: {A}}
    summary = ledger.summary(HERE)
    assert (summary.accepted, summary.rejected, summary.in_doubt) == (3, 1, 0)


def test_accepting_again_or_at_another_destination_changes_nothing(ledger):
    batch = ledger.begin(HERE, DAY, {ONE: [A]})
    ledger.begin(HERE, DAY, {TWO: [B]})
    ledger.accept(ledger.begin(THERE, DAY, {ONE: [A, B]}))
    for _ in range(2):
        ledger.accept(batch)

    assert settled(ledger, ONE, TWO) == {ONE: {A}}
    assert doubtful(ledger) == {TWO: {B}}


def test_accepting_a_partly_settled_batch_accepts_the_rest(ledger):
    batch = ledger.begin(HERE, DAY, {ONE: [A, B, C]})
    ledger.settle(batch, rejected=[rejection()], in_doubt={ONE: [B]})

    ledger.accept(batch)

    assert settled(ledger, ONE) == {ONE: {A, B}}
    assert doubtful(ledger) == {}


def test_items_missing_from_the_answer_count_as_never_sent(ledger):
    settle(ledger, {ONE: [A, B]}, accepted={ONE: [A]})

    assert settled(ledger, ONE) == {ONE: {A}}
    assert doubtful(ledger) == {}


def test_items_stay_in_doubt_until_they_are_settled(ledger):
    batch = ledger.begin(HERE, DAY, {ONE: [A, B, C]})
    ledger.settle(batch, accepted={ONE: [A]}, in_doubt={ONE: [B, C]})
    assert doubtful(ledger) == {ONE: {B, C}}

    ledger.settle(batch, accepted={ONE: [B]}, in_doubt={ONE: [C]})
    ledger.settle(batch, accepted={ONE: [C]})

    assert settled(ledger, ONE) == {ONE: {A, B, C}}
    assert doubtful(ledger) == {}


def test_rejected_items_are_settled_and_keep_the_reason(ledger, clock):
    settle(ledger, {ONE: [A]}, rejected=[rejection()])

    assert settled(ledger, ONE) == {ONE: {A}}
    (found,) = ledger.rejections(HERE)
    assert (found.day, found.trace_id, found.item_id) == (DAY, ONE, A)
    assert (found.span_name, found.reason) == ("buildkite.job", "400: too many columns")
    assert found.rejected_at == clock.now()


def test_batches_of_one_build_add_up(ledger):
    settle(ledger, {ONE: [B]}, accepted={ONE: [B]})
    settle(ledger, {ONE: [A], TWO: [C]}, accepted={ONE: [A], TWO: [C]})
    settle(ledger, {ONE: [C]}, rejected=[rejection(item_id=C)])

    assert settled(ledger, ONE, TWO) == {ONE: {A, B, C}, TWO: {C}}


def test_another_process_sees_everything(ledger, reopen):
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]})
    ledger.begin(HERE, DAY, {TWO: [B]})
    ledger.mark_part_delivered(HERE, DAY, "part-1")

    other = reopen()

    assert settled(other, ONE) == {ONE: {A}}
    assert doubtful(other) == {TWO: {B}}
    assert other.delivered_parts(HERE, DAY) == {"part-1"}


def test_destinations_are_independent(ledger):
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]})
    ledger.begin(HERE, DAY, {TWO: [B]})
    ledger.mark_part_delivered(HERE, DAY, "part-1")

    assert settled(ledger, ONE, destination=THERE) == {}
    assert doubtful(ledger, destination=THERE) == {}
    assert ledger.delivered_parts(THERE, DAY) == set()
    assert ledger.destinations() == [HERE]


def test_items_are_in_doubt_by_day(ledger):
    ledger.begin(HERE, DAY, {ONE: [A]})
    ledger.begin(HERE, OTHER_DAY, {TWO: [B]})

    assert doubtful(ledger) == {ONE: {A}}
    assert doubtful(ledger, day=OTHER_DAY) == {TWO: {B}}


def test_presumed_items_are_settled_listed_and_not_in_doubt(ledger):
    ledger.begin(HERE, DAY, {ONE: [A, B]})
    ledger.begin(HERE, DAY, {ONE: [B], TWO: [C]})

    assert ledger.presume_sent(HERE, DAY) == 3
    assert ledger.presume_sent(HERE, DAY) == 0

    assert settled(ledger, ONE, TWO) == {ONE: {A, B}, TWO: {C}}
    assert doubtful(ledger) == {}
    assert {(one.trace_id, one.item_ids) for one in ledger.presumed(HERE)} == {
        (ONE, frozenset({A, B})),
        (TWO, frozenset({C})),
    }


def test_items_settled_after_a_doubt_are_not_presumed(ledger):
    ledger.begin(HERE, DAY, {ONE: [A, B]})
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]})

    assert ledger.presume_sent(HERE, DAY) == 1

    assert ledger.summary(HERE).accepted == 1
    assert ledger.summary(HERE).presumed == 1


def test_doubts_are_dropped_only_for_items_settled_since(ledger):
    ledger.begin(HERE, DAY, {ONE: [A, B]})
    ledger.begin(HERE, DAY, {TWO: [C]})
    settle(ledger, {ONE: [A], TWO: [C]}, accepted={ONE: [A], TWO: [C]})

    ledger.drop_settled_doubts(HERE, DAY)

    assert doubtful(ledger) == {ONE: {B}}


def test_parts_are_marked_delivered_by_day(ledger):
    ledger.mark_part_delivered(HERE, DAY, "part-1")
    ledger.mark_part_delivered(HERE, DAY, "part-1")
    ledger.mark_part_delivered(HERE, OTHER_DAY, "part-2")

    assert ledger.delivered_parts(HERE, DAY) == {"part-1"}


def test_destination_names_can_contain_any_characters(ledger):
    odd = "honeycomb:host/'; drop table outcomes; --/%_é🚀"
    settle(ledger, {ONE: [A]}, destination=odd, accepted={ONE: [A]})

    assert ledger.destinations() == [odd]
    assert settled(ledger, ONE, destination=odd) == {ONE: {A}}


def test_lookup_of_more_builds_than_fit_one_statement(ledger):
    traces = [number.to_bytes(16) for number in range(2_500)]
    settle(ledger, {trace: [A] for trace in traces}, accepted={trace: [A] for trace in traces})

    assert settled(ledger, *traces) == {trace: {A} for trace in traces}


ids = st.binary(min_size=8, max_size=8)


steps = st.lists(
    st.tuples(st.sampled_from([ONE, TWO]), st.sets(ids, min_size=1, max_size=6), st.integers(0, 3)),
    max_size=8,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps)
def test_items_keep_their_outcome_in_any_sequence_of_batches(ledger, steps):
    ledger.forget(HERE)
    accepted: dict[bytes, set[bytes]] = {}
    for trace, item_ids, kept in steps:
        some = set(sorted(item_ids)[:kept])
        if some == item_ids:
            ledger.accept(ledger.begin(HERE, DAY, {trace: item_ids}))
        else:
            settle(ledger, {trace: item_ids}, accepted={trace: some} if some else {})
        if some:
            accepted.setdefault(trace, set()).update(some)

    assert settled(ledger, ONE, TWO) == accepted
    assert ledger.summary(HERE).accepted == sum(map(len, accepted.values()))


def test_deliveries_of_one_day_wait_for_each_other(ledger, reopen, clock):
    waits: list[str] = []
    with (
        ledger.delivery_lock(HERE, DAY),
        pytest.raises(RetryableError, match="Another run has been delivering 2026-11-19"),
        reopen().delivery_lock(HERE, DAY, on_wait=waits.append, timeout_s=20),
    ):
        pytest.fail("two runs hold the lock")

    assert timedelta(seconds=20) <= clock.now() - type(clock)().now() < timedelta(seconds=23)
    assert waits == [f"{DAY}: waiting for another run that delivers it to {HERE}"]


def test_other_days_and_other_destinations_do_not_wait(ledger, reopen, clock):
    other = reopen()
    with (
        ledger.delivery_lock(HERE, DAY),
        other.delivery_lock(HERE, OTHER_DAY, timeout_s=0),
        other.delivery_lock(THERE, DAY, timeout_s=0),
    ):
        assert clock.slept == []


def test_delivery_lock_is_released_after_an_error(ledger, reopen):
    with pytest.raises(ZeroDivisionError), ledger.delivery_lock(HERE, DAY):
        raise ZeroDivisionError

    for _ in range(2):
        with reopen().delivery_lock(HERE, DAY, timeout_s=0):
            pass

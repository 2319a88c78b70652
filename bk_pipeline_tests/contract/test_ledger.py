"""What every ledger keeps of deliveries, as `deliver/destination.py` and `pipeline/` rely on it."""

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


def test_nothing_is_settled_in_doubt_or_known_at_first(ledger):
    assert settled(ledger, ONE) == {}
    assert doubtful(ledger) == {}
    assert ledger.delivered_parts(HERE, DAY) == set()
    assert ledger.destinations() == []
    assert ledger.summary(HERE).accepted == 0
    assert ledger.rejections(HERE) == []


def test_what_was_begun_is_in_doubt_and_not_settled(ledger):
    ledger.begin(HERE, DAY, {ONE: [A, B], TWO: [C]})

    assert doubtful(ledger) == {ONE: {A, B}, TWO: {C}}
    assert settled(ledger, ONE, TWO) == {}


def test_what_was_accepted_is_settled_and_no_longer_in_doubt(ledger):
    settle(ledger, {ONE: [A, B]}, accepted={ONE: [A, B]})

    assert settled(ledger, ONE) == {ONE: {A, B}}
    assert doubtful(ledger) == {}


def test_a_batch_that_was_accepted_is_settled_wholly(ledger):
    ledger.accept(ledger.begin(HERE, DAY, {ONE: [B, A], TWO: [C]}))

    assert settled(ledger, ONE, TWO) == {ONE: {A, B}, TWO: {C}}
    assert doubtful(ledger) == {}
    assert ledger.summary(HERE).last_day == DAY


def test_what_was_accepted_adds_to_what_was_settled_before(ledger):
    settle(ledger, {ONE: [B]}, rejected=[rejection(item_id=B)])
    for items in ({ONE: [C]}, {ONE: [A, C], TWO: [A]}, {ONE: [A, C]}, {TWO: [A]}):
        ledger.accept(ledger.begin(HERE, DAY, items))

    assert settled(ledger, ONE, TWO) == {ONE: {A, B, C}, TWO: {A}}
    summary = ledger.summary(HERE)
    assert (summary.accepted, summary.rejected, summary.in_doubt) == (3, 1, 0)


def test_accepting_a_batch_again_changes_nothing_nor_does_accepting_another_destinations(ledger):
    batch = ledger.begin(HERE, DAY, {ONE: [A]})
    ledger.begin(HERE, DAY, {TWO: [B]})
    ledger.accept(ledger.begin(THERE, DAY, {ONE: [A, B]}))
    for _ in range(2):
        ledger.accept(batch)

    assert settled(ledger, ONE, TWO) == {ONE: {A}}
    assert doubtful(ledger) == {TWO: {B}}


def test_of_a_batch_that_was_settled_in_part_the_rest_is_accepted(ledger):
    batch = ledger.begin(HERE, DAY, {ONE: [A, B, C]})
    ledger.settle(batch, rejected=[rejection()], in_doubt={ONE: [B]})

    ledger.accept(batch)

    assert settled(ledger, ONE) == {ONE: {A, B}}
    assert doubtful(ledger) == {}


def test_what_an_answer_does_not_name_is_as_if_never_sent(ledger):
    settle(ledger, {ONE: [A, B]}, accepted={ONE: [A]})

    assert settled(ledger, ONE) == {ONE: {A}}
    assert doubtful(ledger) == {}


def test_what_stays_in_doubt_stays_there_until_it_is_settled(ledger):
    batch = ledger.begin(HERE, DAY, {ONE: [A, B, C]})
    ledger.settle(batch, accepted={ONE: [A]}, in_doubt={ONE: [B, C]})
    assert doubtful(ledger) == {ONE: {B, C}}

    ledger.settle(batch, accepted={ONE: [B]}, in_doubt={ONE: [C]})
    ledger.settle(batch, accepted={ONE: [C]})

    assert settled(ledger, ONE) == {ONE: {A, B, C}}
    assert doubtful(ledger) == {}


def test_what_was_rejected_is_settled_and_keeps_the_words(ledger, clock):
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


def test_another_process_sees_all_of_it(ledger, reopen):
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]})
    ledger.begin(HERE, DAY, {TWO: [B]})
    ledger.mark_part_delivered(HERE, DAY, "part-1")

    other = reopen()

    assert settled(other, ONE) == {ONE: {A}}
    assert doubtful(other) == {TWO: {B}}
    assert other.delivered_parts(HERE, DAY) == {"part-1"}


def test_destinations_know_nothing_of_each_other(ledger):
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]})
    ledger.begin(HERE, DAY, {TWO: [B]})
    ledger.mark_part_delivered(HERE, DAY, "part-1")

    assert settled(ledger, ONE, destination=THERE) == {}
    assert doubtful(ledger, destination=THERE) == {}
    assert ledger.delivered_parts(THERE, DAY) == set()
    assert ledger.destinations() == [HERE]


def test_doubts_belong_to_their_day(ledger):
    ledger.begin(HERE, DAY, {ONE: [A]})
    ledger.begin(HERE, OTHER_DAY, {TWO: [B]})

    assert doubtful(ledger) == {ONE: {A}}
    assert doubtful(ledger, day=OTHER_DAY) == {TWO: {B}}


def test_what_is_presumed_sent_is_settled_listed_and_no_longer_in_doubt(ledger):
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


def test_what_was_settled_after_a_doubt_is_not_presumed(ledger):
    ledger.begin(HERE, DAY, {ONE: [A, B]})
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]})

    assert ledger.presume_sent(HERE, DAY) == 1

    assert ledger.summary(HERE).accepted == 1
    assert ledger.summary(HERE).presumed == 1


def test_doubts_are_dropped_for_what_has_been_settled_since_and_only_that(ledger):
    ledger.begin(HERE, DAY, {ONE: [A, B]})
    ledger.begin(HERE, DAY, {TWO: [C]})
    settle(ledger, {ONE: [A], TWO: [C]}, accepted={ONE: [A], TWO: [C]})

    ledger.drop_settled_doubts(HERE, DAY)

    assert doubtful(ledger) == {ONE: {B}}


def test_parts_are_noted_by_day(ledger):
    ledger.mark_part_delivered(HERE, DAY, "part-1")
    ledger.mark_part_delivered(HERE, DAY, "part-1")
    ledger.mark_part_delivered(HERE, OTHER_DAY, "part-2")

    assert ledger.delivered_parts(HERE, DAY) == {"part-1"}


def test_a_name_is_a_name_whatever_it_holds(ledger):
    odd = "honeycomb:host/'; drop table outcomes; --/%_é🚀"
    settle(ledger, {ONE: [A]}, destination=odd, accepted={ONE: [A]})

    assert ledger.destinations() == [odd]
    assert settled(ledger, ONE, destination=odd) == {ONE: {A}}


def test_more_builds_than_one_statement_takes_are_looked_up(ledger):
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
def test_whatever_happens_an_item_has_the_outcome_that_it_was_given(ledger, steps):
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


def test_deliveries_of_one_day_take_turns(ledger, reopen, clock):
    waits: list[str] = []
    with (
        ledger.delivery_lock(HERE, DAY),
        pytest.raises(RetryableError, match="Another run has been delivering 2026-11-19"),
        reopen().delivery_lock(HERE, DAY, on_wait=waits.append, timeout_s=20),
    ):
        pytest.fail("two were in it")

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


def test_a_turn_ends_with_its_block_however_that_ends(ledger, reopen):
    with pytest.raises(ZeroDivisionError), ledger.delivery_lock(HERE, DAY):
        raise ZeroDivisionError

    for _ in range(2):
        with reopen().delivery_lock(HERE, DAY, timeout_s=0):
            pass

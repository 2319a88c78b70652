"""The contract of every ledger for people: summaries, rejections, re-queueing, forgetting."""

from __future__ import annotations

import pytest

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


def test_summary_counts_each_outcome(ledger):
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]}, day=OTHER_DAY)
    settle(ledger, {TWO: [A, B]}, accepted={TWO: [A]}, rejected=[rejection(TWO, B)])
    ledger.begin(HERE, DAY, {TWO: [C]})

    found = ledger.summary(HERE)

    assert (found.accepted, found.rejected, found.in_doubt, found.presumed) == (2, 1, 1, 0)
    assert (found.builds, found.first_day, found.last_day) == (2, OTHER_DAY, DAY)


@pytest.fixture
def rejected(ledger):
    """Three rejections: two of DAY, for two reasons; one of OTHER_DAY. All parts are marked."""
    columns, size = "400: Too many columns", "413: too large (100% of it)"
    settle(
        ledger,
        {ONE: [A, B]},
        rejected=[rejection(ONE, A, reason=columns), rejection(ONE, B, reason=size)],
    )
    settle(ledger, {TWO: [C]}, day=OTHER_DAY, rejected=[rejection(TWO, C, reason=columns)])
    ledger.mark_part_delivered(HERE, DAY, "part-1")
    ledger.mark_part_delivered(HERE, OTHER_DAY, "part-2")
    return ledger


@pytest.mark.parametrize(
    ("criteria", "remaining", "marked_parts"),
    [
        ({}, {}, ""),
        ({"day": DAY}, {TWO: {C}}, "part-2"),
        ({"trace_id": TWO}, {ONE: {A, B}}, "part-1"),
        ({"reason_like": "too many COLUMNS"}, {ONE: {B}}, ""),
        ({"reason_like": "100%"}, {ONE: {A}, TWO: {C}}, "part-2"),
        ({"day": DAY, "reason_like": "columns"}, {ONE: {B}, TWO: {C}}, "part-2"),
        ({"reason_like": "no such reason"}, {ONE: {A, B}, TWO: {C}}, "part-1 part-2"),
    ],
    ids=["all", "day", "build", "reason", "reason with a wildcard", "both", "none"],
)
def test_requeued_items_are_unsettled_and_their_days_unmarked(
    rejected, criteria, remaining, marked_parts
):
    listed = rejected.rejections(HERE, **criteria)

    count = rejected.requeue(HERE, **criteria)

    assert count == len(listed) == 3 - sum(map(len, remaining.values()))
    assert settled(rejected, ONE, TWO) == remaining
    assert rejected.rejections(HERE, **criteria) == []
    kept = rejected.delivered_parts(HERE, DAY) | rejected.delivered_parts(HERE, OTHER_DAY)
    assert kept == set(marked_parts.split())


def test_accepted_items_are_not_requeued(rejected):
    settle(rejected, {ONE: [C]}, accepted={ONE: [C]})

    rejected.requeue(HERE)

    assert settled(rejected, ONE) == {ONE: {C}}
    assert rejected.summary(HERE).rejected == 0


def test_requeued_item_can_be_rejected_again(rejected):
    rejected.requeue(HERE, day=DAY)

    settle(rejected, {ONE: [A]}, rejected=[rejection(ONE, A, reason="again")])

    assert [one.reason for one in rejected.rejections(HERE, day=DAY)] == ["again"]


@pytest.mark.parametrize(
    "criteria", [{}, {"day": DAY}, {"trace_id": ONE}, {"reason_like": "presumed"}]
)
def test_presumed_items_can_be_requeued(ledger, criteria):
    ledger.begin(HERE, DAY, {ONE: [A, B]})
    ledger.presume_sent(HERE, DAY)
    ledger.mark_part_delivered(HERE, DAY, "part-1")

    assert ledger.requeue(HERE, **criteria) == 2

    assert settled(ledger, ONE) == {}
    assert ledger.presumed(HERE) == []
    assert ledger.delivered_parts(HERE, DAY) == set()


def test_rejections_can_be_filtered_and_limited(rejected):
    assert len(rejected.rejections(HERE, limit=2)) == 2
    assert [one.item_id for one in rejected.rejections(HERE, trace_id=TWO)] == [C]
    assert rejected.rejections(THERE) == []


def test_forgotten_destination_leaves_nothing(rejected):
    settle(rejected, {ONE: [C]}, accepted={ONE: [C]})
    settle(rejected, {ONE: [C]}, destination=THERE, accepted={ONE: [C]})
    rejected.begin(HERE, DAY, {TWO: [A]})

    assert rejected.forget(HERE) == 4

    assert rejected.destinations() == [THERE]
    assert settled(rejected, ONE, TWO) == doubtful(rejected) == {}
    assert rejected.delivered_parts(HERE, DAY) == set()
    assert rejected.rejections(HERE) == []
    assert settled(rejected, ONE, destination=THERE) == {ONE: {C}}
    assert rejected.forget(HERE) == 0


def test_requeue_waits_for_a_delivery_of_the_day(rejected, reopen):
    with (
        reopen().delivery_lock(HERE, DAY),
        pytest.raises(RetryableError, match="Another run has been delivering"),
    ):
        rejected.requeue(HERE, timeout_s=1)

    assert rejected.requeue(HERE, timeout_s=1) == 3

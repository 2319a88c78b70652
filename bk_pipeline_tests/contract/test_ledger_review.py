"""What every ledger tells people, and what they may have it forget."""

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


def test_a_summary_counts_each_outcome(ledger):
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]}, day=OTHER_DAY)
    settle(ledger, {TWO: [A, B]}, accepted={TWO: [A]}, rejected=[rejection(TWO, B)])
    ledger.begin(HERE, DAY, {TWO: [C]})

    found = ledger.summary(HERE)

    assert (found.accepted, found.rejected, found.in_doubt, found.presumed) == (2, 1, 1, 0)
    assert (found.builds, found.first_day, found.last_day) == (2, OTHER_DAY, DAY)


@pytest.fixture
def rejected(ledger):
    """Three rejections: two of DAY, for two reasons; one of OTHER_DAY. All parts noted."""
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
    ("choice", "left", "noted"),
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
def test_requeueing_has_them_sent_again_and_their_days_looked_through(
    rejected, choice, left, noted
):
    listed = rejected.rejections(HERE, **choice)

    count = rejected.requeue(HERE, **choice)

    assert count == len(listed) == 3 - sum(map(len, left.values()))
    assert settled(rejected, ONE, TWO) == left
    assert rejected.rejections(HERE, **choice) == []
    kept = rejected.delivered_parts(HERE, DAY) | rejected.delivered_parts(HERE, OTHER_DAY)
    assert kept == set(noted.split())


def test_requeueing_never_touches_what_was_accepted(rejected):
    settle(rejected, {ONE: [C]}, accepted={ONE: [C]})

    rejected.requeue(HERE)

    assert settled(rejected, ONE) == {ONE: {C}}
    assert rejected.summary(HERE).rejected == 0


def test_a_rejected_item_can_be_rejected_again_after_it_was_requeued(rejected):
    rejected.requeue(HERE, day=DAY)

    settle(rejected, {ONE: [A]}, rejected=[rejection(ONE, A, reason="again")])

    assert [one.reason for one in rejected.rejections(HERE, day=DAY)] == ["again"]


@pytest.mark.parametrize(
    "choice", [{}, {"day": DAY}, {"trace_id": ONE}, {"reason_like": "presumed"}]
)
def test_what_was_presumed_sent_can_be_requeued(ledger, choice):
    ledger.begin(HERE, DAY, {ONE: [A, B]})
    ledger.presume_sent(HERE, DAY)
    ledger.mark_part_delivered(HERE, DAY, "part-1")

    assert ledger.requeue(HERE, **choice) == 2

    assert settled(ledger, ONE) == {}
    assert ledger.presumed(HERE) == []
    assert ledger.delivered_parts(HERE, DAY) == set()


def test_rejections_can_be_listed_in_part(rejected):
    assert len(rejected.rejections(HERE, limit=2)) == 2
    assert [one.item_id for one in rejected.rejections(HERE, trace_id=TWO)] == [C]
    assert rejected.rejections(THERE) == []


def test_a_forgotten_destination_is_as_if_it_had_never_been(rejected):
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


def test_requeueing_waits_for_a_delivery_of_the_day(rejected, reopen):
    with (
        reopen().delivery_lock(HERE, DAY),
        pytest.raises(RetryableError, match="Another run has been delivering"),
    ):
        rejected.requeue(HERE, timeout_s=1)

    assert rejected.requeue(HERE, timeout_s=1) == 3

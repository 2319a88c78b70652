"""What every ledger keeps, as `deliver/receipts.py` and `pipeline/` rely on it.

To add one: a line in `LEDGERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bk_pipeline.deliver.receipts import Rejection
from bk_pipeline.errors import RetryableError
from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.ledger.cluster import fresh_schema

DAY, OTHER_DAY = "2026-11-19", "2026-11-18"
HERE, THERE = "honeycomb:host/team/here", "honeycomb:host/team/there"
ONE, TWO = b"1" * 16, b"2" * 16
A, B, C = b"a" * 8, b"b" * 8, b"c" * 8

Place = Callable[[Path], AbstractContextManager[Path | str]]


@contextmanager
def sqlite(folder: Path) -> Iterator[Path]:
    yield folder / "ledger.sqlite"


def postgres(_folder: Path) -> AbstractContextManager[str]:
    return fresh_schema()


LEDGERS: dict[str, Place] = {
    "sqlite": sqlite,
    "postgres": postgres,
}


@pytest.fixture(params=LEDGERS.values(), ids=LEDGERS)
def reopen(request, tmp_path, clock):
    """Opens the same ledger again, as another process would."""
    with request.param(tmp_path) as where, ExitStack() as opened:
        yield lambda: opened.enter_context(Ledger.open(where, clock=clock))


@pytest.fixture
def ledger(reopen):
    return reopen()


def rejection(trace_id=ONE, item_id=A, name="buildkite.job", reason="400: too many columns"):
    return Rejection(trace_id, item_id, name, reason)


def settle(ledger, items, *, destination=HERE, day=DAY, **outcomes):
    ledger.settle(ledger.begin(destination, day, items), **outcomes)


def settled(ledger, *traces, destination=HERE):
    return {trace: set(ids) for trace, ids in ledger.settled(destination, traces).items()}


def doubtful(ledger, *, destination=HERE, day=DAY):
    return {trace: set(ids) for trace, ids in ledger.in_doubt(destination, day).items()}


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
    ledger.note_part(HERE, DAY, "part-1")

    other = reopen()

    assert settled(other, ONE) == {ONE: {A}}
    assert doubtful(other) == {TWO: {B}}
    assert other.delivered_parts(HERE, DAY) == {"part-1"}


def test_destinations_know_nothing_of_each_other(ledger):
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]})
    ledger.begin(HERE, DAY, {TWO: [B]})
    ledger.note_part(HERE, DAY, "part-1")

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


def test_a_summary_counts_each_outcome(ledger):
    settle(ledger, {ONE: [A]}, accepted={ONE: [A]}, day=OTHER_DAY)
    settle(ledger, {TWO: [A, B]}, accepted={TWO: [A]}, rejected=[rejection(TWO, B)])
    ledger.begin(HERE, DAY, {TWO: [C]})

    found = ledger.summary(HERE)

    assert (found.accepted, found.rejected, found.in_doubt, found.presumed) == (2, 1, 1, 0)
    assert (found.builds, found.first_day, found.last_day) == (2, OTHER_DAY, DAY)


def test_parts_are_noted_by_day(ledger):
    ledger.note_part(HERE, DAY, "part-1")
    ledger.note_part(HERE, DAY, "part-1")
    ledger.note_part(HERE, OTHER_DAY, "part-2")

    assert ledger.delivered_parts(HERE, DAY) == {"part-1"}


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
    ledger.note_part(HERE, DAY, "part-1")
    ledger.note_part(HERE, OTHER_DAY, "part-2")
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
    ledger.note_part(HERE, DAY, "part-1")

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
        ledger.exclusive(HERE, DAY),
        pytest.raises(RetryableError, match="Another run has been delivering 2026-11-19"),
        reopen().exclusive(HERE, DAY, on_wait=waits.append, deadline_s=20),
    ):
        pytest.fail("two were in it")

    assert timedelta(seconds=20) <= clock.now() - type(clock)().now() < timedelta(seconds=23)
    assert waits == [f"{DAY}: waiting for another run that delivers it to {HERE}"]


def test_other_days_and_other_destinations_do_not_wait(ledger, reopen, clock):
    other = reopen()
    with (
        ledger.exclusive(HERE, DAY),
        other.exclusive(HERE, OTHER_DAY, deadline_s=0),
        other.exclusive(THERE, DAY, deadline_s=0),
    ):
        assert clock.slept == []


def test_a_turn_ends_with_its_block_however_that_ends(ledger, reopen):
    with pytest.raises(ZeroDivisionError), ledger.exclusive(HERE, DAY):
        raise ZeroDivisionError

    for _ in range(2):
        with reopen().exclusive(HERE, DAY, deadline_s=0):
            pass


def test_requeueing_waits_for_a_delivery_of_the_day(rejected, reopen):
    with (
        reopen().exclusive(HERE, DAY),
        pytest.raises(RetryableError, match="Another run has been delivering"),
    ):
        rejected.requeue(HERE, deadline_s=1)

    assert rejected.requeue(HERE, deadline_s=1) == 3

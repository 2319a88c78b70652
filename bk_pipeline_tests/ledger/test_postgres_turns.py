"""Turns on PostgreSQL: whoever loses the connection that holds one finds out in time."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from bk_pipeline.deliver.loop import deliver
from bk_pipeline.errors import RetryableError, ServiceUnavailable
from bk_pipeline.ledger.locks import lock_number
from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.deliver.destinations import ScriptedDestination
from bk_pipeline_tests.deliver.tables import DAY as DELIVERED
from bk_pipeline_tests.deliver.tables import span_count, tables
from bk_pipeline_tests.ledger.cluster import execute

HERE, DAY, OTHER_DAY = "here", "2026-11-19", "2026-11-18"
ITEMS = {b"1" * 16: [b"a" * 8]}
HOLDERS = (
    "FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def reopen(postgres_url, clock):
    opened = []

    def reopen():
        opened.append(Ledger.open(postgres_url, clock=clock))
        return opened[-1]

    yield reopen
    for one in opened:
        one.close()


@pytest.fixture
def ledger(reopen):
    return reopen()


@pytest.fixture
def cut(postgres_url):
    """Ends the sessions that hold a turn, as a broken connection would."""
    return lambda: execute(
        postgres_url, f"SELECT count(pg_terminate_backend(pid, 60000)) {HOLDERS}"
    )


@pytest.mark.parametrize(
    "write",
    [
        lambda ledger: ledger.begin(HERE, DAY, ITEMS),
        lambda ledger: ledger.begin_again(HERE, DAY, 1),
        lambda ledger: ledger.presume_sent(HERE, DAY),
        lambda ledger: ledger.drop_settled_doubts(HERE, DAY),
        lambda ledger: ledger.mark_part_delivered(HERE, DAY, "part-1"),
    ],
    ids=["begin", "begin_again", "presume_sent", "drop_settled_doubts", "mark_part_delivered"],
)
def test_whoever_lost_the_turn_can_no_longer_do_what_is_for_its_holder(ledger, cut, write):
    with ledger.delivery_lock(HERE, DAY):
        assert cut() == [(1,)]

        for _ in range(2):  # and not even when the connection could be made again
            with pytest.raises(RetryableError, match="and with it the turn to deliver: another"):
                write(ledger)

    assert ledger.summary(HERE).in_doubt == 0
    assert ledger.delivered_parts(HERE, DAY) == set()


def test_a_turn_that_was_lost_can_be_taken_by_another(ledger, reopen, cut):
    with ledger.delivery_lock(HERE, DAY):
        batch = ledger.begin(HERE, DAY, ITEMS)
        cut()
        other = reopen()
        with other.delivery_lock(HERE, DAY, timeout_s=0):
            assert other.in_doubt(HERE, DAY) == {b"1" * 16: {b"a" * 8}}
            with pytest.raises(RetryableError, match="so this one stops"):
                ledger.begin(HERE, DAY, ITEMS)
            # What was already under way may still be written down.
            ledger.settle(batch, accepted=ITEMS)
            other.begin(HERE, DAY, {b"2" * 16: [b"b" * 8]})

    assert (ledger.summary(HERE).accepted, ledger.summary(HERE).in_doubt) == (1, 1)


def test_a_batch_in_doubt_is_not_sent_again_by_a_run_that_lost_its_turn(ledger, reopen, cut, clock):
    made = tables(2)
    lost = ServiceUnavailable("the connection broke")
    destination = ScriptedDestination()

    def answer_is_lost_and_the_turn_with_it(items):
        destination.accept(items)
        cut()
        raise lost

    destination.replies.append(answer_is_lost_and_the_turn_with_it)
    with (
        pytest.raises(RetryableError, match="so this one stops"),
        ledger.delivery_lock(destination.name, DELIVERED),
    ):
        deliver(made, day=DELIVERED, destination=destination, ledger=ledger, clock=clock)
    assert len(destination.requests) == 1

    # Its successor sends what is in doubt, as "at least once" has it, and nobody else does.
    other = reopen()
    with other.delivery_lock(destination.name, DELIVERED, timeout_s=30):
        done = deliver(made, day=DELIVERED, destination=destination, ledger=other, clock=clock)
    assert (done.accepted, done.in_doubt_resent) == (span_count(made), span_count(made))
    assert len(destination.requests) == 2


def test_after_losing_a_turn_it_can_be_taken_again(ledger, cut):
    with ledger.delivery_lock(HERE, DAY):
        cut()

    with ledger.delivery_lock(HERE, DAY, timeout_s=0):
        ledger.begin(HERE, DAY, ITEMS)

    assert ledger.summary(HERE).in_doubt == 1


def test_behind_a_pooler_that_changes_sessions_the_turn_counts_as_lost(ledger):
    with ledger.delivery_lock(HERE, DAY):
        ledger._turns._held[HERE, DAY]._session += 1

        with pytest.raises(RetryableError, match="PgBouncer the ledger needs its session mode"):
            ledger.begin(HERE, DAY, ITEMS)

    assert ledger.summary(HERE).in_doubt == 0


def test_an_error_that_is_not_the_connections_leaves_the_turn(ledger):
    with ledger.delivery_lock(HERE, DAY):
        with pytest.raises(ZeroDivisionError), ledger._turns._held[HERE, DAY].write():
            raise ZeroDivisionError
        with (
            pytest.raises(Exception, match="cannot be used"),
            ledger._turns._held[HERE, DAY].write() as it,
        ):
            it.execute(text("SELECT nonsense"))

        ledger.begin(HERE, DAY, ITEMS)


def test_turns_of_many_days_take_one_connection(ledger, postgres_url):
    for number in range(1, 60):
        ledger.mark_part_delivered(
            HERE, f"2026-{number // 28 + 1:02}-{number % 28 + 1:02}", "part-1"
        )
    held = []

    class Watching(type(ledger._clock)):
        def monotonic(self):
            held.extend(execute(postgres_url, f"SELECT count(*), count(DISTINCT pid) {HOLDERS}"))
            return super().monotonic()

    with (
        Ledger.open(postgres_url, clock=Watching()) as other,
        ledger.delivery_lock(HERE, "2026-03-04"),
        pytest.raises(RetryableError, match="2026-03-04"),
    ):
        other.forget(HERE, timeout_s=1)

    assert held[-1] == (59, 2)


def test_when_nobody_delivers_no_lock_is_left(ledger, postgres_url):
    with ledger.delivery_lock(HERE, DAY), ledger.delivery_lock(HERE, OTHER_DAY):
        assert execute(postgres_url, f"SELECT count(*) {HOLDERS}") == [(2,)]

    assert execute(postgres_url, f"SELECT count(*) {HOLDERS}") == [(0,)]


def test_the_number_of_a_lock_is_the_same_for_ever():
    assert lock_number(f"here\0{DAY}") == 2334016155899268983
    assert lock_number(f"here\0{OTHER_DAY}") != lock_number(f"here\0{DAY}")

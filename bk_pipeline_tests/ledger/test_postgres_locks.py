"""Delivery locks on PostgreSQL: a run that loses its connection detects it before it writes."""

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
def terminate_holders(postgres_url):
    """Return a function that terminates the sessions that hold locks, like a broken connection."""
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
def test_run_that_lost_the_lock_cannot_write(ledger, terminate_holders, write):
    with ledger.delivery_lock(HERE, DAY):
        assert terminate_holders() == [(1,)]

        for _ in range(2):  # not even once it could connect again
            with pytest.raises(
                RetryableError, match="and the delivery lock was lost with it: another"
            ):
                write(ledger)

    assert ledger.summary(HERE).in_doubt == 0
    assert ledger.delivered_parts(HERE, DAY) == set()


def test_lost_lock_can_be_acquired_by_another_run(ledger, reopen, terminate_holders):
    with ledger.delivery_lock(HERE, DAY):
        batch = ledger.begin(HERE, DAY, ITEMS)
        terminate_holders()
        other = reopen()
        with other.delivery_lock(HERE, DAY, timeout_s=0):
            assert other.in_doubt(HERE, DAY) == {b"1" * 16: {b"a" * 8}}
            with pytest.raises(RetryableError, match="so this one stops"):
                ledger.begin(HERE, DAY, ITEMS)
            # Batches in flight can still be settled.
            ledger.settle(batch, accepted=ITEMS)
            other.begin(HERE, DAY, {b"2" * 16: [b"b" * 8]})

    assert (ledger.summary(HERE).accepted, ledger.summary(HERE).in_doubt) == (1, 1)


def test_run_that_lost_its_lock_does_not_resend_a_batch_in_doubt(
    ledger, reopen, terminate_holders, clock
):
    made = tables(2)
    lost = ServiceUnavailable("the connection broke")
    destination = ScriptedDestination()

    def lose_answer_and_lock(items):
        destination.accept(items)
        terminate_holders()
        raise lost

    destination.replies.append(lose_answer_and_lock)
    with (
        pytest.raises(RetryableError, match="so this one stops"),
        ledger.delivery_lock(destination.name, DELIVERED),
    ):
        deliver(made, day=DELIVERED, destination=destination, ledger=ledger, clock=clock)
    assert len(destination.requests) == 1

    # Only its successor resends what is in doubt, as "at least once" requires.
    other = reopen()
    with other.delivery_lock(destination.name, DELIVERED, timeout_s=30):
        done = deliver(made, day=DELIVERED, destination=destination, ledger=other, clock=clock)
    assert (done.accepted, done.in_doubt_resent) == (span_count(made), span_count(made))
    assert len(destination.requests) == 2


def test_lost_lock_can_be_acquired_again(ledger, terminate_holders):
    with ledger.delivery_lock(HERE, DAY):
        terminate_holders()

    with ledger.delivery_lock(HERE, DAY, timeout_s=0):
        ledger.begin(HERE, DAY, ITEMS)

    assert ledger.summary(HERE).in_doubt == 1


def test_pooler_that_changes_sessions_loses_the_lock(ledger):
    with ledger.delivery_lock(HERE, DAY):
        ledger._delivery_locks._held[HERE, DAY]._session += 1

        with pytest.raises(RetryableError, match="PgBouncer the ledger needs session mode"):
            ledger.begin(HERE, DAY, ITEMS)

    assert ledger.summary(HERE).in_doubt == 0


def test_lock_survives_errors_of_statements(ledger):
    with ledger.delivery_lock(HERE, DAY):
        with pytest.raises(ZeroDivisionError), ledger._delivery_locks._held[HERE, DAY].write():
            raise ZeroDivisionError
        with (
            pytest.raises(Exception, match="cannot be used"),
            ledger._delivery_locks._held[HERE, DAY].write() as connection,
        ):
            connection.execute(text("SELECT nonsense"))

        ledger.begin(HERE, DAY, ITEMS)


def test_locks_of_many_days_use_one_connection(ledger, postgres_url):
    for number in range(1, 60):
        ledger.mark_part_delivered(
            HERE, f"2026-{number // 28 + 1:02}-{number % 28 + 1:02}", "part-1"
        )
    held = []

    class WatchingClock(type(ledger._clock)):
        def monotonic(self):
            held.extend(execute(postgres_url, f"SELECT count(*), count(DISTINCT pid) {HOLDERS}"))
            return super().monotonic()

    with (
        Ledger.open(postgres_url, clock=WatchingClock()) as other,
        ledger.delivery_lock(HERE, "2026-03-04"),
        pytest.raises(RetryableError, match="2026-03-04"),
    ):
        other.forget(HERE, timeout_s=1)

    assert held[-1] == (59, 2)


def test_no_lock_remains_after_deliveries(ledger, postgres_url):
    with ledger.delivery_lock(HERE, DAY), ledger.delivery_lock(HERE, OTHER_DAY):
        assert execute(postgres_url, f"SELECT count(*) {HOLDERS}") == [(2,)]

    assert execute(postgres_url, f"SELECT count(*) {HOLDERS}") == [(0,)]


def test_lock_numbers_are_stable():
    assert lock_number(f"here\0{DAY}") == 2334016155899268983
    assert lock_number(f"here\0{OTHER_DAY}") != lock_number(f"here\0{DAY}")

"""What the ledger costs: bytes on disk, and statements."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event, text

from bk_pipeline.ledger.store import Ledger
from bk_pipeline.ledger.tables import metadata

DAY = "2026-11-19"
HERE = "honeycomb:api.honeycomb.io/acme/production/buildkite"
BATCH = 500


@pytest.fixture
def file_ledger(tmp_path, clock):
    with Ledger.open(tmp_path / "ledger.sqlite", clock=clock) as ledger:
        yield ledger


@pytest.fixture
def postgres_ledger(postgres_url, clock):
    with Ledger.open(postgres_url, clock=clock) as ledger:
        yield ledger


@pytest.fixture(params=["file_ledger", "postgres_ledger"], ids=["sqlite", "postgres"])
def ledger(request):
    return request.getfixturevalue(request.param)


def builds(count: int, spans: int | None = None) -> Iterator[tuple[bytes, list[bytes]]]:
    """Builds of 10 to 60 spans, or of so many."""
    chance = random.Random(7)
    for _ in range(count):
        size = spans or chance.randint(10, 60)
        yield chance.randbytes(16), [chance.randbytes(8) for _ in range(size)]


def mixed_builds(count: int) -> Iterator[tuple[bytes, list[bytes]]]:
    """Mostly of some dozen spans, some of a handful, a few of thousands."""
    chance = random.Random(7)
    for _ in range(count):
        size = min(int(chance.lognormvariate(3.2, 1.1)) + 2, 5_000)
        yield chance.randbytes(16), [chance.randbytes(8) for _ in range(size)]


def deliver(ledger: Ledger, made: Iterator[tuple[bytes, list[bytes]]]) -> int:
    """All of them accepted, in batches; how many spans that was."""
    batch: dict[bytes, list[bytes]] = {}
    total = waiting = 0
    for trace_id, span_ids in made:
        for span_id in span_ids:
            batch.setdefault(trace_id, []).append(span_id)
            waiting, total = waiting + 1, total + 1
            if waiting == BATCH:
                ledger.accept(ledger.begin(HERE, DAY, batch))
                batch, waiting = {}, 0
    if batch:
        ledger.accept(ledger.begin(HERE, DAY, batch))
    return total


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[str]]:
    """What is sent to the database, each row of an `executemany` counted as one."""
    sent: list[str] = []

    def executed(_connection, _cursor, statement, parameters, _context, many):
        rows = len(parameters) if many and isinstance(parameters, list) else 1
        sent.extend([statement] * rows)

    event.listen(ledger._database.engine, "before_cursor_execute", executed)
    try:
        yield sent
    finally:
        event.remove(ledger._database.engine, "before_cursor_execute", executed)


def test_a_span_takes_at_most_40_bytes_on_disk(file_ledger, tmp_path):
    spans = deliver(file_ledger, builds(1_000))
    file_ledger.mark_part_delivered(HERE, DAY, "part-1")
    file_ledger.close()

    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())

    assert size / spans <= 40
    # Far below; more than this means that something else is stored than ids.
    assert size / spans <= 20


def test_a_span_takes_at_most_40_bytes_in_postgres_before_anything_is_cleared_away(
    postgres_ledger,
):
    spans = deliver(postgres_ledger, mixed_builds(1_000))
    postgres_ledger.mark_part_delivered(HERE, DAY, "part-1")

    assert sum(sizes(postgres_ledger).values()) / spans <= 40


def sizes(ledger: Ledger) -> dict[str, int]:
    """Bytes of each table, with its indexes and what lies apart."""
    with ledger._database.read() as connection:
        return {
            name: connection.execute(
                text("SELECT pg_total_relation_size(cast(:name AS regclass))"), {"name": name}
            ).scalar_one()
            for name in metadata.tables
        }


def test_while_it_is_written_the_log_stays_small(file_ledger, tmp_path):
    deliver(file_ledger, builds(1_000))

    assert (tmp_path / "ledger.sqlite-wal").stat().st_size < 8_000_000


def test_statements_are_in_proportion_to_builds_and_not_to_spans(ledger):
    with statements(ledger) as few_spans:
        deliver(ledger, builds(100, spans=5))
    with statements(ledger) as many_spans:
        deliver(ledger, builds(100, spans=60))

    # Twelve times the spans. What grows is the number of batches, by eleven.
    assert len(few_spans) < 3 * 100
    assert len(many_spans) < 5 * 100


@contextmanager
def steps(ledger: Ledger) -> Iterator[list[int]]:
    """Something for every hundred steps that SQLite takes, whatever the time they take."""
    taken: list[int] = []

    def opened(connection, _record, _proxy):
        connection.set_progress_handler(lambda: taken.append(1), 100)

    event.listen(ledger._database.engine, "checkout", opened)
    try:
        yield taken
    finally:
        event.remove(ledger._database.engine, "checkout", opened)
        with ledger._database.read() as connection:
            connection.connection.dbapi_connection.set_progress_handler(None, 100)


def test_what_a_batch_costs_does_not_grow_with_what_is_settled(file_ledger):
    made = list(builds(1_060))
    with steps(file_ledger) as with_nothing_settled:
        deliver(file_ledger, iter(made[:30]))
    deliver(file_ledger, iter(made[30:-30]))
    with steps(file_ledger) as with_a_thousand_builds_settled:
        deliver(file_ledger, iter(made[-30:]))

    assert len(with_a_thousand_builds_settled) < 2 * len(with_nothing_settled)


def test_looking_up_what_is_settled_takes_few_statements_for_many_builds(ledger):
    made = list(builds(400))
    deliver(ledger, iter(made))

    with statements(ledger) as sent:
        found = ledger.settled(HERE, [trace_id for trace_id, _ in made])

    assert {trace: set(ids) for trace, ids in found.items()} == {t: set(i) for t, i in made}
    assert len(sent) <= 5

"""The ledger's cost in bytes on disk and in statements."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event, text

from bk_pipeline.ledger.schema import metadata
from bk_pipeline.ledger.store import Ledger

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
    """Yield builds of 10 to 60 spans, or of `spans`."""
    rng = random.Random(7)
    for _ in range(count):
        size = spans or rng.randint(10, 60)
        yield rng.randbytes(16), [rng.randbytes(8) for _ in range(size)]


def mixed_builds(count: int) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield builds: most of dozens of spans, some of a handful, a few of thousands."""
    rng = random.Random(7)
    for _ in range(count):
        size = min(int(rng.lognormvariate(3.2, 1.1)) + 2, 5_000)
        yield rng.randbytes(16), [rng.randbytes(8) for _ in range(size)]


def deliver(ledger: Ledger, made: Iterator[tuple[bytes, list[bytes]]]) -> int:
    """Settle all spans as accepted, in batches, and return how many there were."""
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
    """Collect the statements sent to the database; each row of an `executemany` counts as one."""
    sent: list[str] = []

    def executed(_connection, _cursor, statement, parameters, _context, many):
        rows = len(parameters) if many and isinstance(parameters, list) else 1
        sent.extend([statement] * rows)

    event.listen(ledger._database.engine, "before_cursor_execute", executed)
    try:
        yield sent
    finally:
        event.remove(ledger._database.engine, "before_cursor_execute", executed)


def test_span_takes_at_most_40_bytes_on_disk(file_ledger, tmp_path):
    spans = deliver(file_ledger, builds(1_000))
    file_ledger.mark_part_delivered(HERE, DAY, "part-1")
    file_ledger.close()

    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())

    assert size / spans <= 40
    # Well below the limit: above this, something other than ids is stored.
    assert size / spans <= 20


def test_span_takes_at_most_40_bytes_in_postgres_before_a_vacuum(
    postgres_ledger,
):
    spans = deliver(postgres_ledger, mixed_builds(1_000))
    postgres_ledger.mark_part_delivered(HERE, DAY, "part-1")

    assert sum(sizes(postgres_ledger).values()) / spans <= 40


def sizes(ledger: Ledger) -> dict[str, int]:
    """Return the bytes of each table, with indexes and out-of-line storage."""
    with ledger._database.read() as connection:
        return {
            name: connection.execute(
                text("SELECT pg_total_relation_size(cast(:name AS regclass))"), {"name": name}
            ).scalar_one()
            for name in metadata.tables
        }


def test_write_ahead_log_stays_small(file_ledger, tmp_path):
    deliver(file_ledger, builds(1_000))

    assert (tmp_path / "ledger.sqlite-wal").stat().st_size < 8_000_000


def test_statement_count_follows_builds_and_not_spans(ledger):
    with statements(ledger) as few_spans:
        deliver(ledger, builds(100, spans=5))
    with statements(ledger) as many_spans:
        deliver(ledger, builds(100, spans=60))

    # Twelve times the spans; only the number of batches grows.
    assert len(few_spans) < 3 * 100
    assert len(many_spans) < 5 * 100


@contextmanager
def vm_steps(ledger: Ledger) -> Iterator[list[int]]:
    """Collect an entry for every hundred virtual machine steps of SQLite."""
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


def test_cost_of_a_batch_does_not_grow_with_settled_items(file_ledger):
    made = list(builds(1_060))
    with vm_steps(file_ledger) as with_nothing_settled:
        deliver(file_ledger, iter(made[:30]))
    deliver(file_ledger, iter(made[30:-30]))
    with vm_steps(file_ledger) as with_a_thousand_builds_settled:
        deliver(file_ledger, iter(made[-30:]))

    assert len(with_a_thousand_builds_settled) < 2 * len(with_nothing_settled)


def test_settled_lookup_of_many_builds_takes_few_statements(ledger):
    made = list(builds(400))
    deliver(ledger, iter(made))

    with statements(ledger) as sent:
        found = ledger.settled(HERE, [trace_id for trace_id, _ in made])

    assert {trace: set(ids) for trace, ids in found.items()} == {t: set(i) for t, i in made}
    assert len(sent) <= 5

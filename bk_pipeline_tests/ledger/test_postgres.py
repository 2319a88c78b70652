"""Errors of a PostgreSQL ledger: each names the server and what to do, and no secret."""

from __future__ import annotations

import socket
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest
from sqlalchemy import make_url, text

from bk_pipeline.contracts import Rejection
from bk_pipeline.errors import RetryableError, StorageError
from bk_pipeline.ledger.schema import metadata
from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.ledger.cluster import PASSWORD, execute

HERE, DAY = "here", "2026-11-19"
ITEMS = {b"1" * 16: [b"a" * 8]}
OTHERS = {b"2" * 16: [b"b" * 8]}


@pytest.fixture
def ledger(postgres_url, clock):
    with Ledger.open(postgres_url, clock=clock, busy_timeout_s=1) as ledger:
        yield ledger


def changed(url, **parts):
    return make_url(url).set(**parts).render_as_string(hide_password=False)


def error_message(kind, call, *arguments, **options):
    """Return the message of the raised error; no password is in its traceback or causes."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    shown = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in shown
    assert "wr0ng" not in shown
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unreachable_server_is_retryable(clock):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    message = error_message(
        RetryableError, Ledger.open, f"postgresql://me:wr0ng@127.0.0.1:{port}/db", clock=clock
    )

    assert message.startswith(f"The ledger 127.0.0.1:{port}/db cannot be reached. Check that")
    assert "refused" in message


def test_wrong_password_is_reported(postgres_url, clock):
    message = error_message(
        StorageError, Ledger.open, changed(postgres_url, password="wr0ng"), clock=clock
    )

    assert "access is denied. Check user and password in BK_PIPELINE_LEDGER_URL" in message


@pytest.mark.parametrize(
    ("parts", "advice"),
    [
        ({"database": "nowhere"}, "the database does not exist. Create it"),
        ({"username": "unknown"}, "Check user and password"),
        ({"query": {"options": "-csearch_path=nowhere"}}, "the schema does not exist. Create it"),
        ({"query": {"options": "-cdefault_transaction_read_only=on"}}, "it is read-only"),
    ],
    ids=["database", "user", "schema", "read-only"],
)
def test_wrong_url_part_is_reported(postgres_url, clock, parts, advice):
    assert advice in error_message(
        StorageError, Ledger.open, changed(postgres_url, **parts), clock=clock
    )


def test_missing_permission_is_reported(ledger, postgres_url, clock):
    schema = postgres_url.rpartition("%3D")[2]
    execute(postgres_url, "DROP ROLE IF EXISTS guest")
    execute(postgres_url, f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    execute(postgres_url, f"GRANT USAGE ON SCHEMA {schema} TO guest")

    message = error_message(
        StorageError, Ledger.open, changed(postgres_url, username="guest"), clock=clock
    )
    execute(postgres_url, f"REVOKE ALL ON SCHEMA {schema} FROM guest")
    execute(postgres_url, "DROP ROLE guest")

    assert "a permission is missing" in message


def test_exhausted_server_connections_are_retryable(server, clock):
    with ExitStack() as taken:
        for _ in range(40):
            try:
                taken.enter_context(psycopg.connect(server.url))
            except psycopg.OperationalError:
                break

        message = error_message(RetryableError, Ledger.open, server.url, clock=clock)

    assert "it has no connection left. Raise max_connections" in message


def test_session_terminated_during_a_transaction_is_retryable(ledger, postgres_url):
    def write_in_terminated_session():
        with ledger._database.write() as connection:
            session = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            execute(postgres_url, f"SELECT pg_terminate_backend({session}, 5000)")
            connection.execute(text("SELECT 1"))

    assert "it is shutting down or starting" in error_message(
        RetryableError, write_in_terminated_session
    )

    ledger.begin(HERE, DAY, ITEMS)
    assert ledger.summary(HERE).in_doubt == 1


def test_restarted_server_is_used_again(server, postgres_url, clock):
    with Ledger.open(postgres_url, clock=clock) as ledger:
        ledger.begin(HERE, DAY, ITEMS)
        server.stop()
        assert "cannot be reached" in error_message(RetryableError, ledger.begin, HERE, DAY, OTHERS)
        server.start()

        ledger.begin(HERE, DAY, OTHERS)

        assert ledger.summary(HERE).in_doubt == 2


def test_row_locked_for_too_long_is_retryable(ledger, postgres_url):
    ledger.settle(ledger.begin(HERE, DAY, ITEMS), accepted=ITEMS)
    batch = ledger.begin(HERE, DAY, ITEMS)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT * FROM bk_pipeline_outcomes FOR UPDATE")

        message = error_message(RetryableError, ledger.settle, batch, accepted=ITEMS)

    assert "another session has held a lock for too long" in message
    ledger.settle(batch, accepted=ITEMS)
    assert ledger.summary(HERE).in_doubt == 0


def test_settling_again_changes_nothing(ledger):
    rejected = [Rejection(b"2" * 16, b"b" * 8, "job", "400: no")]
    batch = ledger.begin(HERE, DAY, ITEMS | OTHERS)
    for _ in range(2):
        ledger.settle(batch, accepted={}, rejected=rejected, in_doubt=ITEMS)
    for _ in range(2):
        ledger.settle(batch, accepted=ITEMS)

    summary = ledger.summary(HERE)
    assert (summary.accepted, summary.rejected, summary.in_doubt) == (1, 1, 0)


def test_characters_that_postgres_rejects_are_replaced(ledger):
    rejected = [Rejection(b"1" * 16, b"a" * 8, "job\0", "400: \ud800 \0 no é🚀")]
    ledger.settle(ledger.begin(HERE, DAY, ITEMS), rejected=rejected)

    (found,) = ledger.rejections(HERE)
    assert found.reason == "400: ? \N{REPLACEMENT CHARACTER} no é🚀"


def test_many_threads_share_few_connections(postgres_url, clock):
    traces = [number.to_bytes(16) for number in range(60)]

    def settle(trace_id):
        items = {trace_id: [b"a" * 8], b"shared" * 2 + b"....": [trace_id[8:]]}
        ledger.accept(ledger.begin(HERE, DAY, items))

    with Ledger.open(postgres_url, clock=clock) as ledger, ThreadPoolExecutor(30) as pool:
        list(pool.map(settle, traces))
        summary = ledger.summary(HERE)

    assert (summary.accepted, summary.builds, summary.in_doubt) == (120, 61, 0)


def test_table_and_index_names_have_a_common_prefix():
    assert all(name.startswith("bk_pipeline_") for name in metadata.tables)
    indexes = [index.name for table in metadata.sorted_tables for index in table.indexes]
    assert all(name.startswith("bk_pipeline_") for name in indexes)


def test_durability_and_isolation_do_not_depend_on_server_defaults(postgres_url, clock):
    url = postgres_url + "%20-csynchronous_commit%3Doff%20-clock_timeout%3D4s"
    with Ledger.open(url, clock=clock) as ledger:
        with ledger._database.write() as connection:
            shown = [
                connection.execute(text(f"SHOW {name}")).scalar_one()
                for name in ("synchronous_commit", "transaction_isolation", "lock_timeout")
            ]
        with ledger._database.read() as connection:
            isolation = connection.execute(text("SHOW transaction_isolation")).scalar_one()

    assert shown == ["on", "read committed", "4s"]
    assert isolation == "repeatable read"

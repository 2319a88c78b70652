"""Creating and upgrading the tables of a ledger."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from bk_pipeline.errors import StorageError
from bk_pipeline.ledger.schema import SCHEMA_VERSION, upgrade_schema
from bk_pipeline.ledger.sqlite import open_sqlite
from bk_pipeline.ledger.store import Ledger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "ledger.sqlite"


@pytest.fixture
def version(path):
    def version():
        with sqlite3.connect(path) as connection:
            found = connection.execute("SELECT version FROM bk_pipeline_ledger_schema").fetchall()
        connection.close()
        return found

    return version


def set_version(path, number):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE bk_pipeline_ledger_schema SET version = ?", (number,))
    connection.close()


def test_new_ledger_has_the_current_schema(path, clock, version):
    Ledger.open(path, clock=clock).close()

    assert version() == [(SCHEMA_VERSION,)]


def test_opening_again_changes_nothing(path, clock, version):
    for _ in range(2):
        with Ledger.open(path, clock=clock) as ledger:
            batch = ledger.begin("here", "2026-11-19", {b"1" * 16: [b"a" * 8]})
            ledger.settle(batch, accepted={b"1" * 16: [b"a" * 8]})

    assert version() == [(SCHEMA_VERSION,)]
    with Ledger.open(path, clock=clock) as ledger:
        assert ledger.summary("here").accepted == 1


def test_ledger_of_a_newer_version_is_not_changed(path, clock, version):
    Ledger.open(path, clock=clock).close()
    set_version(path, SCHEMA_VERSION + 1)

    with pytest.raises(
        StorageError, match=rf"{path} has schema version {SCHEMA_VERSION + 1}.*Install"
    ):
        Ledger.open(path, clock=clock)

    assert version() == [(SCHEMA_VERSION + 1,)]


def upgrade(connection):
    connection.execute(text("ALTER TABLE bk_pipeline_destinations ADD COLUMN note TEXT"))


def test_older_ledger_is_upgraded_step_by_step_and_keeps_its_content(path, clock, version):
    with Ledger.open(path, clock=clock) as ledger:
        ledger.mark_part_delivered("here", "2026-11-19", "part-1")
    database = open_sqlite(path, busy_timeout_s=5)

    steps = {SCHEMA_VERSION: upgrade, SCHEMA_VERSION + 1: lambda _: None}
    upgrade_schema(database, upgrades=steps, version=SCHEMA_VERSION + 2)

    assert version() == [(SCHEMA_VERSION + 2,)]
    with database.read() as connection:
        assert connection.execute(
            text("SELECT note, name FROM bk_pipeline_destinations")
        ).all() == [(None, "here")]
    database.close()


def test_ledger_without_markers_gets_their_tables_and_keeps_its_content(path, clock, version):
    with Ledger.open(path, clock=clock) as ledger:
        ledger.mark_part_delivered("here", "2026-11-19", "part-1")
    with sqlite3.connect(path) as connection:
        for table in ("bk_pipeline_markers", "bk_pipeline_marked_parts"):
            connection.execute(f"DROP TABLE {table}")
    connection.close()
    set_version(path, 1)

    with Ledger.open(path, clock=clock) as ledger:
        assert ledger.markers.placed("markers:here") == []
        ledger.markers.mark_parts_checked("markers:here", "2026-11-19", ["part-1"], "rules")
        assert ledger.delivered_parts("here", "2026-11-19") == {"part-1"}

    assert version() == [(SCHEMA_VERSION,)]


def test_ledger_without_thresholds_gets_their_table_and_keeps_its_content(path, clock, version):
    with Ledger.open(path, clock=clock) as ledger:
        ledger.mark_part_delivered("here", "2026-11-19", "part-1")
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE bk_pipeline_sampled")
    connection.close()
    set_version(path, 3)

    with Ledger.open(path, clock=clock) as ledger:
        ledger.record_thresholds("here", "2026-11-19", {b"1" * 16: 2**55})
        assert ledger.thresholds("here", [b"1" * 16]) == {b"1" * 16: 2**55}
        assert ledger.delivered_parts("here", "2026-11-19") == {"part-1"}

    assert version() == [(SCHEMA_VERSION,)]


def test_ledger_without_delivery_records_gets_an_identity_and_keeps_its_content(
    path, clock, version
):
    items = {b"1" * 16: [b"a" * 8]}
    with Ledger.open(path, clock=clock) as ledger:
        for name in ("otlp:host/v1/traces/", "otlp:host:4318//v1/traces/#a", "honeycomb:host/a/b"):
            ledger.accept(ledger.begin(name, "2026-11-19", items))
    with sqlite3.connect(path) as connection:
        for table in ("bk_pipeline_deliveries", "bk_pipeline_ledger_identity"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("DROP INDEX bk_pipeline_outcomes_of_day")
    connection.close()
    set_version(path, 2)

    with Ledger.open(path, clock=clock) as ledger:
        assert (len(ledger.id), ledger.predates_records) == (32, True)
        assert ledger.destinations() == [
            "honeycomb:host/a/b",
            "otlp:host/v1/traces",
            "otlp:host:4318/v1/traces#a",
        ]
        assert set(ledger.settled("otlp:host/v1/traces", items)[b"1" * 16]) == {b"a" * 8}
        assert ledger.delivery_counts("otlp:host/v1/traces", "2026-11-19") == {}
        first = ledger.id
    with Ledger.open(path, clock=clock) as ledger:
        assert ledger.id == first
    assert version() == [(SCHEMA_VERSION,)]


def test_each_new_ledger_has_its_own_identity(tmp_path, clock):
    opened = [Ledger.open(tmp_path / f"{n}.sqlite", clock=clock) for n in range(2)]

    assert len({ledger.id for ledger in opened}) == 2
    assert not any(ledger.predates_records for ledger in opened)
    for ledger in opened:
        ledger.close()


def test_failed_upgrade_changes_nothing(path, clock, version):
    Ledger.open(path, clock=clock).close()
    database = open_sqlite(path, busy_timeout_s=5)

    def broken(connection):
        upgrade(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        upgrade_schema(database, upgrades={SCHEMA_VERSION: broken}, version=SCHEMA_VERSION + 1)

    assert version() == [(SCHEMA_VERSION,)]
    with database.read() as connection:
        columns = connection.execute(text("SELECT * FROM bk_pipeline_destinations")).keys()
    assert "note" not in columns
    database.close()


def test_threads_can_open_one_new_file_at_once(path, clock, version):
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: Ledger.open(path, clock=clock), range(8)))
    for ledger in opened:
        ledger.close()

    assert version() == [(SCHEMA_VERSION,)]

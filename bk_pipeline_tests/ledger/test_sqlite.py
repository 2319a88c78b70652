"""What can be wrong with a file, and what the ledger says about it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from bk_pipeline.errors import RetryableError, StorageError
from bk_pipeline.ledger.store import Ledger

HERE, DAY = "here", "2026-11-19"
ITEMS = {b"1" * 16: [b"a" * 8]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path, clock):
    with Ledger.open(path, clock=clock, busy_timeout_s=0.5) as ledger:
        yield ledger


@contextmanager
def locked(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


def test_a_ledger_that_somebody_else_writes_for_too_long_may_be_tried_again(ledger, path):
    with locked(path), pytest.raises(RetryableError, match=rf"{path} is locked by another process"):
        ledger.begin(HERE, DAY, ITEMS)

    ledger.begin(HERE, DAY, ITEMS)
    assert ledger.summary(HERE).in_doubt == 1


def test_a_ledger_that_somebody_else_writes_can_still_be_read_and_opened(ledger, path, clock):
    ledger.settle(ledger.begin(HERE, DAY, ITEMS), accepted=ITEMS)

    with locked(path), Ledger.open(path, clock=clock) as other:
        assert other.summary(HERE).accepted == ledger.summary(HERE).accepted == 1


def fill_the_disk(ledger):
    """From now on the file cannot grow."""

    @event.listens_for(ledger._database.engine, "begin")
    def limit(connection):
        connection.exec_driver_sql("PRAGMA max_page_count=1")


def test_a_full_disk_is_told_and_nothing_is_half_written(ledger, path):
    fill_the_disk(ledger)

    def begin_many():
        for _ in range(200):
            ledger.begin(HERE, DAY, {os.urandom(16): [os.urandom(8)] for _ in range(50)})

    with pytest.raises(StorageError, match=rf"{path} cannot be used: the disk is full\. Make room"):
        begin_many()

    summary = ledger.summary(HERE)
    assert summary.in_doubt % 50 == 0


def test_a_file_that_is_no_ledger_is_told_and_left_alone(path, clock):
    path.write_bytes(b"Dear diary, " * 1_000)

    with pytest.raises(StorageError, match="is no SQLite database"):
        Ledger.open(path, clock=clock)

    assert path.read_bytes() == b"Dear diary, " * 1_000


def test_a_damaged_ledger_is_told(path, clock):
    with Ledger.open(path, clock=clock) as ledger:
        ledger.settle(ledger.begin(HERE, DAY, ITEMS), accepted=ITEMS)
    content = path.read_bytes()
    path.write_bytes(content[:4_096] + b"\xff" * (len(content) - 4_096))

    with pytest.raises(StorageError, match="damaged"), Ledger.open(path, clock=clock) as ledger:
        ledger.settled(HERE, ITEMS)


def test_a_path_that_leads_through_a_file_is_told(tmp_path, clock):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match=r"cannot be used: .*Check the folder"):
        Ledger.open(tmp_path / "file" / "ledger.sqlite", clock=clock)


def test_a_folder_in_the_ledgers_place_is_told(path, clock):
    path.mkdir()

    with pytest.raises(StorageError, match="cannot be opened"):
        Ledger.open(path, clock=clock)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_ledger_that_may_not_be_written_is_told(ledger, path):
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="permissions"):
            Ledger.open(path, clock=ledger._clock).begin(HERE, DAY, ITEMS)
    finally:
        path.parent.chmod(0o755)


def test_a_read_only_database_is_told(ledger, path):
    @event.listens_for(ledger._database.engine, "connect")
    def forbid(connection, _):
        connection.execute("PRAGMA query_only=ON")

    ledger.close()

    with pytest.raises(StorageError, match=r"cannot be written\. Check the permissions"):
        ledger.begin(HERE, DAY, ITEMS)


def test_a_ledger_is_on_disk_before_a_batch_leaves(ledger):
    with ledger._database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_connection_that_nobody_closed_is_closed_with_the_ledger(path, clock):
    ledger = Ledger.open(path, clock=clock)
    ledger.begin(HERE, DAY, ITEMS)
    wal = path.with_name("ledger.sqlite-wal")
    assert wal.exists()

    del ledger

    # SQLite removes its log with the last connection.
    assert not wal.exists()

"""Errors of an SQLite ledger: each names the file and what to do."""

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


def test_ledger_locked_for_too_long_is_retryable(ledger, path):
    with (
        locked(path),
        pytest.raises(RetryableError, match=rf"Another process has locked the ledger {path}"),
    ):
        ledger.begin(HERE, DAY, ITEMS)

    ledger.begin(HERE, DAY, ITEMS)
    assert ledger.summary(HERE).in_doubt == 1


def test_ledger_can_be_opened_and_read_during_a_write(ledger, path, clock):
    ledger.settle(ledger.begin(HERE, DAY, ITEMS), accepted=ITEMS)

    with locked(path), Ledger.open(path, clock=clock) as other:
        assert other.summary(HERE).accepted == ledger.summary(HERE).accepted == 1


def fill_the_disk(ledger):
    """Keep the file from growing."""

    @event.listens_for(ledger._database.engine, "begin")
    def limit(connection):
        connection.exec_driver_sql("PRAGMA max_page_count=1")


def test_full_disk_is_reported_and_no_batch_is_half_written(ledger, path):
    fill_the_disk(ledger)

    def begin_many():
        for _ in range(200):
            ledger.begin(HERE, DAY, {os.urandom(16): [os.urandom(8)] for _ in range(50)})

    with pytest.raises(StorageError, match=rf"{path} cannot be used: the disk is full\. Make room"):
        begin_many()

    summary = ledger.summary(HERE)
    assert summary.in_doubt % 50 == 0


def test_file_that_is_not_a_database_is_reported_and_left_unchanged(path, clock):
    path.write_bytes(b"Dear diary, " * 1_000)

    with pytest.raises(StorageError, match="is not an SQLite database"):
        Ledger.open(path, clock=clock)

    assert path.read_bytes() == b"Dear diary, " * 1_000


def test_damaged_ledger_is_reported(path, clock):
    with Ledger.open(path, clock=clock) as ledger:
        ledger.settle(ledger.begin(HERE, DAY, ITEMS), accepted=ITEMS)
    content = path.read_bytes()
    path.write_bytes(content[:4_096] + b"\xff" * (len(content) - 4_096))

    with pytest.raises(StorageError, match="damaged"), Ledger.open(path, clock=clock) as ledger:
        ledger.settled(HERE, ITEMS)


def test_path_below_a_file_is_reported(tmp_path, clock):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match=r"cannot be used: .*Check the folder"):
        Ledger.open(tmp_path / "file" / "ledger.sqlite", clock=clock)


def test_folder_at_the_ledgers_path_is_reported(path, clock):
    path.mkdir()

    with pytest.raises(StorageError, match="cannot be opened"):
        Ledger.open(path, clock=clock)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_ledger_without_write_permission_is_reported(ledger, path):
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="permissions"):
            Ledger.open(path, clock=ledger._clock).begin(HERE, DAY, ITEMS)
    finally:
        path.parent.chmod(0o755)


def test_read_only_database_is_reported(ledger, path):
    @event.listens_for(ledger._database.engine, "connect")
    def forbid(connection, _):
        connection.execute("PRAGMA query_only=ON")

    ledger.close()

    with pytest.raises(StorageError, match=r"cannot be written\. Check the permissions"):
        ledger.begin(HERE, DAY, ITEMS)


def test_commits_are_flushed_to_disk(ledger):
    with ledger._database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_open_connection_is_closed_when_the_ledger_is_collected(path, clock):
    ledger = Ledger.open(path, clock=clock)
    ledger.begin(HERE, DAY, ITEMS)
    wal = path.with_name("ledger.sqlite-wal")
    assert wal.exists()

    del ledger

    # SQLite removes its log with the last connection.
    assert not wal.exists()

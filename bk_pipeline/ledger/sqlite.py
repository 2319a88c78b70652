"""Everything specific to SQLite: pragmas, file locks, errors.

Write-ahead logging lets readers proceed during a write. A writing transaction takes its lock at
once (`BEGIN IMMEDIATE`): one that began by reading could not be upgraded after another's commit,
however long it waits. With `synchronous=FULL` each commit is on disk before a batch is sent, so not
even a power cut loses the record of what was sent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from bk_pipeline.errors import PipelineError, RetryableError, StorageError
from bk_pipeline.ledger.database import WRITES, Database
from bk_pipeline.private_files import file_mode, make_file, make_folder

T = TypeVar("T")
SETUP_TIMEOUT_S = 60.0
# Prefixes of SQLite's error names, and what to do; the first match wins.
_REMEDIES = (
    (("SQLITE_FULL",), "the disk is full. Make room and run again"),
    (
        ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"),
        "it cannot be written. Check the permissions of the file and of its folder",
    ),
    (
        ("SQLITE_CANTOPEN",),
        "it cannot be opened. Check that its folder exists and is writable",
    ),
    (
        ("SQLITE_NOTADB",),
        "it is not an SQLite database. Move it away, or set BK_PIPELINE_DATA_DIR to another folder",
    ),
    (
        ("SQLITE_CORRUPT",),
        "its content is damaged. Restore it from a backup; without it everything is sent again",
    ),
    (("SQLITE_IOERR",), "reading or writing it failed. Check the disk and its free space"),
)


def open_sqlite(path: Path, *, busy_timeout_s: float) -> Database:
    """Open the database file at `path`, creating file and folder if they are missing.

    Args:
        path: The file; it must be on a local disk.
        busy_timeout_s: How long to wait for other writers, in seconds.

    Raises:
        StorageError: The file cannot be opened.
        RetryableError: Another process has locked it for longer than `busy_timeout_s`.
    """
    dialect = _Sqlite(path)
    try:
        make_folder(path.parent)
        make_file(path)  # its -wal and -shm files get the same mode
        engine = create_engine(
            URL.create("sqlite", database=str(path)),
            connect_args={"timeout": busy_timeout_s},
            max_overflow=-1,
        )
        _prepare(engine)
        database = Database(engine, dialect, where=str(path))
        if _journal_mode(database) != "wal":
            with dialect.schema_lock(database):
                _use_write_ahead_log(database)
    except OSError as exc:
        raise dialect.unusable(exc) from exc
    return database


def _prepare(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # the driver must not issue BEGIN itself
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _journal_mode(database: Database) -> str:
    with database.read() as connection:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())


def _use_write_ahead_log(database: Database) -> None:
    try:
        connection = database.engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()
    except (SQLAlchemyError, sqlite3.Error) as exc:
        raise database.dialect.translate_error(exc) from exc


class _Sqlite:
    """The SQLite dialect. Locks are locked files; the system releases those of a dead process."""

    driver_error: type[Exception] = sqlite3.Error
    one_writer = True
    secrets: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locks = path.with_name(f"{path.name}.locks")
        # SQLite waits for other writers by polling; threads of one process need not.
        self._writer = Lock()

    def translate_error(self, exc: Exception) -> PipelineError:
        cause = exc.orig if isinstance(exc, DBAPIError) else exc
        name = getattr(cause, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return RetryableError(
                f"Another process has locked the ledger {self._path} for too long. Look for a run or "
                "a shell that has it open, and run again."
            )
        for prefixes, remedy in _REMEDIES:
            if name.startswith(prefixes):
                return StorageError(f"The ledger {self._path} cannot be used: {remedy}.")
        return StorageError(
            f"The ledger {self._path} cannot be used: {name or type(cause).__name__}. Check that "
            "this program wrote it, or restore it from a backup."
        )

    def unusable(self, exc: OSError) -> StorageError:
        reason = exc.strerror or type(exc).__name__
        return StorageError(
            f"The ledger {self._path} cannot be used: {reason}. Check the folder, its "
            "permissions and the free space."
        )

    def write_lock(self) -> Lock:
        return self._writer

    @contextmanager
    def schema_lock(self, database: Database) -> Iterator[None]:  # noqa: ARG002  # part of `Dialect`
        try:
            with self.lock("schema", timeout_s=SETUP_TIMEOUT_S):
                yield
        except Timeout as exc:
            raise RetryableError(
                f"Another process has been setting up the ledger {self._path} for more than "
                f"{SETUP_TIMEOUT_S:.0f} s. Run again."
            ) from exc

    def tune_tables(self, connection: Connection) -> None:
        """Do nothing: SQLite needs no more than the declaration."""

    def locks(self, database: Database) -> _FileLocks:
        return _FileLocks(self, database)

    def lock(self, key: str, *, timeout_s: float) -> FileLock:
        """Return a file lock. Its file is never deleted: waiters would then lock different files."""
        try:
            make_folder(self._locks)
        except OSError as exc:
            raise self.unusable(exc) from exc
        name = sha256(key.encode()).hexdigest()[:24]
        # Without `flock`, filelock would fall back to a lock that survives its holder.
        return FileLock(
            self._locks / f"{name}.lock",
            timeout=timeout_s,
            mode=file_mode(),
            thread_local=False,
            fallback_to_soft=False,
        )


class _FileLocks:
    """A set of file locks, which cannot be lost while the process lives."""

    def __init__(self, dialect: _Sqlite, database: Database) -> None:
        self._dialect = dialect
        self._database = database
        self._acquired: list[FileLock] = []

    def try_lock(self, key: str) -> bool:
        lock = self._dialect.lock(key, timeout_s=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        except OSError as exc:
            raise self._dialect.unusable(exc) from exc
        self._acquired.append(lock)
        return True

    def write(self) -> AbstractContextManager[Connection]:
        return self._database.write()

    def run(self, work: Callable[[Connection], T]) -> T:
        return self._database.run(work)

    def close(self) -> None:
        while self._acquired:
            self._acquired.pop().release()

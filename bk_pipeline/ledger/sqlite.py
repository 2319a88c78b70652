"""SQLite: the one place that knows that it is SQLite.

Write-ahead logging lets readers go on while somebody writes. A writing transaction takes
its lock at once (`BEGIN IMMEDIATE`): one that began by reading could not be upgraded
after another's commit, however long it waits. `synchronous=FULL` has each commit on disk
before a batch leaves, so that not even a power cut makes us forget what was sent.
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
# By the beginning of SQLite's own names, the first that fits.
_REMEDIES = (
    (("SQLITE_FULL",), "the disk is full. Make room and run again"),
    (
        ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"),
        "it cannot be written. Check the permissions of the file and of its folder",
    ),
    (
        ("SQLITE_CANTOPEN",),
        "it cannot be opened. Check that its folder exists and may be written",
    ),
    (
        ("SQLITE_NOTADB",),
        "it is no SQLite database. Move it away, or set BK_PIPELINE_DATA_DIR to another folder",
    ),
    (
        ("SQLITE_CORRUPT",),
        "its content is damaged. Restore it from a backup; without it everything is sent again",
    ),
    (("SQLITE_IOERR",), "the disk does not read or write it. Check the disk and its free space"),
)


def open_sqlite(path: Path, *, busy_timeout_s: float) -> Database:
    """The database in the file at `path`; file and folder are made if they are missing.

    Raises:
        StorageError: It cannot be opened.
        RetryableError: Another process has it locked for longer than `busy_timeout_s`.
    """
    dialect = _Sqlite(path)
    try:
        make_folder(path.parent)
        make_file(path)  # its -wal and -shm get the same mode
        engine = create_engine(
            URL.create("sqlite", database=str(path)),
            connect_args={"timeout": busy_timeout_s},
            max_overflow=-1,
        )
        _prepare(engine)
        database = Database(engine, dialect, where=str(path))
        if _journal_mode(database) != "wal":
            with dialect.changing_schema(database):
                _use_write_ahead_log(database)
    except OSError as exc:
        raise dialect.unusable(exc) from exc
    return database


def _prepare(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # no BEGIN of the driver's own
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
        raise database.dialect.explain(exc) from exc


class _Sqlite:
    """The dialect. Locks are files beside the database: the system drops a dead process's."""

    driver_error: type[Exception] = sqlite3.Error
    one_writer = True
    secrets: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locks = path.with_name(f"{path.name}.locks")
        # SQLite lets writers wait by polling; threads of one process need not.
        self._writer = Lock()

    def explain(self, exc: Exception) -> PipelineError:
        cause = exc.orig if isinstance(exc, DBAPIError) else exc
        name = getattr(cause, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return RetryableError(
                f"The ledger {self._path} is locked by another process for too long. Look for "
                "a run or a shell that has it open, and run again."
            )
        for beginnings, remedy in _REMEDIES:
            if name.startswith(beginnings):
                return StorageError(f"The ledger {self._path} cannot be used: {remedy}.")
        return StorageError(
            f"The ledger {self._path} cannot be used: {name or type(cause).__name__}. Check "
            "that it was written by this program, and restore it from a backup if not."
        )

    def unusable(self, exc: OSError) -> StorageError:
        reason = exc.strerror or type(exc).__name__
        return StorageError(
            f"The ledger {self._path} cannot be used: {reason}. Check the folder, its "
            "permissions and the free space."
        )

    def writing(self) -> Lock:
        return self._writer

    @contextmanager
    def changing_schema(self, database: Database) -> Iterator[None]:  # noqa: ARG002  # PostgreSQL's need it
        try:
            with self.lock("schema", timeout_s=SETUP_TIMEOUT_S):
                yield
        except Timeout as exc:
            raise RetryableError(
                f"The ledger {self._path} is being set up by another process for more than "
                f"{SETUP_TIMEOUT_S:.0f} s. Run again."
            ) from exc

    def tune(self, connection: Connection) -> None:
        """Nothing: what is declared is all there is."""

    def locks(self, database: Database) -> _FileLocks:
        return _FileLocks(self, database)

    def lock(self, key: str, *, timeout_s: float) -> FileLock:
        """The file stays when the lock is released: whoever deletes it splits those that wait."""
        try:
            make_folder(self._locks)
        except OSError as exc:
            raise self.unusable(exc) from exc
        name = sha256(key.encode()).hexdigest()[:24]
        # Without `flock` filelock would take a kind of lock that outlives its holder.
        return FileLock(
            self._locks / f"{name}.lock",
            timeout=timeout_s,
            mode=file_mode(),
            thread_local=False,
            fallback_to_soft=False,
        )


class _FileLocks:
    """File locks. They cannot be lost while their process lives."""

    def __init__(self, dialect: _Sqlite, database: Database) -> None:
        self._dialect = dialect
        self._database = database
        self._taken: list[FileLock] = []

    def try_lock(self, key: str) -> bool:
        lock = self._dialect.lock(key, timeout_s=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        except OSError as exc:
            raise self._dialect.unusable(exc) from exc
        self._taken.append(lock)
        return True

    def write(self) -> AbstractContextManager[Connection]:
        return self._database.write()

    def do(self, work: Callable[[Connection], T]) -> T:
        return self._database.do(work)

    def close(self) -> None:
        while self._taken:
            self._taken.pop().release()

"""Short transactions on the ledger's database, group commit, and error translation.

What depends on the database is a `Dialect` (`sqlite.py`, `postgres.py`); the rest of the package is
the same SQL for both.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from bk_pipeline.errors import PipelineError

T = TypeVar("T")
Write = Callable[[], AbstractContextManager[Connection]]


class GroupCommit:
    """Commits the work of several waiting threads in one transaction. Thread-safe.

    A commit of SQLite waits for the disk, so one for many threads is much faster than one for each.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[_Job] = deque()

    @property
    def waiting(self) -> int:
        """The number of threads whose work is waiting."""
        return len(self._waiting)

    def run(self, work: Callable[[Connection], T], *, write: Write) -> T:
        """Run `work` in a transaction, and return its result once that is committed.

        Args:
            work: May be called twice; its first transaction is rolled back by then.
            write: `Database.write` of the same database each time.

        Raises:
            Exception: From `work` when it runs in a transaction of its own, or from that.
        """
        job = _Job(work)
        self._waiting.append(job)
        with self._lock:
            if not (job.done or job.alone):
                self._run_waiting(write)
            if not job.done:
                with write() as connection:
                    job.result = work(connection)
        result: T = job.result
        return result

    def _run_waiting(self, write: Write) -> None:
        """Run all waiting jobs in one transaction; after an error, each runs again on its own."""
        # Only the holder of the lock removes jobs, so there are at least this many.
        jobs = [self._waiting.popleft() for _ in range(len(self._waiting))]
        for job in jobs:
            job.alone = True
        try:
            with write() as connection:
                for job in jobs:
                    job.result = job.work(connection)
        except Exception:
            if len(jobs) == 1:
                raise
            return
        for job in jobs:
            job.done = True


class _Job:
    """The work of one thread.

    Attributes:
        work: What to run.
        result: What `work` returned.
        done: Whether it is committed.
        alone: Whether it needs a transaction of its own, unless it is `done`.
    """

    __slots__ = ("alone", "done", "result", "work")

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.done = False
        self.alone = False


# Execution option of a connection: whether it is opened for writing.
WRITES = "bk_pipeline_writes"


class Locks(Protocol):
    """A set of locks that are released together. Thread-safe."""

    def try_lock(self, key: str) -> bool:
        """Acquire the lock `key`; return False if another holder has it."""
        ...

    def write(self) -> AbstractContextManager[Connection]:
        """Like `Database.write`, but commit only if the locks are still held.

        Raises:
            RetryableError: They were lost, and another run may hold them.
        """
        ...

    def run(self, work: Callable[[Connection], T]) -> T:
        """Like `Database.run`, but commit only if the locks are still held."""
        ...

    def close(self) -> None:
        """Release all locks. They are also released if the process dies."""
        ...


class Dialect(Protocol):
    """What depends on the kind of database.

    Attributes:
        driver_error: Base class of the driver's errors.
        secrets: Parts of the database's URL that no error may quote.
        one_writer: Whether only one transaction at a time can write.
    """

    driver_error: type[Exception]
    secrets: tuple[str, ...]
    one_writer: bool

    def translate_error(self, exc: Exception) -> PipelineError:
        """Return the `PipelineError` for an error of SQLAlchemy or of the driver."""
        ...

    def write_lock(self) -> AbstractContextManager[object]:
        """Return a lock that threads of this process hold around each writing transaction."""
        ...

    def schema_lock(self, database: Database) -> AbstractContextManager[object]:
        """Return a lock that one process at a time holds while it creates or changes tables."""
        ...

    def tune_tables(self, connection: Connection) -> None:
        """Apply settings to new tables that their declaration does not express."""
        ...

    def locks(self, database: Database) -> Locks:
        """Return a set of locks with none acquired yet."""
        ...


class Database:
    """An engine and its dialect. Thread-safe.

    Attributes:
        engine: The SQLAlchemy engine.
        dialect: What depends on the kind of database.
        where: The database as shown to users, without a password.
    """

    def __init__(self, engine: Engine, dialect: Dialect, *, where: str) -> None:
        self.engine = engine
        self.dialect = dialect
        self.where = where
        # Connections that are not closed warn when they are garbage-collected.
        self._finalizer = weakref.finalize(self, engine.dispose)
        self._group_commit = GroupCommit() if dialect.one_writer else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read-only transaction with a consistent snapshot.

        Raises:
            RetryableError: The database is busy, or cannot be reached.
            StorageError: The database cannot be used.
        """
        with self._transaction(nullcontext(), writes=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that commits when the block ends, and rolls back on an error.

        It sees what other writers have committed. Rows that it selects "for update" cannot be
        changed by them until it ends.

        Raises:
            RetryableError: As for `read`.
            StorageError: As for `read`, or the disk is full.
        """
        with self._transaction(self.dialect.write_lock(), writes=True) as connection:
            yield connection

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction like that of `write`, and return its result after the commit.

        With a single-writer database, the transaction may include the work of other threads.

        Args:
            work: May be called twice; its first transaction is rolled back by then.

        Raises:
            RetryableError: As for `write`.
            StorageError: As for `write`.
        """
        if self._group_commit is not None:
            return self._group_commit.run(work, write=self.write)
        with self.write() as connection:
            return work(connection)

    def locks(self) -> Locks:
        """Return a set of locks; `close` it, or they are held until the process ends."""
        return self.dialect.locks(self)

    def close(self) -> None:
        """Close the idle connections. Using the database again opens new ones."""
        self.engine.dispose()

    @contextmanager
    def _transaction(
        self, held: AbstractContextManager[object], *, writes: bool
    ) -> Iterator[Connection]:
        with self.translated_errors(), held, self.engine.connect() as connection:
            connection.execution_options(**{WRITES: writes})
            with connection.begin():
                yield connection

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise database errors from the block as `PipelineError`."""
        try:
            yield
        except (SQLAlchemyError, self.dialect.driver_error) as exc:
            quotes = any(secret in str(exc) for secret in self.dialect.secrets)
            raise self.dialect.translate_error(exc) from (None if quotes else exc)

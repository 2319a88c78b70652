"""Short transactions on the ledger's database, and its errors in our words.

The one thing that knows which database it is, is handed in as a `Dialect`; everything
else in this package is the same SQL for all.
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


class Together:
    """Joins the work of threads on one database. For several threads at once."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._waiting: deque[_Job] = deque()

    @property
    def waiting(self) -> int:
        """How many threads wait to be written for."""
        return len(self._waiting)

    def do(self, work: Callable[[Connection], T], *, write: Write) -> T:
        """What `work` returns, once it is committed.

        Args:
            work: May be called twice; what it did the first time is undone by then.
            write: `Database.write`, of the same database each time.

        Raises:
            Exception: What `work`, or a transaction with nothing else in it, raises.
        """
        job = _Job(work)
        self._waiting.append(job)
        with self._turn:
            if not (job.done or job.alone):
                self._do_waiting(write)
            if not job.done:
                with write() as connection:
                    job.result = work(connection)
        result: T = job.result
        return result

    def _do_waiting(self, write: Write) -> None:
        """Do the work of all who wait; without an error they are `done`."""
        # Only who has the turn takes any away, so there are at least so many.
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
    """One thread's work.

    Attributes:
        done: It is committed, and `result` is what it returned.
        alone: It is to be done in a transaction of its own, unless it is `done`.
    """

    __slots__ = ("alone", "done", "result", "work")

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.done = False
        self.alone = False


# Execution option of a connection: what it is opened for.
WRITES = "bk_pipeline_writes"


class Locks(Protocol):
    """Locks that are held together. For several threads at once."""

    def try_lock(self, key: str) -> bool:
        """Whether the lock is ours now; False if somebody else has it."""
        ...

    def write(self) -> AbstractContextManager[Connection]:
        """`Database.write`, but nothing is committed unless the locks are still held then.

        Raises:
            RetryableError: They were lost, and somebody else may have them.
        """
        ...

    def do(self, work: Callable[[Connection], T]) -> T:
        """`Database.do`, with the same proviso."""
        ...

    def close(self) -> None:
        """Release all of them. The holder's death does so too."""
        ...


class Dialect(Protocol):
    """What differs from database to database."""

    driver_error: type[Exception]
    # Parts of the database's URL that no error may quote.
    secrets: tuple[str, ...]
    # Whether only one transaction at a time can write.
    one_writer: bool

    def explain(self, exc: Exception) -> PipelineError:
        """The error of ours for one of SQLAlchemy's or the driver's; made, not raised."""
        ...

    def writing(self) -> AbstractContextManager[object]:
        """Held around each writing transaction, by the threads of this process."""
        ...

    def changing_schema(self, database: Database) -> AbstractContextManager[object]:
        """Held while tables are made or changed, by one process at a time."""
        ...

    def tune(self, connection: Connection) -> None:
        """Whatever tables that were just made need besides what is declared of them."""
        ...

    def locks(self, database: Database) -> Locks:
        """None of them taken yet."""
        ...


class Database:
    """An engine and its dialect. For several threads at once.

    `where` names the database to people; no password is in it.
    """

    def __init__(self, engine: Engine, dialect: Dialect, *, where: str) -> None:
        self.engine = engine
        self.dialect = dialect
        self.where = where
        # Connections that are not closed would warn when they are collected.
        self._finalizer = weakref.finalize(self, engine.dispose)
        self._together = Together() if dialect.one_writer else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent look at the tables.

        Raises:
            RetryableError: The database is busy, or cannot be reached.
            StorageError: It cannot be used.
        """
        with self._transaction(nullcontext(), writes=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, or undone by its error.

        It sees what other writers have committed. What it has selected "for update" none of
        them can change until it ends.

        Raises:
            RetryableError: As for `read`.
            StorageError: As for `read`; a full disk among the reasons.
        """
        with self._transaction(self.dialect.writing(), writes=True) as connection:
            yield connection

    def do(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, done in a transaction like that of `write`, and committed.

        Where only one can write at a time, it may be one with the work of other threads.

        Args:
            work: May be called twice; what it did the first time is undone by then.

        Raises:
            RetryableError: As for `write`.
            StorageError: As for `write`.
        """
        if self._together is not None:
            return self._together.do(work, write=self.write)
        with self.write() as connection:
            return work(connection)

    def locks(self) -> Locks:
        """Locks to take; `close` them, or they stay until this process ends."""
        return self.dialect.locks(self)

    def close(self) -> None:
        """Close the idle connections. Using the database again opens new ones."""
        self.engine.dispose()

    @contextmanager
    def _transaction(
        self, held: AbstractContextManager[object], *, writes: bool
    ) -> Iterator[Connection]:
        with self.explained(), held, self.engine.connect() as connection:
            connection.execution_options(**{WRITES: writes})
            with connection.begin():
                yield connection

    @contextmanager
    def explained(self) -> Iterator[None]:
        """A block whose database errors come out in our words."""
        try:
            yield
        except (SQLAlchemyError, self.dialect.driver_error) as exc:
            quotes = any(secret in str(exc) for secret in self.dialect.secrets)
            raise self.dialect.explain(exc) from (None if quotes else exc)

"""Taking turns: one delivery of a day to a destination at a time.

What is in doubt when a turn begins is therefore from runs that have ended. What only the
holder of a turn may write goes through the locks of that turn: should they be lost with a
connection, it stops there, and does not come between those who have them now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from hashlib import sha256
from threading import Lock
from typing import TypeVar

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.exc import SQLAlchemyError

from bk_pipeline.clock import Clock
from bk_pipeline.errors import PipelineError, RetryableError
from bk_pipeline.ledger.database import WRITES, Database, Locks

T = TypeVar("T")
FIRST_LOOK_S = 0.1
LONGEST_LOOK_S = 2.0
# A wait is announced if it is longer than this.
QUIET_S = 1.0


class Turns:
    """The turns that one ledger has taken. For several threads at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._held: dict[tuple[str, str], Locks] = {}

    @contextmanager
    def take(
        self,
        destination: str,
        days: Iterable[str],
        *,
        on_wait: Callable[[str], None] | None,
        timeout_s: float,
    ) -> Iterator[Locks]:
        """A block that only one process or thread is in, for this destination and these days.

        Days are taken in order, so that two who want several do not wait for each other.

        Raises:
            RetryableError: Somebody else is in it for longer than `timeout_s`.
        """
        until = self._clock.monotonic() + timeout_s
        held: dict[tuple[str, str], Locks] = {}
        with closing(self._database.locks()) as locks:
            for day in sorted(days):
                pause_s, began_at, announced = FIRST_LOOK_S, self._clock.monotonic(), False
                while not locks.try_lock(f"{destination}\0{day}"):
                    if self._clock.monotonic() >= until:
                        raise RetryableError(
                            f"Another run has been delivering {day} to {destination} for more "
                            f"than {timeout_s:.0f} s. Run again when it has ended."
                        )
                    waited_s = self._clock.monotonic() - began_at
                    if on_wait is not None and not announced and waited_s >= QUIET_S:
                        announced = True
                        on_wait(f"{day}: waiting for another run that delivers it to {destination}")
                    self._clock.sleep(pause_s)
                    pause_s = min(pause_s * 2, LONGEST_LOOK_S)
                held[destination, day] = locks
            self._held.update(held)
            try:
                yield locks
            finally:
                for key in held:
                    del self._held[key]

    def write(self, destination: str, day: str) -> AbstractContextManager[Connection]:
        """A transaction under the turn that this ledger has for the day, if it has it."""
        return self._writer(destination, day).write()

    def do(self, destination: str, day: str, work: Callable[[Connection], T]) -> T:
        """`Database.do` under the turn that this ledger has for the day, if it has it."""
        return self._writer(destination, day).do(work)

    def _writer(self, destination: str, day: str) -> Locks | Database:
        return self._held.get((destination, day), self._database)


_TRY = select(func.pg_try_advisory_lock(bindparam("number")))
_WAIT = select(func.pg_advisory_lock(bindparam("number")))
_RELEASE = select(func.pg_advisory_unlock_all())
_SESSION = select(func.pg_backend_pid())


def lock_number(key: str) -> int:
    """The 64 bits by which PostgreSQL knows a lock; the same in every version of ours."""
    digest = sha256(f"bk_pipeline ledger\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


class SessionLocks:
    """The locks of one session, on a connection apart from the pool. For several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_at_a_time = Lock()
        self._connection: Connection | None = None
        self._session: int | None = None

    def try_lock(self, key: str) -> bool:
        with self.write() as connection:
            return bool(connection.execute(_TRY, {"number": lock_number(key)}).scalar_one())

    def lock(self, key: str) -> None:
        """The same, waiting as long as for any lock of the database.

        Raises:
            RetryableError: Somebody has it for longer.
        """
        with self.write() as connection:
            connection.execute(_WAIT, {"number": lock_number(key)})

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._one_at_a_time, self._database.explained():
            connection = self._connection or self._connect()
            if connection.invalidated:
                raise self._lost()
            try:
                with connection.begin():
                    self._check(connection)
                    yield connection
            except Exception as exc:
                if connection.invalidated:
                    raise self._lost() from exc
                raise

    def do(self, work: Callable[[Connection], T]) -> T:
        with self.write() as connection:
            return work(connection)

    def close(self) -> None:
        with self._one_at_a_time:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            # A server ends a session when it gets to it; the locks shall be free at once.
            with suppress(SQLAlchemyError), closing(connection):
                if not connection.invalidated:
                    connection.execute(_RELEASE)

    def _connect(self) -> Connection:
        connection = self._database.engine.connect()
        connection.detach()
        connection.execution_options(**{WRITES: True})
        with connection.begin():
            self._session = connection.execute(_SESSION).scalar_one()
        self._connection = connection
        return connection

    def _check(self, connection: Connection) -> None:
        """A pooler in between may hand each transaction to another session."""
        if connection.execute(_SESSION).scalar_one() != self._session:
            raise self._lost()

    def _lost(self) -> PipelineError:
        return RetryableError(
            f"The connection to the ledger {self._database.where} broke, and with it the turn to "
            "deliver: another run may have it now, so this one stops. Run again; behind a "
            "pooler like PgBouncer the ledger needs its session mode."
        )

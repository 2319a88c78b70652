"""Delivery locks: at most one delivery of a day to a destination at a time.

So items that are in doubt when a delivery begins are from runs that have ended. Writes that need
the lock go through it: if it was lost with its connection, they fail instead of interfering with
the new holder.
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
FIRST_POLL_S = 0.1
MAX_POLL_S = 2.0
# A longer wait is announced.
ANNOUNCE_AFTER_S = 1.0


class DeliveryLocks:
    """The delivery locks that one ledger holds. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._held: dict[tuple[str, str], Locks] = {}

    @contextmanager
    def hold(
        self,
        destination: str,
        days: Iterable[str],
        *,
        on_wait: Callable[[str], None] | None,
        timeout_s: float,
    ) -> Iterator[Locks]:
        """Hold the locks of `days` for `destination` during the block.

        They are acquired in order of the day, so that two callers cannot deadlock.

        Raises:
            RetryableError: Another run holds one of them for longer than `timeout_s`.
        """
        deadline = self._clock.monotonic() + timeout_s
        held: dict[tuple[str, str], Locks] = {}
        with closing(self._database.locks()) as locks:
            for day in sorted(days):
                pause_s, started_at, announced = FIRST_POLL_S, self._clock.monotonic(), False
                while not locks.try_lock(f"{destination}\0{day}"):
                    if self._clock.monotonic() >= deadline:
                        raise RetryableError(
                            f"Another run has been delivering {day} to {destination} for more "
                            f"than {timeout_s:.0f} s. Run again when it has ended."
                        )
                    waited_s = self._clock.monotonic() - started_at
                    if on_wait is not None and not announced and waited_s >= ANNOUNCE_AFTER_S:
                        announced = True
                        on_wait(f"{day}: waiting for another run that delivers it to {destination}")
                    self._clock.sleep(pause_s)
                    pause_s = min(pause_s * 2, MAX_POLL_S)
                held[destination, day] = locks
            self._held.update(held)
            try:
                yield locks
            finally:
                for key in held:
                    del self._held[key]

    def write(self, destination: str, day: str) -> AbstractContextManager[Connection]:
        """Open a transaction under the lock of the day, if this ledger holds it."""
        return self._writer(destination, day).write()

    def run(self, destination: str, day: str, work: Callable[[Connection], T]) -> T:
        """Like `Database.run`, under the lock of the day, if this ledger holds it."""
        return self._writer(destination, day).run(work)

    def _writer(self, destination: str, day: str) -> Locks | Database:
        return self._held.get((destination, day), self._database)


_TRY = select(func.pg_try_advisory_lock(bindparam("number")))
_WAIT = select(func.pg_advisory_lock(bindparam("number")))
_RELEASE = select(func.pg_advisory_unlock_all())
_SESSION = select(func.pg_backend_pid())


def lock_number(key: str) -> int:
    """Return the 64-bit number of an advisory lock. It must never change between versions."""
    digest = sha256(f"bk_pipeline ledger\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


class SessionLocks:
    """Advisory locks of one PostgreSQL session, on a connection outside the pool. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_at_a_time = Lock()
        self._connection: Connection | None = None
        self._session: int | None = None

    def try_lock(self, key: str) -> bool:
        """Acquire the lock `key`; return False if another session has it."""
        with self.write() as connection:
            return bool(connection.execute(_TRY, {"number": lock_number(key)}).scalar_one())

    def lock(self, key: str) -> None:
        """Acquire the lock `key`, waiting up to the session's lock timeout.

        Raises:
            RetryableError: Another session holds it for longer.
        """
        with self.write() as connection:
            connection.execute(_WAIT, {"number": lock_number(key)})

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction on the session that holds the locks."""
        with self._one_at_a_time, self._database.translated_errors():
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

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction on the session that holds the locks."""
        with self.write() as connection:
            return work(connection)

    def close(self) -> None:
        """Release all locks and close the connection."""
        with self._one_at_a_time:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            # A server may take a while to end a session; release the locks at once.
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
        """Detect a pooler that assigns transactions to different sessions."""
        if connection.execute(_SESSION).scalar_one() != self._session:
            raise self._lost()

    def _lost(self) -> PipelineError:
        return RetryableError(
            f"The connection to the ledger {self._database.where} broke, and the delivery lock was "
            "lost with it: another run may hold it now, so this one stops. Run again; behind a "
            "pooler like PgBouncer the ledger needs session mode."
        )

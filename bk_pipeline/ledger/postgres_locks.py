"""Advisory locks of a PostgreSQL session: they end with it, and it ends with its client.

A session can end without its client's knowing. So whatever only the holder of the locks may
write is written in that very session: if its commit succeeds, the locks were held at that
moment, and whoever gets them next sees what was committed. There is no gap between looking
and writing, and a session that is gone is never quietly replaced by a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from threading import Lock
from typing import TypeVar

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.exc import SQLAlchemyError

from bk_pipeline.errors import PipelineError, RetryableError
from bk_pipeline.ledger.database import WRITES, Database

T = TypeVar("T")

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

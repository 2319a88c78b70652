"""PostgreSQL: the one place that knows how it is connected to and set up.

Writers lock rows and see what others committed (READ COMMITTED, said explicitly: a server's
own default may differ); readers see one moment. A commit is on the server's disk before a
batch leaves, whatever the server's default. What a URL's own `options` say goes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

import psycopg
from psycopg import IsolationLevel
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError

from bk_pipeline.errors import ConfigError, PipelineError
from bk_pipeline.ledger.database import WRITES, Database
from bk_pipeline.ledger.postgres_errors import explain
from bk_pipeline.ledger.postgres_locks import SessionLocks
from bk_pipeline.ledger.tables import batches, in_doubt, outcomes

DRIVER = "postgresql+psycopg"
# Connections kept; as many again and more are opened while they are needed.
POOL_SIZE = 5
POOL_OVERFLOW = 15
SHORTEST_SECRET = 12

# libpq's names. A peer that is gone without a word is noticed within a minute.
_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "bk_pipeline",
    "client_encoding": "utf8",
}
# The server's names, for the other direction: locks of a host that is gone are released.
_SESSION = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "statement_timeout": "300000",
    "idle_in_transaction_session_timeout": "60000",
    "idle_session_timeout": "0",  # the holder of a turn may be waiting for a destination
}
# One statement; what this server does not know, or the URL has said, is left alone.
_SET_UP = """
    SELECT set_config(name, wanted.value, false)
    FROM pg_settings
    JOIN unnest(%(names)s::text[], %(values)s::text[]) AS wanted (of, value) ON name = wanted.of
    WHERE source <> 'client'
    UNION ALL
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'
"""


def open_postgres(url: str, *, busy_timeout_s: float) -> Database:
    """The database at `url`, of whatever PostgreSQL scheme; nothing is connected yet.

    Raises:
        ConfigError: It cannot be read as a URL.
    """
    try:
        address = make_url(url).set(drivername=DRIVER)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "The ledger's URL cannot be read. Give one like "
            "postgresql://user:password@host:5432/database."
        ) from None
    engine = create_engine(
        address,
        connect_args={
            name: value for name, value in _CONNECTION.items() if name not in address.query
        },
        hide_parameters=True,
        max_overflow=POOL_OVERFLOW,
        pool_pre_ping=True,
        pool_size=POOL_SIZE,
        pool_timeout=busy_timeout_s,
    )
    settings = {**_SESSION, "lock_timeout": str(int(busy_timeout_s * 1_000))}
    _prepare(engine, settings)
    return Database(engine, _Postgres(address), where=_where(address))


def _where(address: URL) -> str:
    host = address.host or address.query.get("host") or "local socket"
    shown = host if isinstance(host, str) else ",".join(host)
    port = f":{address.port}" if address.port else ""
    return f"{shown}{port}/{address.database or address.query.get('dbname') or ''}"


def _prepare(engine: Engine, settings: Mapping[str, str]) -> None:
    wanted = {"names": list(settings), "values": list(settings.values())}

    @event.listens_for(engine, "connect")
    def connected(connection: psycopg.Connection, _: Any) -> None:
        connection.execute(_SET_UP, wanted)
        connection.commit()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        raw: Any = connection.connection.dbapi_connection
        writes = connection.get_execution_options().get(WRITES, False)
        # Sent along with the driver's own BEGIN.
        raw.isolation_level = (
            IsolationLevel.READ_COMMITTED if writes else IsolationLevel.REPEATABLE_READ
        )
        raw.read_only = None if writes else True


def _secrets(address: URL) -> tuple[str, ...]:
    """The password, and whatever stands behind the `?`: the driver quotes what it cannot take.

    What is too short to be a secret, like a number of seconds, stays readable.
    """
    values = [value for one in address.normalized_query.values() for value in one]
    found = [str(address.password or ""), *values, *address.normalized_query]
    return tuple(one for one in found if len(one) >= SHORTEST_SECRET or (one and one == found[0]))


class _Postgres:
    """The dialect. Locks are advisory ones of a session: the server drops a dead client's."""

    driver_error: type[Exception] = psycopg.Error
    one_writer = False

    def __init__(self, address: URL) -> None:
        self._where = _where(address)
        self.secrets = _secrets(address)

    def explain(self, exc: Exception) -> PipelineError:
        return explain(exc, where=self._where, secrets=self.secrets)

    def writing(self) -> AbstractContextManager[object]:
        return nullcontext()

    @contextmanager
    def changing_schema(self, database: Database) -> Iterator[None]:
        with closing(SessionLocks(database)) as locks:
            locks.lock("schema")
            yield

    def tune(self, connection: Connection) -> None:
        """Do not try to compress what is random; clear away soon what lives for a second."""
        for table in (outcomes, in_doubt):
            connection.execute(
                text(f"ALTER TABLE {table.name} ALTER COLUMN item_ids SET STORAGE EXTERNAL")
            )
        for table in (batches, in_doubt):
            connection.execute(
                text(
                    f"ALTER TABLE {table.name} SET (autovacuum_vacuum_scale_factor = 0, "
                    "autovacuum_vacuum_threshold = 1000)"
                )
            )

    def locks(self, database: Database) -> SessionLocks:
        return SessionLocks(database)

"""Everything specific to PostgreSQL: connections, session settings, errors.

Writers lock rows and see what others committed (READ COMMITTED, set explicitly because a server's
default may differ); readers use REPEATABLE READ, a consistent snapshot. A commit is on the server's
disk before a batch is sent, whatever the server's default. The `options` of the URL take
precedence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

import psycopg
from psycopg import IsolationLevel
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bk_pipeline.errors import ConfigError, PipelineError, RetryableError, StorageError
from bk_pipeline.ledger.database import WRITES, Database
from bk_pipeline.ledger.locks import SessionLocks
from bk_pipeline.ledger.schema import batches, in_doubt, outcomes

MAX_MESSAGE_CHARS = 200
# Prefixes of SQLSTATE codes (PostgreSQL manual, appendix A), and what to do; the first match wins.
_RETRYABLE = (
    (("53300",), "it has no connection left. Raise max_connections, or run fewer at once"),
    (("57P",), "it is shutting down or starting. Run again when it is up"),
    (("40", "25P03"), "another run interfered. Run again"),
    (("55P03", "57014"), "another session has held a lock for too long. Check pg_stat_activity"),
    (("08", "53200"), "the connection broke. Run again"),
)
_PERMANENT = (
    (("28",), "access is denied. Check user and password in BK_PIPELINE_LEDGER_URL"),
    (("3D",), "the database does not exist. Create it, or correct BK_PIPELINE_LEDGER_URL"),
    (("3F",), "the schema does not exist. Create it, or correct search_path"),
    (("42501",), "a permission is missing. Grant the user CREATE on the schema, or its tables"),
    (("25006",), "it is read-only. Name the primary server in BK_PIPELINE_LEDGER_URL"),
    (("53100",), "the server's disk is full. Make room and run again"),
    (("42P01", "42703"), "tables or columns are missing. Restore them from a backup"),
    (("58", "XX", "F0"), "the server cannot read or write its files. Check its log"),
)
# For errors without a code: a part of the message, and the code that it stands for.
_CODES_BY_TEXT = (
    ("too many clients", "53300"),
    ("remaining connection slots", "53300"),
    ("too many connections", "53300"),
    ("the database system is", "57P03"),  # starting up, shutting down, recovering
    ("permission denied", "42501"),
    ("password", "28P01"),
    ("authentication failed", "28P01"),
    ("pg_hba.conf", "28000"),
    ('role "', "28000"),
    ('database "', "3D000"),
)


def translate_error(exc: Exception, *, where: str, secrets: Collection[str]) -> PipelineError:
    """Return the `PipelineError` for an error of the driver or of SQLAlchemy.

    Args:
        exc: The error.
        where: The database, as shown to users.
        secrets: Strings that must not appear in the message.
    """
    if isinstance(exc, PoolTimeout):
        return RetryableError(
            f"The ledger {where} cannot be used now: all connections of this process are in use. "
            "Run fewer deliveries at once."
        )
    cause = exc.orig if isinstance(exc, DBAPIError) else exc
    message = _server_message(cause, secrets)
    code = _code(cause)
    for prefixes, remedy in _PERMANENT:
        if code.startswith(prefixes):
            return StorageError(f"The ledger {where} cannot be used: {remedy}. {message}")
    for prefixes, remedy in _RETRYABLE:
        if code.startswith(prefixes):
            return RetryableError(f"The ledger {where} cannot be used now: {remedy}. {message}")
    if not code and isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
        return RetryableError(
            f"The ledger {where} cannot be reached. Check that PostgreSQL runs there and that "
            f"BK_PIPELINE_LEDGER_URL names it, and run again. {message}"
        )
    return StorageError(
        f"The ledger {where} cannot be used. Check that the database belongs to this program. {message}"
    )


def _code(cause: object) -> str:
    code = getattr(cause, "sqlstate", None)
    if code is not None:
        return str(code)
    text = str(cause)
    # Only the server's own messages have FATAL; "connection refused" and the like do not.
    if isinstance(cause, psycopg.OperationalError) and ("FATAL" in text or "password" in text):
        return next((code for part, code in _CODES_BY_TEXT if part in text), "")
    return ""


def _server_message(cause: object, secrets: Collection[str]) -> str:
    """Return the server's message as a one-line sentence."""
    primary = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    text = primary or next(iter(str(cause).splitlines()), "") or type(cause).__name__
    for secret in secrets:
        text = text.replace(secret, "***")
    return f"PostgreSQL says: {text[:MAX_MESSAGE_CHARS].rstrip('. ')}."


DRIVER = "postgresql+psycopg"
# Connections kept open; `POOL_OVERFLOW` more are opened while they are needed.
POOL_SIZE = 5
POOL_OVERFLOW = 15
MIN_SECRET_CHARS = 12

# libpq parameters. A dead peer is detected within a minute.
_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "bk_pipeline",
    "client_encoding": "utf8",
}
# Server settings for the other direction, so that locks of a dead host are released.
_SESSION = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "statement_timeout": "300000",
    "idle_in_transaction_session_timeout": "60000",
    "idle_session_timeout": "0",  # the holder of a delivery lock may be waiting for a destination
}
# Skips settings that this server does not know or that the URL has set.
_SET_UP = """
    SELECT set_config(name, requested.value, false)
    FROM pg_settings
    JOIN unnest(%(names)s::text[], %(values)s::text[]) AS requested (setting, value)
        ON name = requested.setting
    WHERE source <> 'client'
    UNION ALL
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'
"""


def open_postgres(url: str, *, busy_timeout_s: float) -> Database:
    """Return the database at `url`, with any PostgreSQL scheme; does not connect yet.

    Args:
        url: The URL, with user and password.
        busy_timeout_s: How long to wait for a lock or a free connection, in seconds.

    Raises:
        ConfigError: The URL is malformed.
    """
    try:
        address = make_url(url).set(drivername=DRIVER)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "The ledger's URL is malformed. Give one like "
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
    values = {"names": list(settings), "values": list(settings.values())}

    @event.listens_for(engine, "connect")
    def connected(connection: psycopg.Connection, _: Any) -> None:
        connection.execute(_SET_UP, values)
        connection.commit()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        raw: Any = connection.connection.dbapi_connection
        writes = connection.get_execution_options().get(WRITES, False)
        # Sent with the driver's own BEGIN.
        raw.isolation_level = (
            IsolationLevel.READ_COMMITTED if writes else IsolationLevel.REPEATABLE_READ
        )
        raw.read_only = None if writes else True


def _secrets(address: URL) -> tuple[str, ...]:
    """Return the password and the query parameters: the driver quotes those it rejects.

    Values too short to be a secret, like a number of seconds, are left out.
    """
    values = [value for one in address.normalized_query.values() for value in one]
    found = [str(address.password or ""), *values, *address.normalized_query]
    return tuple(one for one in found if len(one) >= MIN_SECRET_CHARS or (one and one == found[0]))


class _Postgres:
    """The PostgreSQL dialect. Locks are session-level advisory locks, released if the client dies."""

    driver_error: type[Exception] = psycopg.Error
    one_writer = False

    def __init__(self, address: URL) -> None:
        self._where = _where(address)
        self.secrets = _secrets(address)

    def translate_error(self, exc: Exception) -> PipelineError:
        return translate_error(exc, where=self._where, secrets=self.secrets)

    def write_lock(self) -> AbstractContextManager[object]:
        return nullcontext()

    @contextmanager
    def schema_lock(self, database: Database) -> Iterator[None]:
        with closing(SessionLocks(database)) as locks:
            locks.lock("schema")
            yield

    def tune_tables(self, connection: Connection) -> None:
        """Turn off compression for random ids, and vacuum short-lived rows early."""
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

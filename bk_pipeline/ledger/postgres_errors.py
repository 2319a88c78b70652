"""What PostgreSQL and its driver complain of, in our words.

Servers give each error a code; a connection that was never made has only text, which here
decides no more than the advice and whether trying again may help. No password is in it.
"""

from __future__ import annotations

from collections.abc import Collection

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bk_pipeline.errors import PipelineError, RetryableError, StorageError

LONGEST_WORDS = 200
# Beginnings of SQLSTATE codes (PostgreSQL manual, appendix A), the first that fits.
_LATER = (
    (("53300",), "it has no connection left for us. Raise max_connections, or run fewer at once"),
    (("57P",), "it is shutting down or starting. Run again when it is up"),
    (("40", "25P03"), "another run came in between. Run again"),
    (("55P03", "57014"), "another session has it locked for too long. Look into pg_stat_activity"),
    (("08", "53200"), "the connection broke. Run again"),
)
_NEVER = (
    (("28",), "it does not let us in. Check user and password in BK_PIPELINE_LEDGER_URL"),
    (("3D",), "the database does not exist. Create it, or correct BK_PIPELINE_LEDGER_URL"),
    (("3F",), "the schema does not exist. Create it, or correct search_path"),
    (("42501",), "a permission is missing. Grant the user CREATE on the schema, or its tables"),
    (("25006",), "it is read-only. Name the primary server in BK_PIPELINE_LEDGER_URL"),
    (("53100",), "the server's disk is full. Make room and run again"),
    (("42P01", "42703"), "tables or columns are missing. Restore them from a backup"),
    (("58", "XX", "F0"), "the server cannot read or write its files. Look into its log"),
)
# Where there is no code: what the text holds, and the code that it would have had.
_CODES_OF_TEXTS = (
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


def explain(exc: Exception, *, where: str, secrets: Collection[str]) -> PipelineError:
    """The error of ours for one of the driver's or of SQLAlchemy's.

    Args:
        exc: What was raised.
        where: The database as people are told of it.
        secrets: What must not be in the message.
    """
    if isinstance(exc, PoolTimeout):
        return RetryableError(
            f"The ledger {where} cannot be asked: all connections of this process are in use. "
            "Run fewer deliveries at once."
        )
    cause = exc.orig if isinstance(exc, DBAPIError) else exc
    words = _words(cause, secrets)
    code = _code(cause)
    for beginnings, remedy in _NEVER:
        if code.startswith(beginnings):
            return StorageError(f"The ledger {where} cannot be used: {remedy}. {words}")
    for beginnings, remedy in _LATER:
        if code.startswith(beginnings):
            return RetryableError(f"The ledger {where} cannot be used now: {remedy}. {words}")
    if not code and isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
        return RetryableError(
            f"The ledger {where} cannot be reached. Check that PostgreSQL runs there and that "
            f"BK_PIPELINE_LEDGER_URL names it, and run again. {words}"
        )
    return StorageError(
        f"The ledger {where} cannot be used. Check that the database is for this program. {words}"
    )


def _code(cause: object) -> str:
    code = getattr(cause, "sqlstate", None)
    if code is not None:
        return str(code)
    text = str(cause)
    # Only what the server itself says; "connection refused" and the like have no FATAL.
    if isinstance(cause, psycopg.OperationalError) and ("FATAL" in text or "password" in text):
        return next((code for part, code in _CODES_OF_TEXTS if part in text), "")
    return ""


def _words(cause: object, secrets: Collection[str]) -> str:
    """What was said, as a sentence in one line."""
    primary = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    text = primary or next(iter(str(cause).splitlines()), "") or type(cause).__name__
    for secret in secrets:
        text = text.replace(secret, "***")
    return f"It says: {text[:LONGEST_WORDS].rstrip('. ')}."

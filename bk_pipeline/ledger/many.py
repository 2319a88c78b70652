"""One statement for many rows, without what SQLAlchemy does to the values of each.

All that goes through here is bytes, numbers and days, which every driver takes as they are.
To look at them takes SQLAlchemy several times as long as SQLite takes to write them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql.dml import UpdateBase

# Those whose parameters have names.
_DIALECTS: Mapping[str, Callable[[], Dialect]] = {
    "postgresql": psycopg.dialect,
    "sqlite": lambda: sqlite.dialect(paramstyle="named"),
}


def execute_many(
    connection: Connection, statement: UpdateBase, rows: Sequence[dict[str, Any]]
) -> CursorResult[Any]:
    """Execute a statement once for each of `rows`, which name its parameters; at least one."""
    return connection.exec_driver_sql(_text(connection.dialect.name, statement), list(rows))


@cache
def _text(dialect: str, statement: UpdateBase) -> str:
    return str(statement.compile(dialect=_DIALECTS[dialect]()))

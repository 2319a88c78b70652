"""Inserting rows that another writer may have inserted first.

The one statement that is not the same for all databases. Where its row is already there,
it waits for the writer of that row to commit, and leaves the row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from sqlalchemy import Connection, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite

_INSERTS: Mapping[str, Callable[[Table], postgresql.Insert | sqlite.Insert]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


def insert_new(connection: Connection, table: Table) -> Executable:
    """An INSERT for those rows that are not there yet."""
    return _made(connection.dialect.name, table)


@cache
def _made(dialect: str, table: Table) -> Executable:
    return _INSERTS[dialect](table).on_conflict_do_nothing()

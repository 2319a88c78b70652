"""Inserting rows that another writer may have inserted first.

The one statement that is not the same for all databases. Where its row is already there,
it waits for the writer of that row to commit, and leaves the row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Select, Table
from sqlalchemy.dialects import postgresql, sqlite

_INSERTS: Mapping[str, Callable[[Table], postgresql.Insert | sqlite.Insert]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


def insert_new(connection: Connection, table: Table, rows: Select[Any] | None = None) -> Executable:
    """An INSERT for those rows that are not there yet: those given to it, or what `rows` selects."""
    return _made(connection.dialect.name, table, rows)


@cache
def _made(dialect: str, table: Table, rows: Select[Any] | None) -> Executable:
    made = _INSERTS[dialect](table)
    if rows is not None:
        made = made.from_select(rows.selected_columns.keys(), rows)
    return made.on_conflict_do_nothing()

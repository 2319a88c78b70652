"""Sets of item ids as one value: 8 bytes each, sorted, end to end.

A row for a build instead of one for a span is what keeps the ledger small and its
statements few.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Dialect,
    Executable,
    Select,
    Table,
    bindparam,
    delete,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql.dml import UpdateBase

from bk_pipeline.ledger.tables import delivered_parts, destinations

ITEM_ID_BYTES = 8


def pack(item_ids: Iterable[bytes]) -> bytes:
    """The packed form of `item_ids`, each once. The same set always gives the same bytes."""
    return b"".join(sorted(set(item_ids)))


def unpack(packed: bytes) -> set[bytes]:
    """The ids in `packed`."""
    return {packed[at : at + ITEM_ID_BYTES] for at in range(0, len(packed), ITEM_ID_BYTES)}


def union(one: bytes, other: bytes) -> bytes:
    """The packed form of all ids in either."""
    # As numbers, highest byte first, they have the same order, and are made in one go.
    ids = {*_numbers(one), *_numbers(other)}
    return struct.pack(f">{len(ids)}Q", *sorted(ids))


def merged(packed: bytes, item_ids: Iterable[bytes]) -> bytes:
    """`packed` with `item_ids` added."""
    return pack(unpack(packed).union(item_ids))


def without(packed: bytes, item_ids: Iterable[bytes]) -> bytes:
    """`packed` less `item_ids`."""
    return pack(unpack(packed).difference(item_ids))


def _numbers(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(packed) // ITEM_ID_BYTES}Q", packed)


def count(packed_bytes: int) -> int:
    """How many ids are in so many bytes."""
    return packed_bytes // ITEM_ID_BYTES


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


_NUMBER = select(destinations.c.id).where(destinations.c.name == bindparam("name"))


def number_of(connection: Connection, name: str) -> int | None:
    """None if nothing was ever written down for the destination."""
    return connection.execute(_NUMBER, {"name": name}).scalar_one_or_none()


def number_for(connection: Connection, name: str) -> int:
    """The same, given to it now if need be."""
    number = number_of(connection, name)
    if number is None:
        connection.execute(insert_new(connection, destinations), {"name": name})
        number = number_of(connection, name)
        assert number is not None
    return number


def noted(connection: Connection, destination: str, day: str) -> set[str]:
    number = number_of(connection, destination)
    if number is None:
        return set()
    of_day = (delivered_parts.c.destination_id == number, delivered_parts.c.day == day)
    return set(connection.execute(select(delivered_parts.c.part).where(*of_day)).scalars())


def note(connection: Connection, destination: str, day: str, part: str) -> None:
    values = {"destination_id": number_for(connection, destination), "day": day, "part": part}
    connection.execute(insert_new(connection, delivered_parts), values)


def unnote(connection: Connection, number: int, days: Collection[str]) -> None:
    """Have all parts of `days` looked through again by the next delivery."""
    connection.execute(
        delete(delivered_parts).where(
            delivered_parts.c.destination_id == number, delivered_parts.c.day.in_(days)
        )
    )

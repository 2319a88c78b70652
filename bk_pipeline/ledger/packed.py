"""Packed sets of item ids, cached SQL statements, and marks of delivered parts.

A packed set is the sorted ids, 8 bytes each, concatenated. One row for a build instead of one for a
span keeps the ledger small and its statements few.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

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
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.dml import UpdateBase

from bk_pipeline.ledger.schema import delivered_parts, destinations

ITEM_ID_BYTES = 8


def pack(item_ids: Iterable[bytes]) -> bytes:
    """Return the packed form of `item_ids`. Equal sets give equal bytes."""
    return b"".join(sorted(set(item_ids)))


def unpack(packed: bytes) -> set[bytes]:
    """Return the ids in `packed`."""
    return {packed[at : at + ITEM_ID_BYTES] for at in range(0, len(packed), ITEM_ID_BYTES)}


def union(one: bytes, other: bytes) -> bytes:
    """Return the packed union of two packed sets."""
    # Big-endian numbers sort like the ids, and are unpacked in one call.
    ids = {*_numbers(one), *_numbers(other)}
    return struct.pack(f">{len(ids)}Q", *sorted(ids))


def merged(packed: bytes, item_ids: Iterable[bytes]) -> bytes:
    """Return `packed` with `item_ids` added."""
    return pack(unpack(packed).union(item_ids))


def without(packed: bytes, item_ids: Iterable[bytes]) -> bytes:
    """Return `packed` without `item_ids`."""
    return pack(unpack(packed).difference(item_ids))


def _numbers(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(packed) // ITEM_ID_BYTES}Q", packed)


def count(packed_bytes: int) -> int:
    """Return the number of ids in a packed set of this length."""
    return packed_bytes // ITEM_ID_BYTES


if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql


def insert_new(connection: Connection, table: Table, rows: Select[Any] | None = None) -> Executable:
    """Return an INSERT that skips existing rows, of given rows or of those that `rows` selects."""
    return _made(connection.dialect.name, table, rows)


@cache
def _made(dialect: str, table: Table, rows: Select[Any] | None) -> Executable:
    made = _insert(dialect, table)
    if rows is not None:
        made = made.from_select(rows.selected_columns.keys(), rows)
    return made.on_conflict_do_nothing()


def _insert(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    if dialect == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415  # most ledgers are files

    return postgresql.insert(table)


def execute_many(
    connection: Connection, statement: UpdateBase, rows: Sequence[dict[str, Any]]
) -> CursorResult[Any]:
    """Execute `statement` for each of `rows` (at least one), which map parameter names to values."""
    return connection.exec_driver_sql(_text(connection.dialect.name, statement), list(rows))


@cache
def _text(dialect: str, statement: UpdateBase) -> str:
    return str(statement.compile(dialect=_with_named_parameters(dialect)))


def _with_named_parameters(dialect: str) -> Dialect:
    if dialect == "sqlite":
        return sqlite.dialect(paramstyle="named")
    from sqlalchemy.dialects.postgresql import psycopg  # noqa: PLC0415  # most ledgers are files

    return psycopg.dialect()  # type: ignore[no-untyped-call]  # as SQLAlchemy has it


_NUMBER = select(destinations.c.id).where(destinations.c.name == bindparam("name"))


def destination_id_of(connection: Connection, name: str) -> int | None:
    """Return the number of the destination `name`; None if the ledger has none for it."""
    return connection.execute(_NUMBER, {"name": name}).scalar_one_or_none()


def ensure_destination_id(connection: Connection, name: str) -> int:
    """Return the number of the destination `name`, assigning one if necessary."""
    number = destination_id_of(connection, name)
    if number is None:
        connection.execute(insert_new(connection, destinations), {"name": name})
        number = destination_id_of(connection, name)
        assert number is not None
    return number


def parts_delivered(connection: Connection, destination: str, day: str) -> set[str]:
    """Return the parts of `day` that are marked as delivered."""
    number = destination_id_of(connection, destination)
    if number is None:
        return set()
    of_day = (delivered_parts.c.destination_id == number, delivered_parts.c.day == day)
    return set(connection.execute(select(delivered_parts.c.part).where(*of_day)).scalars())


def mark_delivered(connection: Connection, destination: str, day: str, part: str) -> None:
    """Mark `part` as holding no unsettled item."""
    values = {
        "destination_id": ensure_destination_id(connection, destination),
        "day": day,
        "part": part,
    }
    connection.execute(insert_new(connection, delivered_parts), values)


def unmark_delivered(connection: Connection, number: int, days: Collection[str]) -> None:
    """Remove the marks of all parts of `days`, so that the next delivery reads them again."""
    connection.execute(
        delete(delivered_parts).where(
            delivered_parts.c.destination_id == number, delivered_parts.c.day.in_(days)
        )
    )

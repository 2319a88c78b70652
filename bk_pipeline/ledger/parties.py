"""Destinations by name: the number under which the other tables know each."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from bk_pipeline.ledger.inserting import insert_new
from bk_pipeline.ledger.tables import destinations

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

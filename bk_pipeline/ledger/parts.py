"""Which parts of a day a destination has settled wholly."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, select

from bk_pipeline.ledger.inserting import insert_new
from bk_pipeline.ledger.parties import number_for, number_of
from bk_pipeline.ledger.tables import delivered_parts


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

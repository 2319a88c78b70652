"""How far each day was delivered, so that a ledger that has lost some of it can be told.

The span store keeps the same counts (`store/delivery_records.py`). The ledger counts first, then
the store, then spans leave: a ledger whose count is behind the store's is an older copy, another
one, or a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import ColumnElement, Connection, ScalarSelect, func, insert, select, update

from bk_pipeline.ledger.parties import number_for, number_of
from bk_pipeline.ledger.tables import batches, deliveries, identity, outcomes


def identity_of(connection: Connection) -> tuple[str, bool]:
    """The ledger's id, and whether it was in use before stores kept delivery records."""
    ledger, predates_records = connection.execute(select(identity)).one()
    return ledger, predates_records


def counts(connection: Connection, destination: str, day: str) -> dict[str, int]:
    """The counts of `day`, by ledger id."""
    chosen = select(deliveries.c.ledger, deliveries.c.count.label("count_")).where(
        deliveries.c.destination_id == number_of(connection, destination), deliveries.c.day == day
    )
    return {row.ledger: row.count_ for row in connection.execute(chosen)}


def knows_day(connection: Connection, destination: str, day: str) -> bool:
    """Whether anything of `day` is settled or in doubt."""
    number = number_of(connection, destination)
    return any(
        connection.execute(
            select(table.c.day).where(table.c.destination_id == number, table.c.day == day).limit(1)
        ).first()
        for table in (outcomes, batches)
    )


def has_lost_items(connection: Connection, destination: str, day: str) -> bool:
    """Whether less is settled of `day` than was when its count was last raised."""
    number = number_of(connection, destination)
    expected = select(func.max(deliveries.c.settled_bytes)).where(
        deliveries.c.destination_id == number, deliveries.c.day == day
    )
    settled = select(_settled_bytes(number, day))
    return (connection.execute(expected).scalar_one() or 0) > connection.execute(
        settled
    ).scalar_one()


def raise_count(
    connection: Connection, destination: str, day: str, ledger: str, seen: Mapping[str, int]
) -> int:
    """The count of `ledger`, this one, for `day`: higher than before, and than `seen` has it.

    The counts of other ledgers become those of `seen`.
    """
    number = number_for(connection, destination)
    known = counts(connection, destination, day)
    count = max(known.get(ledger, 0), seen.get(ledger, 0)) + 1
    for name in {**seen, ledger: count}:
        values = {
            "count": count if name == ledger else seen[name],
            "settled_bytes": _settled_bytes(number, day) if name == ledger else 0,
        }
        key = {"destination_id": number, "day": day, "ledger": name}
        if name in known:
            same = [deliveries.c[column] == value for column, value in key.items()]
            connection.execute(update(deliveries).where(*same).values(**values))
        else:
            connection.execute(insert(deliveries).values(**key, **values))
    return count


def expect_what_is_left(connection: Connection, number: int, days: Collection[str]) -> None:
    """Note that items of `days` were taken out of the ledger on purpose."""
    of_days = (deliveries.c.destination_id == number, deliveries.c.day.in_(days))
    left = _settled_bytes(number, deliveries.c.day)
    own = deliveries.c.ledger == select(identity.c.id).scalar_subquery()
    connection.execute(update(deliveries).where(*of_days, own).values(settled_bytes=left))


def _settled_bytes(number: int | None, day: str | ColumnElement[str]) -> ScalarSelect[int]:
    length = func.coalesce(func.sum(func.length(outcomes.c.item_ids)), 0)
    of_day = (outcomes.c.destination_id == number, outcomes.c.day == day)
    return select(length).where(*of_day).scalar_subquery()

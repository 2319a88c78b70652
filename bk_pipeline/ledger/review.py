"""The ledger as people ask for it: what is there, what was rejected, and sending it again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    delete,
    distinct,
    false,
    func,
    select,
    union,
)

from bk_pipeline.contracts import Rejection
from bk_pipeline.ledger import settled
from bk_pipeline.ledger.batches import expect_what_is_left
from bk_pipeline.ledger.packed import count, number_of, unnote, unpack
from bk_pipeline.ledger.tables import (
    Outcome,
    batches,
    delivered_parts,
    destinations,
    in_doubt,
    outcomes,
    rejections,
)

PRESUMED_REASON = "in doubt, presumed sent"


@dataclass(frozen=True, slots=True)
class Summary:
    """One destination in numbers. Items are spans, and at Honeycomb links too.

    `first_day` and `last_day` are those that anything is settled of, None if nothing is.
    """

    destination: str
    accepted: int = 0
    rejected: int = 0
    presumed: int = 0
    in_doubt: int = 0
    builds: int = 0
    first_day: str | None = None
    last_day: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedRejection(Rejection):
    """A rejection as the ledger has recorded it, of which day and when."""

    day: str
    rejected_at: datetime


@dataclass(frozen=True, slots=True)
class Presumed:
    """Items of one build that were in doubt and taken for sent."""

    day: str
    trace_id: bytes
    item_ids: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rejected and presumed items are meant: those for which all that is given holds."""

    day: str | None = None
    trace_id: bytes | None = None
    reason_like: str | None = None

    def rejected(self, number: int | None) -> list[ColumnElement[bool]]:
        """The condition on `rejections`."""
        where = self._where(rejections, number)
        if self.reason_like is not None:
            where.append(rejections.c.reason.icontains(self.reason_like, autoescape=True))
        return where

    def presumed(self, number: int | None) -> list[ColumnElement[bool]]:
        """The condition on `outcomes`."""
        where = [*self._where(outcomes, number), outcomes.c.outcome == int(Outcome.PRESUMED)]
        if self.reason_like is not None and self.reason_like.lower() not in PRESUMED_REASON:
            where.append(false())
        return where

    def _where(self, table: Table, number: int | None) -> list[ColumnElement[bool]]:
        where: list[ColumnElement[bool]] = [table.c.destination_id == number]
        if self.day is not None:
            where.append(table.c.day == self.day)
        if self.trace_id is not None:
            where.append(table.c.trace_id == self.trace_id)
        return where


def names(connection: Connection) -> list[str]:
    used = [
        destinations.c.id.in_(select(table.c.destination_id).distinct())
        for table in (outcomes, batches)
    ]
    chosen = select(destinations.c.name).where(used[0] | used[1])
    return sorted(connection.execute(chosen).scalars())  # not by the database's own alphabet


def summary(connection: Connection, destination: str) -> Summary:
    number = number_of(connection, destination)
    if number is None:
        return Summary(destination)
    of_outcome = dict.fromkeys(Outcome, 0)
    lengths = (
        select(outcomes.c.outcome, func.sum(func.length(outcomes.c.item_ids)))
        .where(outcomes.c.destination_id == number)
        .group_by(outcomes.c.outcome)
    )
    for outcome, length in connection.execute(lengths):
        of_outcome[Outcome(outcome)] = count(int(length))
    builds, first, last = connection.execute(
        select(
            func.count(distinct(outcomes.c.trace_id)),
            func.min(outcomes.c.day),
            func.max(outcomes.c.day),
        ).where(outcomes.c.destination_id == number)
    ).one()
    return Summary(
        destination,
        accepted=of_outcome[Outcome.ACCEPTED],
        rejected=of_outcome[Outcome.REJECTED],
        presumed=of_outcome[Outcome.PRESUMED],
        in_doubt=_unsettled_doubts(connection, destination, number),
        builds=builds,
        first_day=first,
        last_day=last,
    )


def _unsettled_doubts(connection: Connection, destination: str, number: int) -> int:
    """How many items are in doubt and have not been settled by a later batch."""
    doubtful: dict[bytes, set[bytes]] = {}
    chosen = (
        select(in_doubt.c.trace_id, in_doubt.c.item_ids)
        .join(batches)
        .where(batches.c.destination_id == number)
    )
    for trace_id, ids in connection.execute(chosen):
        doubtful.setdefault(trace_id, set()).update(unpack(ids))
    known = settled.items(connection, destination, doubtful)
    return sum(len(ids - known.get(trace_id, set())) for trace_id, ids in doubtful.items())


def rejected(
    connection: Connection, destination: str, choice: Choice, *, limit: int | None = None
) -> list[RecordedRejection]:
    at = rejections.c
    chosen = (
        select(at.trace_id, at.item_id, at.span_name, at.reason, at.day, at.rejected_at)
        .where(*choice.rejected(number_of(connection, destination)))
        .order_by(at.day, at.trace_id, at.rejected_at, at.item_id)
        .limit(limit)
    )
    return [
        RecordedRejection(*row[:5], rejected_at=datetime.fromtimestamp(row[5], UTC))
        for row in connection.execute(chosen)
    ]


def presumed(connection: Connection, destination: str, choice: Choice) -> list[Presumed]:
    at = outcomes.c
    chosen = (
        select(at.day, at.trace_id, at.item_ids)
        .where(*choice.presumed(number_of(connection, destination)))
        .order_by(at.day, at.trace_id)
    )
    return [
        Presumed(row.day, row.trace_id, frozenset(unpack(row.item_ids)))
        for row in connection.execute(chosen)
    ]


def days_of(connection: Connection, destination: str, choice: Choice) -> set[str]:
    """The days that hold something to re-queue."""
    number = number_of(connection, destination)
    refused = select(rejections.c.day).where(*choice.rejected(number))
    taken = select(outcomes.c.day).where(*choice.presumed(number))
    return set(connection.execute(union(refused, taken)).scalars())


def requeue(connection: Connection, destination: str, choice: Choice, days: Collection[str]) -> int:
    """What came on other days than `days` meanwhile is left alone."""
    number = number_of(connection, destination)
    if number is None:
        return 0
    refused = [one for one in rejected(connection, destination, choice) if one.day in days]
    gone: dict[bytes, list[bytes]] = {}
    for one in refused:
        gone.setdefault(one.trace_id, []).append(one.item_id)
    settled.take_away(connection, number, Outcome.REJECTED, gone)
    connection.execute(
        delete(rejections).where(*choice.rejected(number), rejections.c.day.in_(days))
    )
    taken = {
        one.trace_id: one.item_ids
        for one in presumed(connection, destination, choice)
        if one.day in days
    }
    settled.take_away(connection, number, Outcome.PRESUMED, taken)
    unnote(connection, number, days)
    expect_what_is_left(connection, number, days)
    return len(refused) + sum(map(len, taken.values()))


def all_days(connection: Connection, destination: str) -> set[str]:
    """The days that anything is known of."""
    number = number_of(connection, destination)
    known = (
        select(table.c.day).where(table.c.destination_id == number)
        for table in (outcomes, batches, delivered_parts)
    )
    return set(connection.execute(union(*known)).scalars())


def forget(connection: Connection, destination: str) -> int:
    """The name stays, and with it the number: a delivery that is under way may go on."""
    number = number_of(connection, destination)
    if number is None:
        return 0
    known = summary(connection, destination)
    days = all_days(connection, destination)
    doubtful = select(batches.c.id).where(batches.c.destination_id == number)
    connection.execute(delete(in_doubt).where(in_doubt.c.batch_id.in_(doubtful)))
    for table in (batches, delivered_parts, rejections, outcomes):
        connection.execute(delete(table).where(table.c.destination_id == number))
    expect_what_is_left(connection, number, days)
    return known.accepted + known.rejected + known.presumed

"""Inspecting and editing the ledger: summaries, rejections, re-queueing, forgetting."""

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
from bk_pipeline.ledger.batches import record_remaining
from bk_pipeline.ledger.packed import count, destination_id_of, unmark_delivered, unpack
from bk_pipeline.ledger.schema import (
    Outcome,
    batches,
    delivered_parts,
    destinations,
    in_doubt,
    outcomes,
    rejections,
    sampled,
)

PRESUMED_REASON = "in doubt, presumed sent"


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of one destination. Items are spans, and at Honeycomb also links.

    Attributes:
        destination: Its name.
        accepted: Items that the destination accepted.
        rejected: Items that it rejected.
        presumed: Items that were in doubt and presumed sent.
        in_doubt: Items that are in doubt.
        builds: Builds with settled items.
        first_day: The first day with settled items; None without any.
        last_day: The last such day.
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
    """A rejection with its day and time, as recorded in the ledger."""

    day: str
    rejected_at: datetime


@dataclass(frozen=True, slots=True)
class PresumedItems:
    """Items of one build that were in doubt and presumed sent."""

    day: str
    trace_id: bytes
    item_ids: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Selects rejected and presumed items that match all of the given criteria."""

    day: str | None = None
    trace_id: bytes | None = None
    reason_like: str | None = None

    def rejected(self, number: int | None) -> list[ColumnElement[bool]]:
        """Return the conditions on table `rejections`."""
        where = self._where(rejections, number)
        if self.reason_like is not None:
            where.append(rejections.c.reason.icontains(self.reason_like, autoescape=True))
        return where

    def presumed(self, number: int | None) -> list[ColumnElement[bool]]:
        """Return the conditions on table `outcomes`."""
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


def destination_names(connection: Connection) -> list[str]:
    """Return the sorted names of the destinations that have settled items or batches."""
    used = [
        destinations.c.id.in_(select(table.c.destination_id).distinct())
        for table in (outcomes, batches)
    ]
    chosen = select(destinations.c.name).where(used[0] | used[1])
    return sorted(connection.execute(chosen).scalars())  # not by the database's collation


def summary(connection: Connection, destination: str) -> Summary:
    """Return the counts of a destination; all zero if it is unknown."""
    number = destination_id_of(connection, destination)
    if number is None:
        return Summary(destination)
    by_outcome = dict.fromkeys(Outcome, 0)
    lengths = (
        select(outcomes.c.outcome, func.sum(func.length(outcomes.c.item_ids)))
        .where(outcomes.c.destination_id == number)
        .group_by(outcomes.c.outcome)
    )
    for outcome, length in connection.execute(lengths):
        by_outcome[Outcome(outcome)] = count(int(length))
    builds, first, last = connection.execute(
        select(
            func.count(distinct(outcomes.c.trace_id)),
            func.min(outcomes.c.day),
            func.max(outcomes.c.day),
        ).where(outcomes.c.destination_id == number)
    ).one()
    return Summary(
        destination,
        accepted=by_outcome[Outcome.ACCEPTED],
        rejected=by_outcome[Outcome.REJECTED],
        presumed=by_outcome[Outcome.PRESUMED],
        in_doubt=_unsettled_doubts(connection, destination, number),
        builds=builds,
        first_day=first,
        last_day=last,
    )


def _unsettled_doubts(connection: Connection, destination: str, number: int) -> int:
    """Count the items in doubt that no later batch has settled."""
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
    connection: Connection, destination: str, item_filter: ItemFilter, *, limit: int | None = None
) -> list[RecordedRejection]:
    """Return the matching rejections, sorted by day, trace and time."""
    at = rejections.c
    chosen = (
        select(at.trace_id, at.item_id, at.span_name, at.reason, at.day, at.rejected_at)
        .where(*item_filter.rejected(destination_id_of(connection, destination)))
        .order_by(at.day, at.trace_id, at.rejected_at, at.item_id)
        .limit(limit)
    )
    return [
        RecordedRejection(*row[:5], rejected_at=datetime.fromtimestamp(row[5], UTC))
        for row in connection.execute(chosen)
    ]


def presumed(
    connection: Connection, destination: str, item_filter: ItemFilter
) -> list[PresumedItems]:
    """Return the matching items that were presumed sent, sorted by day and trace."""
    at = outcomes.c
    chosen = (
        select(at.day, at.trace_id, at.item_ids)
        .where(*item_filter.presumed(destination_id_of(connection, destination)))
        .order_by(at.day, at.trace_id)
    )
    return [
        PresumedItems(row.day, row.trace_id, frozenset(unpack(row.item_ids)))
        for row in connection.execute(chosen)
    ]


def requeue_days(connection: Connection, destination: str, item_filter: ItemFilter) -> set[str]:
    """Return the days with items to re-queue."""
    number = destination_id_of(connection, destination)
    refused = select(rejections.c.day).where(*item_filter.rejected(number))
    taken = select(outcomes.c.day).where(*item_filter.presumed(number))
    return set(connection.execute(union(refused, taken)).scalars())


def requeue(
    connection: Connection, destination: str, item_filter: ItemFilter, days: Collection[str]
) -> int:
    """Make matching items of `days` unsettled again and return how many.

    Items of other days are left alone: they came after `days` were determined.
    """
    number = destination_id_of(connection, destination)
    if number is None:
        return 0
    refused = [one for one in rejected(connection, destination, item_filter) if one.day in days]
    gone: dict[bytes, list[bytes]] = {}
    for one in refused:
        gone.setdefault(one.trace_id, []).append(one.item_id)
    settled.remove(connection, number, Outcome.REJECTED, gone)
    connection.execute(
        delete(rejections).where(*item_filter.rejected(number), rejections.c.day.in_(days))
    )
    taken = {
        one.trace_id: one.item_ids
        for one in presumed(connection, destination, item_filter)
        if one.day in days
    }
    settled.remove(connection, number, Outcome.PRESUMED, taken)
    unmark_delivered(connection, number, days)
    record_remaining(connection, number, days)
    return len(refused) + sum(map(len, taken.values()))


def all_days(connection: Connection, destination: str) -> set[str]:
    """Return the days that the ledger has any row for."""
    number = destination_id_of(connection, destination)
    known = (
        select(table.c.day).where(table.c.destination_id == number)
        for table in (outcomes, batches, delivered_parts)
    )
    return set(connection.execute(union(*known)).scalars())


def forget(connection: Connection, destination: str) -> int:
    """Delete all rows of a destination and return how many items were settled.

    Its name and number stay, so that a delivery in progress can continue.
    """
    number = destination_id_of(connection, destination)
    if number is None:
        return 0
    known = summary(connection, destination)
    days = all_days(connection, destination)
    doubtful = select(batches.c.id).where(batches.c.destination_id == number)
    connection.execute(delete(in_doubt).where(in_doubt.c.batch_id.in_(doubtful)))
    for table in (batches, delivered_parts, rejections, outcomes, sampled):
        connection.execute(delete(table).where(table.c.destination_id == number))
    record_remaining(connection, number, days)
    return known.accepted + known.rejected + known.presumed

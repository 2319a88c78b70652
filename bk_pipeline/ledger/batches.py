"""Batches in doubt: written down before they leave, settled by their answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from bk_pipeline.contracts import ItemIds, Rejection
from bk_pipeline.ledger import settled
from bk_pipeline.ledger.packed import execute_many, insert_new, number_for, number_of, pack, unpack
from bk_pipeline.ledger.tables import (
    Outcome,
    batches,
    deliveries,
    identity,
    in_doubt,
    outcomes,
    rejections,
)

# Made once: making a statement anew takes longer than executing it.
_INSERT_BATCH = insert(batches)
_BATCH = select(batches.c.destination_id, batches.c.day).where(batches.c.id == bindparam("batch"))
_SENT_AGAIN = (
    update(batches).where(batches.c.id == bindparam("batch")).values(sent_at=bindparam("now"))
)
_DELETE_BATCH = delete(batches).where(batches.c.id == bindparam("batch"))
_INSERT_DOUBT = insert(in_doubt)
_DELETE_DOUBT = delete(in_doubt).where(in_doubt.c.batch_id == bindparam("batch"))


class _Doubt(NamedTuple):
    batch_id: int
    trace_id: bytes
    item_ids: bytes


def begin(connection: Connection, destination: str, day: str, items: ItemIds, *, now: int) -> int:
    number = number_for(connection, destination)
    values = {"destination_id": number, "day": day, "sent_at": now}
    made = connection.execute(_INSERT_BATCH, values).inserted_primary_key
    assert made is not None
    batch = int(made[0])
    _doubt(connection, batch, items)
    return batch


def begin_again(connection: Connection, batch: int, *, now: int) -> None:
    connection.execute(_SENT_AGAIN, {"batch": batch, "now": now})


def accept(connection: Connection, batch: int) -> None:
    """Nothing where the batch is gone; see `settle`."""
    settled.accept(connection, batch)
    _keep_in_doubt(connection, batch, {})


def settle(
    connection: Connection,
    batch: int,
    *,
    accepted: ItemIds,
    rejected: Sequence[Rejection],
    in_doubt: ItemIds,
    now: int,
) -> None:
    """A batch that is gone was settled: its commit's answer may have been lost on the way."""
    known = connection.execute(_BATCH, {"batch": batch}).one_or_none()
    if known is None:
        return
    number, day = known
    if accepted:
        settled.add(connection, number, day, Outcome.ACCEPTED, accepted)
    if rejected:
        settled.add(connection, number, day, Outcome.REJECTED, _by_trace(rejected))
        _note_words(connection, number, day, rejected, now)
    _keep_in_doubt(connection, batch, in_doubt)


def in_doubt_items(connection: Connection, destination: str, day: str) -> dict[bytes, set[bytes]]:
    found: dict[bytes, set[bytes]] = {}
    for row in _doubts(connection, number_of(connection, destination), day):
        found.setdefault(row.trace_id, set()).update(unpack(row.item_ids))
    return found


def presume_sent(connection: Connection, destination: str, day: str) -> int:
    """What has been settled since it was in doubt keeps its outcome and does not count."""
    number = number_of(connection, destination)
    doubtful = in_doubt_items(connection, destination, day)
    if number is None or not doubtful:
        return 0
    known = settled.items(connection, destination, doubtful)
    presumed = {trace: ids - known.get(trace, set()) for trace, ids in doubtful.items()}
    presumed = {trace: ids for trace, ids in presumed.items() if ids}
    settled.add(connection, number, day, Outcome.PRESUMED, presumed)
    for batch in {row.batch_id for row in _doubts(connection, number, day)}:
        _keep_in_doubt(connection, batch, {})
    return sum(map(len, presumed.values()))


def drop_settled_doubts(connection: Connection, destination: str, day: str) -> None:
    rows = _doubts(connection, number_of(connection, destination), day)
    known = settled.items(connection, destination, {row.trace_id for row in rows})
    left: dict[int, dict[bytes, set[bytes]]] = {}
    for row in rows:
        ids = unpack(row.item_ids) - known.get(row.trace_id, set())
        of_batch = left.setdefault(row.batch_id, {})
        if ids:
            of_batch[row.trace_id] = ids
    for batch, doubtful in left.items():
        _keep_in_doubt(connection, batch, doubtful)


def _doubts(connection: Connection, number: int | None, day: str) -> list[_Doubt]:
    rows = connection.execute(
        select(in_doubt.c.batch_id, in_doubt.c.trace_id, in_doubt.c.item_ids)
        .join(batches)
        .where(batches.c.destination_id == number, batches.c.day == day)
    )
    return [_Doubt(*row) for row in rows]


def _doubt(connection: Connection, batch: int, items: ItemIds) -> None:
    execute_many(
        connection,
        _INSERT_DOUBT,
        [
            {"batch_id": batch, "trace_id": trace_id, "item_ids": pack(ids)}
            for trace_id, ids in sorted(items.items())
        ],
    )


def _keep_in_doubt(connection: Connection, batch: int, left: ItemIds) -> None:
    """Have nothing but `left` of the batch in doubt; without any, there is no batch."""
    connection.execute(_DELETE_DOUBT, {"batch": batch})
    if left:
        _doubt(connection, batch, left)
    else:
        connection.execute(_DELETE_BATCH, {"batch": batch})


def _by_trace(rejected: Iterable[Rejection]) -> dict[bytes, list[bytes]]:
    by_trace: dict[bytes, list[bytes]] = {}
    for one in rejected:
        by_trace.setdefault(one.trace_id, []).append(one.item_id)
    return by_trace


def _note_words(
    connection: Connection, number: int, day: str, rejected: Sequence[Rejection], now: int
) -> None:
    connection.execute(
        insert_new(connection, rejections),
        [
            {
                "destination_id": number,
                "trace_id": one.trace_id,
                "item_id": one.item_id,
                "day": day,
                "span_name": _storable(one.span_name),
                "reason": _storable(one.reason),
                "rejected_at": now,
            }
            for one in sorted(rejected, key=attrgetter("trace_id", "item_id"))
        ],
    )


def _storable(text: str) -> str:
    """`text` without what no database takes: half surrogates, and at PostgreSQL NUL."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


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

"""Batches in doubt, which are recorded before they are sent; delivery counts of days."""

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
from bk_pipeline.ledger.packed import (
    destination_id_of,
    ensure_destination_id,
    execute_many,
    insert_new,
    pack,
    unpack,
)
from bk_pipeline.ledger.schema import (
    Outcome,
    batches,
    deliveries,
    identity,
    in_doubt,
    outcomes,
    rejections,
)

# Built once: building a statement takes longer than executing it.
_INSERT_BATCH = insert(batches)
_SELECT_BATCH = select(batches.c.destination_id, batches.c.day).where(
    batches.c.id == bindparam("batch")
)
_UPDATE_SENT_AT = (
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
    """Record a new batch in doubt and return its number. `now` is in Unix seconds."""
    number = ensure_destination_id(connection, destination)
    values = {"destination_id": number, "day": day, "sent_at": now}
    made = connection.execute(_INSERT_BATCH, values).inserted_primary_key
    assert made is not None
    batch = int(made[0])
    _insert_doubts(connection, batch, items)
    return batch


def begin_again(connection: Connection, batch: int, *, now: int) -> None:
    """Record that a batch is sent again at `now`, in Unix seconds."""
    connection.execute(_UPDATE_SENT_AT, {"batch": batch, "now": now})


def accept(connection: Connection, batch: int) -> None:
    """Settle a whole batch as accepted; does nothing if it was settled already (see `settle`)."""
    settled.accept(connection, batch)
    _replace_doubts(connection, batch, {})


def settle(
    connection: Connection,
    batch: int,
    *,
    accepted: ItemIds,
    rejected: Sequence[Rejection],
    in_doubt: ItemIds,
    now: int,
) -> None:
    """Settle a batch; does nothing if it was settled already.

    The latter happens when the connection breaks after a commit and the caller tries again.
    """
    known = connection.execute(_SELECT_BATCH, {"batch": batch}).one_or_none()
    if known is None:
        return
    number, day = known
    if accepted:
        settled.add(connection, number, day, Outcome.ACCEPTED, accepted)
    if rejected:
        settled.add(connection, number, day, Outcome.REJECTED, _ids_by_trace(rejected))
        _insert_rejections(connection, number, day, rejected, now)
    _replace_doubts(connection, batch, in_doubt)


def in_doubt_items(connection: Connection, destination: str, day: str) -> dict[bytes, set[bytes]]:
    """Return the items of `day` that are in doubt, by trace."""
    found: dict[bytes, set[bytes]] = {}
    for row in _doubts(connection, destination_id_of(connection, destination), day):
        found.setdefault(row.trace_id, set()).update(unpack(row.item_ids))
    return found


def presume_sent(connection: Connection, destination: str, day: str) -> int:
    """Settle the items of `day` that are in doubt as presumed sent, and return how many.

    Items that a later batch has settled keep their outcome and are not counted.
    """
    number = destination_id_of(connection, destination)
    doubtful = in_doubt_items(connection, destination, day)
    if number is None or not doubtful:
        return 0
    known = settled.items(connection, destination, doubtful)
    presumed = {trace: ids - known.get(trace, set()) for trace, ids in doubtful.items()}
    presumed = {trace: ids for trace, ids in presumed.items() if ids}
    settled.add(connection, number, day, Outcome.PRESUMED, presumed)
    for batch in {row.batch_id for row in _doubts(connection, number, day)}:
        _replace_doubts(connection, batch, {})
    return sum(map(len, presumed.values()))


def drop_settled_doubts(connection: Connection, destination: str, day: str) -> None:
    """Remove the doubt about items of `day` that a later batch has settled."""
    rows = _doubts(connection, destination_id_of(connection, destination), day)
    known = settled.items(connection, destination, {row.trace_id for row in rows})
    left: dict[int, dict[bytes, set[bytes]]] = {}
    for row in rows:
        ids = unpack(row.item_ids) - known.get(row.trace_id, set())
        of_batch = left.setdefault(row.batch_id, {})
        if ids:
            of_batch[row.trace_id] = ids
    for batch, doubtful in left.items():
        _replace_doubts(connection, batch, doubtful)


def _doubts(connection: Connection, number: int | None, day: str) -> list[_Doubt]:
    rows = connection.execute(
        select(in_doubt.c.batch_id, in_doubt.c.trace_id, in_doubt.c.item_ids)
        .join(batches)
        .where(batches.c.destination_id == number, batches.c.day == day)
    )
    return [_Doubt(*row) for row in rows]


def _insert_doubts(connection: Connection, batch: int, items: ItemIds) -> None:
    execute_many(
        connection,
        _INSERT_DOUBT,
        [
            {"batch_id": batch, "trace_id": trace_id, "item_ids": pack(ids)}
            for trace_id, ids in sorted(items.items())
        ],
    )


def _replace_doubts(connection: Connection, batch: int, left: ItemIds) -> None:
    """Keep only `left` of the batch in doubt; delete the batch if that is empty."""
    connection.execute(_DELETE_DOUBT, {"batch": batch})
    if left:
        _insert_doubts(connection, batch, left)
    else:
        connection.execute(_DELETE_BATCH, {"batch": batch})


def _ids_by_trace(rejected: Iterable[Rejection]) -> dict[bytes, list[bytes]]:
    by_trace: dict[bytes, list[bytes]] = {}
    for one in rejected:
        by_trace.setdefault(one.trace_id, []).append(one.item_id)
    return by_trace


def _insert_rejections(
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
    """Replace what a database cannot store: lone surrogates, and NUL for PostgreSQL."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def identity_of(connection: Connection) -> tuple[str, bool]:
    """Return the ledger's id, and whether it was in use before stores kept delivery records."""
    ledger, predates_records = connection.execute(select(identity)).one()
    return ledger, predates_records


def counts(connection: Connection, destination: str, day: str) -> dict[str, int]:
    """Return the delivery counts of `day` by ledger id."""
    chosen = select(deliveries.c.ledger, deliveries.c.count.label("count_")).where(
        deliveries.c.destination_id == destination_id_of(connection, destination),
        deliveries.c.day == day,
    )
    return {row.ledger: row.count_ for row in connection.execute(chosen)}


def knows_day(connection: Connection, destination: str, day: str) -> bool:
    """Whether anything of `day` is settled or in doubt."""
    number = destination_id_of(connection, destination)
    return any(
        connection.execute(
            select(table.c.day).where(table.c.destination_id == number, table.c.day == day).limit(1)
        ).first()
        for table in (outcomes, batches)
    )


def has_lost_items(connection: Connection, destination: str, day: str) -> bool:
    """Whether fewer items of `day` are settled than when its count was last raised."""
    number = destination_id_of(connection, destination)
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
    """Raise the delivery count of `day` for this ledger above its old value and that in `seen`.

    The counts of other ledgers are set to those of `seen`.

    Args:
        connection: A transaction for writing.
        destination: The destination's name.
        day: The partition.
        ledger: This ledger's id.
        seen: The counts in the span store by ledger id.

    Returns:
        The new count of this ledger.
    """
    number = ensure_destination_id(connection, destination)
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


def record_remaining(connection: Connection, number: int, days: Collection[str]) -> None:
    """Record how much is settled of `days` after items were removed on purpose."""
    of_days = (deliveries.c.destination_id == number, deliveries.c.day.in_(days))
    left = _settled_bytes(number, deliveries.c.day)
    own = deliveries.c.ledger == select(identity.c.id).scalar_subquery()
    connection.execute(update(deliveries).where(*of_days, own).values(settled_bytes=left))


def _settled_bytes(number: int | None, day: str | ColumnElement[str]) -> ScalarSelect[int]:
    length = func.coalesce(func.sum(func.length(outcomes.c.item_ids)), 0)
    of_day = (outcomes.c.destination_id == number, outcomes.c.day == day)
    return select(length).where(*of_day).scalar_subquery()

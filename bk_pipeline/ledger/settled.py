"""Settled items by build, read and updated with few statements for any number of builds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import (
    Connection,
    SmallInteger,
    and_,
    bindparam,
    delete,
    insert,
    literal,
    select,
    update,
)

from bk_pipeline.contracts import ItemIds
from bk_pipeline.ledger.packed import (
    destination_id_of,
    execute_many,
    insert_new,
    merged,
    pack,
    union,
    unpack,
    without,
)
from bk_pipeline.ledger.schema import Outcome, batches, in_doubt, outcomes, sampled

T = TypeVar("T")
# Below the parameter limits of both databases.
TRACES_PER_STATEMENT = 500

# Built once: building a statement takes longer than executing it.
_SELECT_ITEMS = select(outcomes.c.trace_id, outcomes.c.item_ids).where(
    outcomes.c.destination_id == bindparam("destination"),
    outcomes.c.trace_id.in_(bindparam("traces", expanding=True)),
)
# Locked in one order, so that writers with builds in common cannot deadlock.
_SELECT_OUTCOME = (
    _SELECT_ITEMS.where(outcomes.c.outcome == bindparam("of"))
    .order_by(outcomes.c.trace_id)
    .with_for_update()
)
# The items that a batch has in doubt, as rows of `outcomes`.
_DOUBTS_OF_BATCH = (
    select(
        batches.c.destination_id,
        in_doubt.c.trace_id,
        literal(int(Outcome.ACCEPTED), SmallInteger).label("outcome"),
        batches.c.day,
        in_doubt.c.item_ids,
    )
    .join_from(in_doubt, batches)
    .where(in_doubt.c.batch_id == bindparam("batch"))
    .order_by(in_doubt.c.trace_id)
)
# Existing rows that differ: the key, their items, and the items that the batch adds.
_TO_MERGE = (
    select(
        outcomes.c.destination_id,
        outcomes.c.trace_id,
        outcomes.c.item_ids,
        in_doubt.c.item_ids.label("added"),
    )
    .join_from(in_doubt, batches)
    .join(
        outcomes,
        and_(
            outcomes.c.destination_id == batches.c.destination_id,
            outcomes.c.trace_id == in_doubt.c.trace_id,
            outcomes.c.outcome == int(Outcome.ACCEPTED),
            outcomes.c.item_ids != in_doubt.c.item_ids,
        ),
    )
    .where(in_doubt.c.batch_id == bindparam("batch"))
    .order_by(in_doubt.c.trace_id)
    .with_for_update(of=outcomes)
)
_UPDATE = (
    update(outcomes)
    .where(
        outcomes.c.destination_id == bindparam("at_destination"),
        outcomes.c.trace_id == bindparam("at_trace"),
        outcomes.c.outcome == bindparam("at_outcome"),
    )
    .values(item_ids=bindparam("new_ids"))
)


def chunks(values: Collection[T]) -> Iterator[Sequence[T]]:
    """Split `values` into lists that fit one statement."""
    rest = list(values)
    for at in range(0, len(rest), TRACES_PER_STATEMENT):
        yield rest[at : at + TRACES_PER_STATEMENT]


def items(
    connection: Connection, destination: str, trace_ids: Collection[bytes]
) -> dict[bytes, set[bytes]]:
    """Return the settled items of any outcome by trace; traces without any are absent."""
    number = destination_id_of(connection, destination)
    found: dict[bytes, set[bytes]] = {}
    if number is None:
        return found
    for some in chunks(trace_ids):
        rows = connection.execute(_SELECT_ITEMS, {"destination": number, "traces": some})
        for trace_id, packed in rows:
            found.setdefault(trace_id, set()).update(unpack(packed))
    return found


def add(connection: Connection, number: int, day: str, outcome: Outcome, added: ItemIds) -> None:
    """Settle more items with `outcome`.

    Existing rows are locked, read and updated; the others are inserted. If another writer inserted
    some of those in the meantime, all of them exist now and are updated.
    """
    present = _select_for_update(connection, number, outcome, added)
    left = dict(added)
    while left:
        found = {
            trace_id: merged(packed, left.pop(trace_id))
            for trace_id, packed in present.items()
            if trace_id in left
        }
        _update_items(connection, number, outcome, found)
        if not left or _insert_all(connection, number, day, outcome, left):
            return
        present = _select_for_update(connection, number, outcome, left)


def accept(connection: Connection, batch: int) -> None:
    """Settle all items of a batch as accepted, mostly inside the database.

    Missing rows are inserted first. Then all rows exist, since accepted items are never removed
    during a delivery; those that were there before are locked, read and updated.
    """
    doubts = insert_new(connection, outcomes, _DOUBTS_OF_BATCH)
    connection.execute(doubts, {"batch": batch})
    rows = connection.execute(_TO_MERGE, {"batch": batch}).all()
    if rows:
        found = {trace_id: union(present, added) for _, trace_id, present, added in rows}
        _update_items(connection, rows[0].destination_id, Outcome.ACCEPTED, found)


def thresholds(
    connection: Connection, destination: str, trace_ids: Collection[bytes]
) -> dict[bytes, int]:
    """Return the sampling thresholds of those of these traces that were sent with one."""
    number = destination_id_of(connection, destination)
    found: dict[bytes, int] = {}
    for some in chunks(trace_ids if number is not None else ()):
        of_traces = (sampled.c.destination_id == number, sampled.c.trace_id.in_(some))
        rows = connection.execute(select(sampled.c.trace_id, sampled.c.threshold).where(*of_traces))
        found.update((trace_id, threshold) for trace_id, threshold in rows)
    return found


def record_thresholds(connection: Connection, number: int, changed: Mapping[bytes, int]) -> None:
    """Replace the sampling thresholds of traces; 0 is that of a trace without one."""
    for some in chunks(list(changed)):
        of_traces = (sampled.c.destination_id == number, sampled.c.trace_id.in_(some))
        connection.execute(delete(sampled).where(*of_traces))
    rows = [
        {"destination_id": number, "trace_id": trace_id, "threshold": threshold}
        for trace_id, threshold in changed.items()
        if threshold
    ]
    if rows:
        connection.execute(insert(sampled), rows)


def _insert_all(
    connection: Connection, number: int, day: str, outcome: Outcome, added: ItemIds
) -> bool:
    """Insert the missing rows of `added`; return whether all of them were missing."""
    rows = [
        {
            "destination_id": number,
            "trace_id": trace_id,
            "outcome": int(outcome),
            "day": day,
            "item_ids": pack(added[trace_id]),
        }
        for trace_id in sorted(added)
    ]
    statement = insert_new(connection, outcomes)
    done = connection.execute(statement, rows, execution_options={"preserve_rowcount": True})
    return done.rowcount == len(rows)


def remove(connection: Connection, number: int, outcome: Outcome, gone: ItemIds) -> None:
    """Make items that were settled with `outcome` unsettled again."""
    present = _select_for_update(connection, number, outcome, gone)
    left = {trace_id: without(packed, gone[trace_id]) for trace_id, packed in present.items()}
    for some in chunks([trace_id for trace_id, packed in left.items() if not packed]):
        connection.execute(
            delete(outcomes).where(
                outcomes.c.destination_id == number,
                outcomes.c.outcome == int(outcome),
                outcomes.c.trace_id.in_(some),
            )
        )
    _update_items(
        connection, number, outcome, {trace: packed for trace, packed in left.items() if packed}
    )


def _select_for_update(
    connection: Connection, number: int, outcome: Outcome, trace_ids: Collection[bytes]
) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for some in chunks(sorted(trace_ids)):
        values = {"destination": number, "traces": some, "of": int(outcome)}
        rows = connection.execute(_SELECT_OUTCOME, values)
        found.update((trace_id, packed) for trace_id, packed in rows)
    return found


def _update_items(
    connection: Connection, number: int, outcome: Outcome, packed: Mapping[bytes, bytes]
) -> None:
    if packed:
        execute_many(
            connection,
            _UPDATE,
            [
                {
                    "at_destination": number,
                    "at_trace": trace_id,
                    "at_outcome": int(outcome),
                    "new_ids": ids,
                }
                for trace_id, ids in packed.items()
            ],
        )

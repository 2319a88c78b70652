"""What is settled, by build: read and added to, a few statements for any number of builds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection, bindparam, delete, select, update

from bk_pipeline.ledger.inserting import insert_new
from bk_pipeline.ledger.packed import merged, pack, unpack, without
from bk_pipeline.ledger.parties import number_of
from bk_pipeline.ledger.tables import Outcome, outcomes

T = TypeVar("T")
# Below what any database takes as parameters of one statement.
TRACES_PER_STATEMENT = 500

# Trace id -> item ids.
ItemIds = Mapping[bytes, Collection[bytes]]

# Made once: making a statement anew takes longer than executing it.
_ALL_OF = select(outcomes.c.trace_id, outcomes.c.item_ids).where(
    outcomes.c.destination_id == bindparam("destination"),
    outcomes.c.trace_id.in_(bindparam("traces", expanding=True)),
)
# Locked in one order, so that two writers with builds in common do not wait for each other.
_OF_OUTCOME = (
    _ALL_OF.where(outcomes.c.outcome == bindparam("of"))
    .order_by(outcomes.c.trace_id)
    .with_for_update()
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
    """`values` in lists that fit one statement."""
    rest = list(values)
    for at in range(0, len(rest), TRACES_PER_STATEMENT):
        yield rest[at : at + TRACES_PER_STATEMENT]


def items(
    connection: Connection, destination: str, trace_ids: Collection[bytes]
) -> dict[bytes, set[bytes]]:
    """The settled items of these traces, whatever the outcome; traces without any are absent."""
    number = number_of(connection, destination)
    found: dict[bytes, set[bytes]] = {}
    if number is None:
        return found
    for some in chunks(trace_ids):
        rows = connection.execute(_ALL_OF, {"destination": number, "traces": some})
        for trace_id, packed in rows:
            found.setdefault(trace_id, set()).update(unpack(packed))
    return found


def add(connection: Connection, number: int, day: str, outcome: Outcome, added: ItemIds) -> None:
    """Settle items with `outcome`, in addition to those that are.

    Rows that are there are locked, read and rewritten; the others inserted. Those that
    another writer has inserted in between are rewritten in the next round.
    """
    left = set(added)
    while left:
        present = _packed(connection, number, outcome, left)
        _rewrite(
            connection,
            number,
            outcome,
            {trace_id: merged(packed, added[trace_id]) for trace_id, packed in present.items()},
        )
        left -= present.keys()
        left -= _inserted(connection, number, day, outcome, {one: added[one] for one in left})


def _inserted(
    connection: Connection, number: int, day: str, outcome: Outcome, added: ItemIds
) -> set[bytes]:
    """Those of `added` that there was no row of."""
    if not added:
        return set()
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
    statement = insert_new(connection, outcomes, outcomes.c.trace_id)
    return set(connection.execute(statement, rows).scalars())


def take_away(connection: Connection, number: int, outcome: Outcome, gone: ItemIds) -> None:
    """Have items that were settled with `outcome` unsettled again."""
    present = _packed(connection, number, outcome, gone)
    left = {trace_id: without(packed, gone[trace_id]) for trace_id, packed in present.items()}
    for some in chunks([trace_id for trace_id, packed in left.items() if not packed]):
        connection.execute(
            delete(outcomes).where(
                outcomes.c.destination_id == number,
                outcomes.c.outcome == int(outcome),
                outcomes.c.trace_id.in_(some),
            )
        )
    _rewrite(
        connection, number, outcome, {trace: packed for trace, packed in left.items() if packed}
    )


def _packed(
    connection: Connection, number: int, outcome: Outcome, trace_ids: Collection[bytes]
) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for some in chunks(sorted(trace_ids)):
        values = {"destination": number, "traces": some, "of": int(outcome)}
        rows = connection.execute(_OF_OUTCOME, values)
        found.update((trace_id, packed) for trace_id, packed in rows)
    return found


def _rewrite(
    connection: Connection, number: int, outcome: Outcome, packed: Mapping[bytes, bytes]
) -> None:
    if packed:
        connection.execute(
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

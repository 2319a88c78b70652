"""Adopt: take for delivered what another ledger, or an older state of this one, has delivered."""

from __future__ import annotations

from bk_pipeline.deliver.batching import ids_of
from bk_pipeline.deliver.delivery import Guarantee
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.selection import unsent
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, silent
from bk_pipeline.pipeline.known import DayDeliveries
from bk_pipeline.store.delivery_records import raw_parts
from bk_pipeline.store.spans import SpanPart, SpanStore


def adopt_day(
    day: str,
    *,
    spans: SpanStore,
    destination: Destination,
    ledger: Ledger,
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE,
    progress: Progress = silent,
) -> int | None:
    """Have the ledger know what was delivered of `day` according to the span store.

    What arrived of a part whose delivery broke off nobody knows: with "at most once" all of it
    is taken for delivered, else it is sent (again). Killed midway, it can be repeated.

    Returns:
        How many items the ledger has settled now and had not; None if it knew all there is.

    Raises:
        PipelineError: From the destination, the ledger or the store.
    """
    with ledger.exclusive(destination.name, day, on_wait=progress):
        records = DayDeliveries(day, destination.name, ledger, spans.deliveries)
        if records.behind() is None:
            return None
        found = records.found()
        delivered = [name for one in found for name in one.parts]
        if guarantee is Guarantee.AT_MOST_ONCE:
            delivered += [one.begun for one in found if one.begun]
        known = raw_parts(delivered)
        # A merged part is taken for delivered if one of those was that it replaces: nothing
        # is to be sent twice.
        parts = [
            part
            for part in spans.parts(day)
            if part.raw_part in known or not known.isdisjoint(spans.replaced(day, part))
        ]
        adopted = sum(_settle(day, part, spans, destination, ledger) for part in parts)
        names = [part.name for part in parts]
        seen = {one.ledger: one.count for one in found}
        records.adopted(ledger.adopt(destination.name, day, names, seen), names)
    return adopted


def _settle(
    day: str, part: SpanPart, spans: SpanStore, destination: Destination, ledger: Ledger
) -> int:
    """Settle the part's items as accepted; how many were not settled before."""
    count = 0
    for table in spans.tables(day, part, columns=destination.columns):
        items = destination.encode(SpanRows.of(table))
        settled = ledger.settled(destination.name, {item.trace_id for item in items})
        left = unsent(items, settled, ())
        if left:
            ledger.accept(ledger.begin(destination.name, day, ids_of(left)))
        count += len(left)
    return count

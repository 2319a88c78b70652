"""Deliver: what a destination does not have yet of a day's spans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.batching import ids_of
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee, aged_note, too_old_in
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.selection import unsent
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, silent
from bk_pipeline.pipeline.known import DayDeliveries
from bk_pipeline.store.delivery_records import raw_parts
from bk_pipeline.store.spans import SpanPart, SpanStore, keys_of
from bk_pipeline.text import counted


def deliver_day(
    day: str,
    *,
    spans: SpanStore,
    destination: Destination,
    ledger: Ledger,
    clock: Clock,
    policy: DeliveryPolicy | None = None,
    resend: bool = False,
    progress: Progress = silent,
    on_wait: Progress = silent,
    result: Delivery | None = None,
) -> Delivery:
    """Send what the destination has not settled yet of the day's spans.

    Two runs that deliver the same day to the same destination take turns.

    Args:
        resend: Send what the ledger does not know, even if it was delivered with another one.
        on_wait: Called with a sentence before each wait; from several threads.
        result: Updated as batches are answered, so that it is right even if this raises.
            Returned at the end.

    Raises:
        LedgerBehind: Spans were delivered that the ledger does not know.
        PipelineError: From the destination or the ledger. What was accepted until then is
            in the ledger and will not be sent again.
    """
    total = Delivery() if result is None else result

    def tell(so_far: Delivery) -> None:
        progress(f"{day}: {counted(so_far.accepted, 'event')} accepted by {destination.name}")

    with ledger.delivery_lock(destination.name, day, on_wait=on_wait):
        found = _look_at_parts(day, spans, destination, ledger)
        total.too_old += found.too_old
        total.age_limit = destination.max_age_sentence
        if not found.waiting:
            return total
        waiting = sorted(found.waiting, key=lambda part: spans.summary(day, part).first_ns or 0)
        records = DayDeliveries(day, destination.name, ledger, spans.deliveries)
        with records.delivering(waiting[0].name, found.delivered, resend=resend):
            for part, after in zip_longest(waiting, waiting[1:]):
                too_old_before = total.too_old
                deliver(
                    spans.tables(day, part, columns=destination.columns),
                    day=day,
                    destination=destination,
                    ledger=ledger,
                    clock=clock,
                    policy=policy,
                    on_progress=tell,
                    on_wait=on_wait,
                    result=total,
                )
                note = part.name
                too_old_here = total.too_old - too_old_before
                if too_old_here and destination.max_age is not None:
                    note = aged_note(part.name, too_old_here, destination.max_age)
                count = ledger.mark_part_delivered(destination.name, day, note)
                records.part_done(count, part.name, after.name if after else None)
    return total


@dataclass(slots=True)
class _Parts:
    """The parts of a day: names of those of which all is settled, and those to look through.

    `too_old` is how many spans of the former were not sent.
    """

    delivered: list[str] = field(default_factory=list)
    waiting: list[SpanPart] = field(default_factory=list)
    too_old: int = 0


def _look_at_parts(day: str, spans: SpanStore, destination: Destination, ledger: Ledger) -> _Parts:
    found = _Parts()
    notes = ledger.delivered_parts(destination.name, day)
    for part in spans.parts(day):
        if part.name in notes:
            found.delivered.append(part.name)
            continue
        merged_of = {SpanPart(old, part.fingerprint).name for old in spans.merged_from(day, part)}
        too_old = too_old_in(notes, part.name, destination.max_age)
        if merged_of and merged_of <= notes:
            ledger.mark_part_delivered(destination.name, day, part.name)
        elif too_old is not None:
            found.too_old += too_old
        else:
            found.waiting.append(part)
            continue
        found.delivered.append(part.name)
    return found


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
    with ledger.delivery_lock(destination.name, day, on_wait=progress):
        records = DayDeliveries(day, destination.name, ledger, spans.deliveries)
        if records.behind() is None:
            return None
        found = records.found()
        names = {name for one in found for name in one.parts}
        if guarantee is Guarantee.AT_MOST_ONCE:
            names |= {one.begun for one in found if one.begun}
        delivered = _Delivered.of(day, names, spans)
        adopted, whole = 0, list[str]()
        for part in spans.parts(day):
            count, complete = _settle(part, delivered, spans, destination, ledger)
            adopted += count
            if complete:
                whole.append(part.name)
        seen = {one.ledger: one.count for one in found}
        count = ledger.adopt(destination.name, day, whole, seen)
        records.adopted(count, [*delivered.gone, *whole])
    return adopted


@dataclass(frozen=True, slots=True)
class _Delivered:
    """What was delivered of a day.

    Attributes:
        day: The partition.
        names: The span parts, as they were named when they were delivered.
        gone: Those that have been made anew or merged since, and whose spans are known.
        keys: Their spans. What they held back was not delivered, nor what was merged with them.
        unknown: The raw parts of those whose spans are not known any more. What was made of
            these is taken for delivered: nothing is to be sent twice.
    """

    day: str
    names: set[str]
    gone: list[str]
    keys: pa.Array
    unknown: set[str]

    @classmethod
    def of(cls, day: str, names: set[str], spans: SpanStore) -> Self:
        visible = {part.name for part in spans.parts(day)}
        keys = {name: spans.keys(day, name) for name in sorted(names - visible)}
        found = {name: one for name, one in keys.items() if one is not None}
        joined = pa.concat_arrays([pa.array([], pa.string()), *found.values()])
        return cls(day, names, list(found), joined, raw_parts(list(keys.keys() - found.keys())))

    def in_part(self, part: SpanPart, spans: SpanStore) -> Callable[[pa.Table], Any]:
        """What tells, for rows of `part`, which were delivered."""
        made_of = {part.raw_part, *spans.merged_from(self.day, part)}
        if part.name in self.names or not made_of.isdisjoint(self.unknown):
            return lambda table: np.ones(len(table), bool)
        return lambda table: np.asarray(pc.is_in(keys_of(table), value_set=self.keys))


def _settle(
    part: SpanPart,
    delivered: _Delivered,
    spans: SpanStore,
    destination: Destination,
    ledger: Ledger,
) -> tuple[int, bool]:
    """Settle what was delivered of the part as accepted.

    Returns:
        How many items were not settled before, and whether all of the part was delivered.
    """
    count, complete = 0, True
    wanted = delivered.in_part(part, spans)
    for table in spans.tables(delivered.day, part, columns=destination.columns):
        rows = SpanRows.of(table)
        chosen = wanted(rows.table)
        complete &= bool(chosen.all())
        items = destination.encode(rows.filter(chosen))
        settled = ledger.settled(destination.name, {item.trace_id for item in items})
        left = unsent(items, settled, ())
        if left:
            ledger.accept(ledger.begin(destination.name, delivered.day, ids_of(left)))
        count += len(left)
    return count, complete

"""Deliver: send a destination the spans of a day that it does not have yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.delivery import (
    Delivery,
    DeliveryPolicy,
    Guarantee,
    too_old_count,
    too_old_note,
)
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.selection import ids_by_trace, unsent
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, no_progress
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
    progress: Progress = no_progress,
    on_wait: Progress = no_progress,
    result: Delivery | None = None,
) -> Delivery:
    """Send the day's spans that are not settled at the destination yet.

    Runs that deliver the same day to the same destination wait for each other.

    Args:
        day: The partition.
        spans: The span store.
        destination: Where spans are sent.
        ledger: Which spans are settled there.
        clock: Gives the times of batches, and waits.
        policy: The delivery guarantee and concurrency; None for the default.
        resend: Send spans that this ledger does not know, even if another one delivered them.
        progress: Called as spans are accepted.
        on_wait: Called with a sentence before each wait, from several threads.
        result: Updated as batches are answered, so that it is right even if this raises.
            Returned at the end.

    Raises:
        LedgerBehind: Spans were delivered that the ledger does not know.
        PipelineError: From the destination or the ledger. Spans accepted until then are in the
            ledger and will not be sent again.
    """
    total = Delivery() if result is None else result

    def report(so_far: Delivery) -> None:
        progress(f"{day}: {counted(so_far.accepted, 'event')} accepted by {destination.name}")

    with ledger.delivery_lock(destination.name, day, on_wait=on_wait):
        found = _classify_parts(day, spans, destination, ledger)
        total.too_old += found.too_old
        total.age_limit = destination.max_age_description
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
                    on_progress=report,
                    on_wait=on_wait,
                    result=total,
                )
                note = part.name
                too_old_here = total.too_old - too_old_before
                if too_old_here and destination.max_age is not None:
                    note = too_old_note(part.name, too_old_here, destination.max_age)
                count = ledger.mark_part_delivered(destination.name, day, note)
                records.record_part(count, part.name, after.name if after else None)
    return total


@dataclass(slots=True)
class _Parts:
    """The parts of a day.

    Attributes:
        delivered: The names of those whose spans are all settled.
        waiting: Those that may have spans to send.
        too_old: Spans in `delivered` parts that exceed the destination's maximum age.
    """

    delivered: list[str] = field(default_factory=list)
    waiting: list[SpanPart] = field(default_factory=list)
    too_old: int = 0


def _classify_parts(day: str, spans: SpanStore, destination: Destination, ledger: Ledger) -> _Parts:
    found = _Parts()
    marked = ledger.delivered_parts(destination.name, day)
    for part in spans.parts(day):
        if part.name in marked:
            found.delivered.append(part.name)
            continue
        merged_from = {SpanPart(old, part.fingerprint).name for old in spans.merged_from(day, part)}
        too_old = too_old_count(marked, part.name, destination.max_age)
        if merged_from and merged_from <= marked:
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
    progress: Progress = no_progress,
) -> int | None:
    """Mark the spans of `day` as accepted that the span store records as delivered.

    Whether the spans of an interrupted part arrived is unknown: "at most once" treats all of them as
    delivered, "at least once" has them sent again. If killed, it can be repeated.

    Args:
        day: The partition.
        spans: The span store and its delivery records.
        destination: Where the spans were sent.
        ledger: The ledger that shall know them.
        guarantee: What to assume of interrupted parts.
        progress: Called with a sentence when waiting for another run.

    Returns:
        How many items are newly settled; None if the ledger knew everything already.

    Raises:
        PipelineError: From the destination, the ledger or the store.
    """
    with ledger.delivery_lock(destination.name, day, on_wait=progress):
        records = DayDeliveries(day, destination.name, ledger, spans.deliveries)
        if records.why_behind() is None:
            return None
        stored = records.stored()
        names = {name for one in stored for name in one.parts}
        if guarantee is Guarantee.AT_MOST_ONCE:
            names |= {one.begun for one in stored if one.begun}
        delivered = _Delivered.of(day, names, spans)
        adopted, complete_parts = 0, list[str]()
        for part in spans.parts(day):
            count, complete = _settle(part, delivered, spans, destination, ledger)
            adopted += count
            if complete:
                complete_parts.append(part.name)
        seen = {one.ledger: one.count for one in stored}
        count = ledger.adopt(destination.name, day, complete_parts, seen)
        records.record_adoption(count, [*delivered.gone, *complete_parts])
    return adopted


@dataclass(frozen=True, slots=True)
class _Delivered:
    """What was delivered of a day.

    Attributes:
        day: The partition.
        names: The delivered span parts, under the names they had then.
        gone: Those that were rebuilt or merged since, and whose span ids were kept.
        keys: The ids of the spans in `gone`. Builds that were held back then, or merged with
            delivered ones later, are not among them.
        unknown: The raw parts of delivered span parts whose ids were not kept. All spans made
            from these count as delivered, so that nothing is sent twice.
    """

    day: str
    names: set[str]
    gone: list[str]
    keys: pa.Array
    unknown: set[str]

    @classmethod
    def of(cls, day: str, names: set[str], spans: SpanStore) -> Self:
        """Find the spans of the parts `names`."""
        current = {part.name for part in spans.parts(day)}
        keys = {name: spans.keys(day, name) for name in sorted(names - current)}
        found = {name: one for name, one in keys.items() if one is not None}
        joined = pa.concat_arrays([pa.array([], pa.string()), *found.values()])
        return cls(day, names, list(found), joined, raw_parts(list(keys.keys() - found.keys())))

    def in_part(self, part: SpanPart, spans: SpanStore) -> Callable[[pa.Table], Any]:
        """Return a function that marks which rows of `part` were delivered."""
        raw_names = {part.raw_part, *spans.merged_from(self.day, part)}
        if part.name in self.names or not raw_names.isdisjoint(self.unknown):
            return lambda table: np.ones(len(table), bool)
        return lambda table: np.asarray(pc.is_in(keys_of(table), value_set=self.keys))


def _settle(
    part: SpanPart,
    delivered: _Delivered,
    spans: SpanStore,
    destination: Destination,
    ledger: Ledger,
) -> tuple[int, bool]:
    """Settle the delivered spans of the part as accepted.

    Returns:
        How many items were not settled before, and whether the whole part was delivered.
    """
    count, complete = 0, True
    is_delivered = delivered.in_part(part, spans)
    for table in spans.tables(delivered.day, part, columns=destination.columns):
        rows = SpanRows.from_table(table)
        mask = is_delivered(rows.table)
        complete &= bool(mask.all())
        items = destination.encode(rows.filter(mask))
        settled = ledger.settled(destination.name, {item.trace_id for item in items})
        unsettled = unsent(items, settled, ())
        if unsettled:
            ledger.accept(ledger.begin(destination.name, delivered.day, ids_by_trace(unsettled)))
        count += len(unsettled)
    return count, complete

"""Deliver: send a destination the spans of a day that it does not have yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import zip_longest
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.delivery import (
    Delivery,
    DeliveryPolicy,
    Guarantee,
    PartNote,
)
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.sampling import DaySample, Sampling
from bk_pipeline.deliver.selection import ids_by_trace, unsent
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, no_progress
from bk_pipeline.pipeline.known import DayDeliveries
from bk_pipeline.store.delivery_records import DeliveryRecord, dropped_traces, raw_parts
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
    sampling: Sampling | None = None,
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
        sampling: The rules that decide which builds are sent; None sends all.
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
        rules = sampling if destination.sampled else None
        found = _classify_parts(day, spans, destination, ledger, rules)
        total.too_old += found.too_old
        total.sampled_out += found.sampled_out
        total.age_limit = destination.max_age_description
        records = DayDeliveries(day, destination.name, ledger, spans.deliveries)
        if not found.waiting:
            if found.sampled_out:
                total.sampled_out_builds = len(records.dropped())
            return total
        waiting = sorted(
            found.waiting, key=lambda one: (one.is_detail, spans.summary(day, one).first_ns or 0)
        )
        with records.delivering(waiting[0].name, found.delivered_before, resend=resend):
            sample = _sample(day, spans, rules, found.waiting, records.dropped())
            for part, after in zip_longest(waiting, waiting[1:]):
                before = total.too_old, total.sampled_out
                deliver(
                    spans.tables(day, part, columns=destination.columns),
                    day=day,
                    destination=destination,
                    ledger=ledger,
                    clock=clock,
                    policy=policy,
                    sample=sample,
                    on_progress=report,
                    on_wait=on_wait,
                    result=total,
                )
                note = _note(part, destination, rules, before, total)
                count = ledger.mark_part_delivered(destination.name, day, note)
                dropped: Collection[bytes] = sample.dropped if sample else ()
                total.sampled_out_builds = len(dropped)
                records.record_part(count, part.name, after.name if after else None, dropped)
    return total


def _note(
    part: SpanPart,
    destination: Destination,
    rules: Sampling | None,
    before: tuple[int, int],
    total: Delivery,
) -> str:
    """Return the ledger's note that `part` is delivered, given the counts before it and now."""
    too_old_before, sampled_out_before = before
    note = PartNote(
        part.name,
        too_old=total.too_old - too_old_before,
        max_age_s=int((destination.max_age or timedelta()).total_seconds()),
        sampled_out=total.sampled_out - sampled_out_before,
        rules=rules.digest if rules else "",
    )
    return str(note)


def _sample(
    day: str,
    spans: SpanStore,
    rules: Sampling | None,
    waiting: Sequence[SpanPart],
    dropped: set[bytes],
) -> DaySample | None:
    """Return the decisions about the builds of the `waiting` parts; None to send all.

    A build may be in several parts. The newest record decides, wherever it is, so that an
    interrupted delivery goes on with the same decisions.
    """
    if rules is None:
        return DaySample({}, dropped) if dropped else None
    parts = spans.parts(day)
    # What is inside of jobs goes with its build, which may be in any part.
    newer = parts[min(0 if one.is_detail else parts.index(one) for one in waiting) :]
    tables = spans.newest(day, columns=rules.columns, parts=newer)
    return DaySample(rules.thresholds(tables), dropped)


@dataclass(slots=True)
class _Parts:
    """The parts of a day.

    Attributes:
        delivered: The names of those whose spans are all settled.
        waiting: Those that may have spans to send.
        outdated: The names of waiting parts that were delivered when other rules or ages applied.
        too_old: Spans in `delivered` parts that exceed the destination's maximum age.
        sampled_out: Spans in `delivered` parts whose builds the rules drop.
    """

    delivered: list[str] = field(default_factory=list)
    waiting: list[SpanPart] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    too_old: int = 0
    sampled_out: int = 0

    @property
    def delivered_before(self) -> list[str]:
        """The names of the parts that were delivered, by whatever rules and age."""
        return [*self.delivered, *self.outdated]


def _classify_parts(
    day: str, spans: SpanStore, destination: Destination, ledger: Ledger, rules: Sampling | None
) -> _Parts:
    found = _Parts()
    marked = ledger.delivered_parts(destination.name, day)
    digest = rules.digest if rules else ""
    notes: dict[str, list[PartNote]] = {}
    for note in map(PartNote.parse, marked):
        notes.setdefault(note.part, []).append(note)
    for part in spans.delivery_parts(day):
        of_part = notes.get(part.name, [])
        holding = [note for note in of_part if note.holds(destination.max_age, digest)]
        if holding:
            # Those of earlier rules may hold again; what was sent since is not taken back.
            least = min(holding, key=lambda note: note.too_old + note.sampled_out)
            found.too_old += least.too_old
            found.sampled_out += least.sampled_out
            found.delivered.append(part.name)
            continue
        merged_from = {SpanPart(old, part.fingerprint).name for old in spans.merged_from(day, part)}
        if merged_from and merged_from <= marked:
            ledger.mark_part_delivered(destination.name, day, part.name)
            found.delivered.append(part.name)
            continue
        found.waiting.append(part)
        if of_part:
            found.outdated.append(part.name)
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
        delivered = _Delivered.of(day, names, spans, _dropped_by_all(stored))
        adopted, complete_parts, known_parts = 0, list[str](), list[str]()
        for part in spans.delivery_parts(day):
            settled = _settle(part, delivered, spans, destination, ledger)
            adopted += settled.items
            if settled.all_delivered:
                complete_parts.append(part.name)
            if settled.all_known:
                known_parts.append(part.name)
        seen = {one.ledger: one.count for one in stored}
        count = ledger.adopt(destination.name, day, complete_parts, seen)
        records.record_adoption(count, [*delivered.gone, *known_parts], delivered.dropped)
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
        dropped: The trace ids of builds that were sampled out, and so not delivered.
    """

    day: str
    names: set[str]
    gone: list[str]
    keys: pa.Array
    unknown: set[str]
    dropped: set[bytes]

    @classmethod
    def of(cls, day: str, names: set[str], spans: SpanStore, dropped: set[bytes]) -> Self:
        """Find the spans of the parts `names`."""
        current = {part.name for part in spans.delivery_parts(day)}
        keys = {name: spans.keys(day, name) for name in sorted(names - current)}
        found = {name: one for name, one in keys.items() if one is not None}
        joined = pa.concat_arrays([pa.array([], pa.string()), *found.values()])
        unknown = raw_parts(list(keys.keys() - found.keys()))
        return cls(day, names, list(found), joined, unknown, dropped)

    def in_part(self, part: SpanPart, spans: SpanStore) -> Callable[[pa.Table], Any]:
        """Return a function that marks which rows of `part` were delivered."""
        raw_names = {part.raw_part, *spans.merged_from(self.day, part)}
        if part.name in self.names or not raw_names.isdisjoint(self.unknown):
            return lambda table: np.ones(len(table), bool)
        return lambda table: np.asarray(pc.is_in(keys_of(table), value_set=self.keys))


def _dropped_by_all(stored: Sequence[DeliveryRecord]) -> set[bytes]:
    """Return the builds that no ledger has delivered, because each has sampled them out."""
    each = [dropped_traces(one) for one in stored if one.parts]
    return set.intersection(*each) if each else set()


class _Settled(NamedTuple):
    """What `adopt_day` made of a part.

    Attributes:
        items: How many items were not settled before.
        all_delivered: Whether all of its spans were delivered.
        all_known: Whether all of its spans were delivered or sampled out.
    """

    items: int
    all_delivered: bool
    all_known: bool


def _settle(
    part: SpanPart,
    delivered: _Delivered,
    spans: SpanStore,
    destination: Destination,
    ledger: Ledger,
) -> _Settled:
    """Settle the delivered spans of the part as accepted."""
    count, all_delivered, all_known = 0, True, True
    is_delivered = delivered.in_part(part, spans)
    dropped = pa.array([one.hex() for one in delivered.dropped], pa.string())
    for table in spans.tables(delivered.day, part, columns=destination.columns):
        rows = SpanRows.from_table(table)
        mask = is_delivered(rows.table)
        all_known &= bool(mask.all())
        texts = rows.table["trace_id"].cast(pa.string())
        mask = mask & ~np.asarray(pc.is_in(texts, value_set=dropped))
        all_delivered &= bool(mask.all())
        items = destination.encode(rows.filter(mask))
        settled = ledger.settled(destination.name, {item.trace_id for item in items})
        unsettled = unsent(items, settled, ())
        if unsettled:
            ledger.accept(ledger.begin(destination.name, delivered.day, ids_by_trace(unsettled)))
        count += len(unsettled)
    return _Settled(count, all_delivered, all_known)

"""Deliver metrics of deployments: what a day's table of deployments has that was not counted yet.

The ledger and the delivery records work as for spans, with two differences. Events of several days
can be about the same deployments, so all deliveries to a destination wait for each other. And a day
has one table, which is replaced, so what was delivered is recorded by the keys of the events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial

from bk_pipeline.analysis.columns import DEPLOYMENTS
from bk_pipeline.clock import Clock
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee, PartNote
from bk_pipeline.deliver.destination import Destination, Key
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.deliver.metrics.deployments import Event, events_of, table_of_events
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, no_progress, retry_past_damage
from bk_pipeline.pipeline.known import DayDeliveries
from bk_pipeline.spans.timing import to_ns
from bk_pipeline.store.spans import SpanStore, StatsStore
from bk_pipeline.text import counted

# Instead of a day, the name of the lock that deliveries of different days share.
ALL_DAYS = "any day"
KEY = re.compile(r"([0-9a-f]{32}):([0-9a-f]{16})")


def deliver_deployments(
    day: str,
    *,
    stats: StatsStore,
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
    """Send the events of the day's deployments that are not counted at the destination yet.

    Args:
        day: The partition.
        stats: Has the day's table of deployments; without one, nothing is sent.
        spans: The span store, for its delivery records.
        destination: Where they are sent.
        ledger: Which events are settled there.
        clock: Gives the times of batches, measures ages, and waits.
        policy: The delivery guarantee; None for the default.
        resend: Send events that this ledger does not know, even if another one delivered them.
        progress: Called as events are accepted.
        on_wait: Called with a sentence before each wait, from several threads.
        result: Updated as batches are answered. Returned at the end.

    Raises:
        LedgerBehind: Events were delivered that the ledger does not know.
        PipelineError: From the destination, the ledger or the store.
    """
    total = Delivery() if result is None else result
    name = destination.name

    def report(so_far: Delivery) -> None:
        progress(f"{day}: {counted(so_far.accepted, 'event')} accepted by {name}")

    with (
        ledger.delivery_lock(name, ALL_DAYS, on_wait=on_wait),
        ledger.delivery_lock(name, day, on_wait=on_wait),
    ):
        source = stats.source(DEPLOYMENTS.name, day)
        if source is None:
            return total
        if (policy or DeliveryPolicy()).guarantee is Guarantee.AT_MOST_ONCE:
            total.presumed_sent += ledger.presume_sent(name, day)
        events = _unsettled(events_of(stats.read(DEPLOYMENTS.name, day).to_pylist()), ledger, name)
        recent = [one for one in events if _is_recent(one, destination, clock)]
        total.too_old += len(events) - len(recent)
        total.age_limit = destination.max_age_description
        note = str(_note(source, destination, too_old=len(events) - len(recent)))
        if not recent:
            if note not in ledger.delivered_parts(name, day):
                ledger.mark_part_delivered(name, day, note)
            return total
        known = DayDeliveries(day, name, ledger, spans.deliveries)
        part = _text_of(key for one in recent for key in one.keys)
        with known.delivering(part, _own_parts(known), resend=resend):
            deliver(
                [table_of_events(recent)],
                day=day,
                destination=destination,
                ledger=ledger,
                clock=clock,
                policy=policy,
                on_progress=report,
                on_wait=on_wait,
                result=total,
            )
            known.record_part(ledger.mark_part_delivered(name, day, note), part, None, ())
    return total


def _unsettled(events: Sequence[Event], ledger: Ledger, name: str) -> list[Event]:
    """Return the events of which no key is settled, nor that of an earlier one of them."""
    settled = ledger.settled(name, {trace_id for one in events for trace_id, _ in one.keys})
    found: list[Event] = []
    taken: set[Key] = set()
    for one in events:
        known = any(item_id in settled.get(trace_id, ()) for trace_id, item_id in one.keys)
        if not known and taken.isdisjoint(one.keys):
            found.append(one)
            taken.update(one.keys)
    return found


def _is_recent(event: Event, destination: Destination, clock: Clock) -> bool:
    limit = destination.max_age
    return limit is None or event.time_ns >= to_ns(clock.now() - limit)


def _note(source: str, destination: Destination, *, too_old: int) -> PartNote:
    """Return the ledger's note that a version of the day's table is delivered."""
    max_age = destination.max_age or timedelta()
    return PartNote(source, too_old=too_old, max_age_s=int(max_age.total_seconds()))


def uncounted_days(
    days: Sequence[str], *, stats: StatsStore, destination: Destination, ledger: Ledger | None
) -> list[str]:
    """Return those of `days` whose table of deployments may have events to send.

    Args:
        days: The days to look at.
        stats: Has the tables.
        destination: Where the events are sent.
        ledger: Knows what was sent; None if there is none yet.
    """
    found = []
    for day in days:
        source = retry_past_damage(partial(stats.source, DEPLOYMENTS.name, day), [])
        notes = ledger.delivered_parts(destination.name, day) if ledger else ()
        delivered = (PartNote.parse(note) for note in notes)
        if source is not None and not any(
            note.part == source and note.holds(destination.max_age, "") for note in delivered
        ):
            found.append(day)
    return found


def adopt_deployments(
    day: str,
    *,
    spans: SpanStore,
    destination: Destination,
    ledger: Ledger,
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE,
    progress: Progress = no_progress,
) -> int | None:
    """Mark the events of `day` as accepted that the span store records as delivered.

    As `adopt_day` for spans.
    """
    name = destination.name
    with ledger.delivery_lock(name, day, on_wait=progress):
        known = DayDeliveries(day, name, ledger, spans.deliveries)
        if known.why_behind() is None:
            return None
        stored = known.stored()
        parts = [part for one in stored for part in one.parts]
        if guarantee is Guarantee.AT_MOST_ONCE:
            parts += [one.begun for one in stored if one.begun]
        keys = {key for part in parts for key in _keys_in(part)}
        settled = ledger.settled(name, {trace_id for trace_id, _ in keys})
        missing: dict[bytes, list[bytes]] = {}
        for trace_id, item_id in keys:
            if item_id not in settled.get(trace_id, ()):
                missing.setdefault(trace_id, []).append(item_id)
        if missing:
            ledger.accept(ledger.begin(name, day, missing))
        count = ledger.adopt(name, day, [], {one.ledger: one.count for one in stored})
        known.record_adoption(count, [part for part in parts if _keys_in(part)], ())
    return sum(map(len, missing.values()))


def _own_parts(known: DayDeliveries) -> list[str]:
    own = [one for one in known.stored() if one.ledger == known.ledger.id]
    return [part for one in own for part in one.parts]


def _text_of(keys: Iterable[Key]) -> str:
    """Return keys as the name of a part in a delivery record."""
    return " ".join(f"{trace_id.hex()}:{item_id.hex()}" for trace_id, item_id in keys)


def _keys_in(part: str) -> list[Key]:
    """Return the keys in the name of a part; none if it is one of spans."""
    return [(bytes.fromhex(one[1]), bytes.fromhex(one[2])) for one in KEY.finditer(part)]

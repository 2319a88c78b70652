"""Deliver: what a destination does not have yet of a day's spans."""

from __future__ import annotations

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.aged import aged_note, too_old_in
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, silent
from bk_pipeline.spans.text import counted
from bk_pipeline.store.spans import SpanPart, SpanStore


def deliver_day(
    day: str,
    *,
    spans: SpanStore,
    destination: Destination,
    ledger: Ledger,
    clock: Clock,
    policy: DeliveryPolicy | None = None,
    progress: Progress = silent,
    on_wait: Progress = silent,
    result: Delivery | None = None,
) -> Delivery:
    """Send what the destination has not settled yet of the day's spans.

    Two runs that deliver the same day to the same destination take turns.

    Args:
        on_wait: Called with a sentence before each wait; from several threads.
        result: Updated as batches are answered, so that it is right even if this raises.
            Returned at the end.

    Raises:
        PipelineError: From the destination or the ledger. What was accepted until then is
            in the ledger and will not be sent again.
    """
    total = Delivery() if result is None else result

    def tell(so_far: Delivery) -> None:
        progress(f"{day}: {counted(so_far.accepted, 'event')} accepted by {destination.name}")

    with ledger.exclusive(destination.name, day, on_wait=on_wait):
        settled = ledger.delivered_parts(destination.name, day)
        waiting = [part for part in spans.parts(day) if part.name not in settled]
        for part in waiting[:]:
            merged_of = {SpanPart(old, part.recipe).name for old in spans.replaced(day, part)}
            if merged_of and merged_of <= settled:
                ledger.note_part(destination.name, day, part.name)
                waiting.remove(part)
                continue
            too_old = too_old_in(settled, part.name, destination.max_age)
            if too_old is not None:
                total.too_old += too_old
                waiting.remove(part)
        for part in sorted(waiting, key=lambda part: spans.summary(day, part).first_ns or 0):
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
            ledger.note_part(destination.name, day, note)
    return total

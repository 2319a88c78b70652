"""Delivering a day's spans: what is left to send, in batches, several under way at once.

The caller holds the ledger's turn for the day. Encoding happens here, in one thread, while
others send; whatever they do to the ledger they do batch by batch (`sending.py`), so this
may be interrupted anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Event, Lock

import pyarrow as pa

from bk_pipeline import stopping, telemetry
from bk_pipeline.clock import Clock
from bk_pipeline.contracts import ItemIds
from bk_pipeline.deliver.batching import Batching
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destination import Destination, Item, Key, Receipts
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.selection import NOTHING, select, unsent
from bk_pipeline.deliver.sending import Sender, Stopped

# Batches that wait, encoded, until a request ends.
BATCHES_READY = 2
# Encoded together: more is hardly faster, and takes a kilobyte each. A row group of the span
# store mostly fits.
ROWS_AT_ONCE = 16_384

Progress = Callable[[Delivery], None]


def deliver(
    tables: Iterable[pa.Table],
    *,
    day: str,
    destination: Destination,
    ledger: Receipts,
    clock: Clock,
    policy: DeliveryPolicy | None = None,
    on_progress: Progress | None = None,
    on_wait: Callable[[str], None] | None = None,
    result: Delivery | None = None,
) -> Delivery:
    """What came of sending to `destination` all that it has not settled of `tables`.

    Args:
        tables: Of the span table's schema, each holding whole builds, in time order; one
            at a time is in memory. What they hold leaves in the order that `encode` gives it.
        day: The day that all of them belong to. The caller holds `ledger.delivery_lock` for it.
        destination: Where to.
        ledger: What is settled, and who is told what was.
        clock: Tells how old spans are, and waits.
        policy: Guarantee and concurrency.
        on_progress: Told what has come of it so far, after each batch, in this thread.
        on_wait: Called with a sentence before each pause; from the senders' threads.
        result: Added to as batches are answered, so that it is right even if this raises.
            Returned at the end.

    Raises:
        PipelineError: From the destination, the ledger or `tables`. What was accepted until
            then is in the ledger; the next delivery sends the rest.
    """
    chosen = policy or DeliveryPolicy()
    total = Delivery() if result is None else result
    loop = _Loop(day, destination, ledger, clock, chosen, total, on_progress, on_wait)
    return loop.run(tables)


class _Loop:
    """One call of `deliver`. All but the senders' threads is single-threaded."""

    def __init__(  # noqa: PLR0917  # called once, above
        self,
        day: str,
        destination: Destination,
        ledger: Receipts,
        clock: Clock,
        policy: DeliveryPolicy,
        total: Delivery,
        on_progress: Progress | None,
        on_wait: Callable[[str], None] | None,
    ) -> None:
        self._day = day
        self._destination = destination
        self._name = destination.name
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._on_progress = on_progress
        self._on_wait = on_wait
        self._in_flight = min(
            policy.in_flight, destination.limits.requests_at_once or policy.in_flight
        )
        self._total = total
        self._total_lock = Lock()  # senders add to it too
        self._doubts: ItemIds = {}
        self._stop = Event()
        self._interrupted = stopping.Stop()
        self._batching = Batching(destination.limits)
        self._under_way: dict[Future[Delivery], Sequence[Item]] = {}

    def run(self, tables: Iterable[pa.Table]) -> Delivery:
        started = self._clock.monotonic()
        if self._policy.guarantee is Guarantee.AT_MOST_ONCE:
            presumed_sent = self._ledger.presume_sent(self._name, self._day)
            self._add(Delivery(presumed_sent=presumed_sent))
        self._doubts = self._ledger.in_doubt(self._name, self._day)
        self._send_all(tables)
        if self._ledger.in_doubt(self._name, self._day):
            self._ledger.drop_settled_doubts(self._name, self._day)
        self._add(Delivery(seconds=self._clock.monotonic() - started))
        return self._total

    def _add(self, part: Delivery) -> None:
        with self._total_lock:
            self._total += part

    def _send_all(self, tables: Iterable[pa.Table]) -> None:
        sender = Sender(
            self._destination,
            self._ledger,
            day=self._day,
            clock=self._clock,
            policy=self._policy,
            stop=self._stop,
            on_settled=self._add,
            on_wait=self._on_wait,
        )
        with ThreadPoolExecutor(self._in_flight, "bk-deliver") as pool:
            try:
                for batch in self._batches(tables):
                    self._collect(leaving=self._in_flight + BATCHES_READY - 1)
                    future = pool.submit(telemetry.bind_context(self._send), sender, batch)
                    self._under_way[future] = batch
                self._collect(leaving=0)
            except BaseException as exc:
                self._stop.set()
                if not isinstance(exc, Exception):
                    # By a signal: requests that are under way end soon, answered or not.
                    self._interrupted.request()
                raise

    def _send(self, sender: Sender, batch: Sequence[Item]) -> Delivery:
        told: dict[str, telemetry.Value] = {
            "bk_pipeline.destination": self._name,
            "bk_pipeline.items": len(batch),
        }
        with (
            stopping.stopped_by(self._interrupted),
            telemetry.span("deliver batch", told) as span,
        ):
            came_of_it = sender.deliver(batch)
            counts = ("accepted", "rejected", "sent_bytes")
            span.set_attributes(
                {f"bk_pipeline.{name}": getattr(came_of_it, name) for name in counts}
            )
        return came_of_it

    def _collect(self, *, leaving: int) -> None:
        """Wait until at most `leaving` batches are under way.

        Raises:
            PipelineError: The first that ended in one.
        """
        while len(self._under_way) > leaving:
            ended, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                del self._under_way[future]
                with suppress(Stopped):  # the thread that set the stop raises its error
                    future.result()
                if self._on_progress is not None:
                    self._on_progress(self._total)

    def _batches(self, tables: Iterable[pa.Table]) -> Iterator[Sequence[Item]]:
        """What is to be sent, encoded a table, or a large piece of one, at a time."""
        for each in tables:
            for at in range(0, each.num_rows, ROWS_AT_ONCE):
                piece = each.slice(at, ROWS_AT_ONCE)
                # Nothing here holds them any longer than the batches do.
                yield from self._batching.add(self._items_of(SpanRows.of(piece)))
        yield from self._batching.rest()

    def _items_of(self, rows: SpanRows) -> Sequence[Item]:
        # Batches end in this thread alone, so what ends later is in here or in the ledger.
        under_way = self._keys_under_way(rows.trace_ids)
        settled = self._ledger.settled(self._name, rows.trace_ids)
        selection = select(
            rows,
            settled,
            now=self._clock.now(),
            max_age=self._destination.max_age,
            age_by_end=self._destination.max_age_by_end,
            future_limit=self._destination.future_limit,
        )
        selected = Delivery(
            already_settled=selection.already_settled,
            too_old=selection.too_old,
            future=selection.future,
        )
        self._add(selected)
        if not len(selection.rows):
            return ()
        items = self._destination.encode(selection.rows)
        left = unsent(items, settled, under_way)
        resent = 0
        if self._doubts:
            resent = sum(item.item_id in self._doubts.get(item.trace_id, NOTHING) for item in left)
        self._add(Delivery(already_settled=len(items) - len(left), in_doubt_resent=resent))
        return left

    def _keys_under_way(self, trace_ids: Iterable[bytes]) -> Collection[Key]:
        """Of the items of these builds, what the ledger cannot know yet."""
        traces = set(trace_ids)
        batches = (*self._under_way.values(), self._batching.pending)
        return {item.key for batch in batches for item in batch if item.trace_id in traces}

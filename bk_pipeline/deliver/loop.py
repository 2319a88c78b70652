"""Deliver a day's spans: select what is left to send, encode it, send batches concurrently.

The caller holds the ledger's delivery lock of the day. One thread encodes while others send. The
senders update the ledger batch by batch (`sending.py`), so a delivery may be interrupted at any
point.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Event, Lock

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline import telemetry
from bk_pipeline.clock import Clock, Stop, stopped_by
from bk_pipeline.contracts import ItemIds
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destination import DeliveryLedger, Destination, Item, Key
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.sampling import DaySample
from bk_pipeline.deliver.selection import NO_IDS, Batcher, select, unsent
from bk_pipeline.deliver.sending import Sender, Stopped

# Encoded batches that wait for a request to end.
QUEUED_BATCHES = 2
# Rows encoded at once. More is hardly faster and takes about 1 kB of memory per row. Most row
# groups of the span store fit.
MAX_ROWS_PER_ENCODE = 16_384

Progress = Callable[[Delivery], None]


def deliver(
    tables: Iterable[pa.Table],
    *,
    day: str,
    destination: Destination,
    ledger: DeliveryLedger,
    clock: Clock,
    policy: DeliveryPolicy | None = None,
    sample: DaySample | None = None,
    on_progress: Progress | None = None,
    on_wait: Callable[[str], None] | None = None,
    result: Delivery | None = None,
) -> Delivery:
    """Send everything in `tables` that `destination` has not settled yet.

    Args:
        tables: Tables with the span table's schema, each holding whole builds, in time order. Only
            one at a time is in memory; `encode` decides the order within each.
        day: The day of all spans. The caller holds `ledger.delivery_lock` for it.
        destination: The destination.
        ledger: Knows what is settled and records the outcomes.
        clock: Measures the age of spans, and sleeps.
        policy: Guarantee and concurrency.
        sample: The decisions about the builds; None sends all.
        on_progress: Called with the result so far after each batch, in this thread.
        on_wait: Called with a sentence before each wait, from the senders' threads.
        result: Updated as responses arrive, so that it is right even if this raises. Returned at
            the end.

    Raises:
        PipelineError: From the destination, the ledger or `tables`. Items accepted until then are
            in the ledger; the next delivery sends the rest.
    """
    chosen = policy or DeliveryPolicy()
    total = Delivery() if result is None else result
    loop = _Loop(day, destination, ledger, clock, chosen, sample, total, on_progress, on_wait)
    return loop.run(tables)


class _Loop:
    """One call of `deliver`. Runs in a single thread, except for the senders."""

    def __init__(  # noqa: PLR0917  # called once, above
        self,
        day: str,
        destination: Destination,
        ledger: DeliveryLedger,
        clock: Clock,
        policy: DeliveryPolicy,
        sample: DaySample | None,
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
        self._sample = sample
        self._on_progress = on_progress
        self._on_wait = on_wait
        self._max_in_flight = min(
            policy.in_flight, destination.limits.max_concurrent_requests or policy.in_flight
        )
        self._total = total
        self._total_lock = Lock()  # senders update it too
        self._in_doubt: ItemIds = {}
        self._stop = Event()
        self._interrupted = Stop()
        self._batcher = Batcher(destination.limits)
        self._in_flight: dict[Future[Delivery], Sequence[Item]] = {}

    def run(self, tables: Iterable[pa.Table]) -> Delivery:
        """Deliver `tables` and return the result."""
        started = self._clock.monotonic()
        if self._policy.guarantee is Guarantee.AT_MOST_ONCE:
            presumed_sent = self._ledger.presume_sent(self._name, self._day)
            self._add(Delivery(presumed_sent=presumed_sent))
        self._in_doubt = self._ledger.in_doubt(self._name, self._day)
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
        with ThreadPoolExecutor(self._max_in_flight, "bk-deliver") as pool:
            try:
                for batch in self._batches(tables):
                    self._collect(leaving=self._max_in_flight + QUEUED_BATCHES - 1)
                    future = pool.submit(telemetry.bind_context(self._send), sender, batch)
                    self._in_flight[future] = batch
                self._collect(leaving=0)
            except BaseException as exc:
                self._stop.set()
                if not isinstance(exc, Exception):
                    # Interrupted by a signal: end requests in flight soon, answered or not.
                    self._interrupted.request()
                raise

    def _send(self, sender: Sender, batch: Sequence[Item]) -> Delivery:
        attributes: dict[str, telemetry.Value] = {
            "bk_pipeline.destination": self._name,
            "bk_pipeline.items": len(batch),
        }
        with (
            stopped_by(self._interrupted),
            telemetry.span("deliver batch", attributes) as span,
        ):
            result = sender.deliver(batch)
            counts = ("accepted", "rejected", "sent_bytes")
            span.set_attributes({f"bk_pipeline.{name}": getattr(result, name) for name in counts})
        return result

    def _collect(self, *, leaving: int) -> None:
        """Wait until at most `leaving` batches are in flight.

        Raises:
            PipelineError: The error of the first batch that failed.
        """
        while len(self._in_flight) > leaving:
            ended, _ = wait(self._in_flight, return_when=FIRST_COMPLETED)
            for future in ended:
                del self._in_flight[future]
                with suppress(Stopped):  # the thread that set the stop raises its error
                    future.result()
                if self._on_progress is not None:
                    self._on_progress(self._total)

    def _batches(self, tables: Iterable[pa.Table]) -> Iterator[Sequence[Item]]:
        """Encode one table at a time, or a slice of a large one, and yield full batches."""
        for table in tables:
            kept, thresholds = self._sampled(table)
            for start in range(0, kept.num_rows, MAX_ROWS_PER_ENCODE):
                rows = SpanRows.from_table(kept.slice(start, MAX_ROWS_PER_ENCODE), thresholds)
                # No reference to the items outlives their batches.
                yield from self._batcher.add(self._items_of(rows))
        yield from self._batcher.flush()

    def _sampled(self, table: pa.Table) -> tuple[pa.Table, Mapping[bytes, int]]:
        """Return the rows of builds that are kept, and the thresholds of those that have one."""
        if self._sample is None:
            return table, {}
        texts = table["trace_id"].cast(pa.string())
        traces = list(map(bytes.fromhex, texts.unique().to_pylist()))
        known = {
            *self._ledger.settled(self._name, traces),
            *self._in_doubt,
            *(trace_id for trace_id, _ in self._keys_in_flight(traces)),
        }
        sent = self._ledger.thresholds(self._name, traces)
        kept = self._sample.decide(traces, known, sent)
        changed = {
            one: threshold for one, threshold in kept.items() if threshold != sent.get(one, 0)
        }
        if changed:
            # Before anything leaves, so that a build that resumes is weighted like its first spans.
            self._ledger.record_thresholds(self._name, self._day, changed)
        ids = pa.array([one.hex() for one in kept], pa.string())
        rows = table if len(kept) == len(traces) else table.filter(pc.is_in(texts, value_set=ids))
        self._add(Delivery(sampled_out=len(table) - len(rows)))
        return rows, {one: threshold for one, threshold in kept.items() if threshold}

    def _items_of(self, rows: SpanRows) -> Sequence[Item]:
        # Batches are removed from `_in_flight` in this thread only, so every item sent so far is
        # either in it or in the ledger.
        in_flight = self._keys_in_flight(rows.trace_ids)
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
        to_send = unsent(items, settled, in_flight)
        resent = 0
        if self._in_doubt:
            resent = sum(
                item.item_id in self._in_doubt.get(item.trace_id, NO_IDS) for item in to_send
            )
        self._add(Delivery(already_settled=len(items) - len(to_send), in_doubt_resent=resent))
        return to_send

    def _keys_in_flight(self, trace_ids: Iterable[bytes]) -> Collection[Key]:
        """Return the keys of items of these builds that the ledger cannot know yet."""
        traces = set(trace_ids)
        batches = (*self._in_flight.values(), self._batcher.pending)
        return {item.key for batch in batches for item in batch if item.trace_id in traces}

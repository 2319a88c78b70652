"""Delivering a day's spans: what is left to send, in batches, several under way at once.

The caller holds the ledger's turn for the day. Encoding happens here, in one thread, while
others send; whatever they do to the ledger they do batch by batch (`sending.py`), so this
may be interrupted anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from operator import attrgetter
from threading import Event

import pyarrow as pa

from bk_pipeline import telemetry
from bk_pipeline.clock import Clock
from bk_pipeline.deliver.batching import batches
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destination import Destination, Item
from bk_pipeline.deliver.receipts import ItemIds, Receipts
from bk_pipeline.deliver.selection import NOTHING, builds_of, one_chunk, select
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
) -> Delivery:
    """What came of sending to `destination` all that it has not settled of `tables`.

    Args:
        tables: Of the span table's schema, each holding whole builds, in time order; one
            at a time is in memory. Within each, spans leave in the order of their start.
        day: The day that all of them belong to. The caller holds `ledger.exclusive` for it.
        destination: Where to.
        ledger: What is settled, and who is told what was.
        clock: Tells how old spans are, and waits.
        policy: Guarantee and concurrency.
        on_progress: Told what has come of it so far, after each batch, in this thread.

    Raises:
        PipelineError: From the destination, the ledger or `tables`. What was accepted until
            then is in the ledger; the next delivery sends the rest.
    """
    chosen = policy or DeliveryPolicy()
    return _Loop(day, destination, ledger, clock, chosen, on_progress).run(tables)


class _Loop:
    """One call of `deliver`. All but the senders' threads is single-threaded."""

    def __init__(  # noqa: PLR0917  # called once, above
        self,
        day: str,
        destination: Destination,
        ledger: Receipts,
        clock: Clock,
        policy: DeliveryPolicy,
        on_progress: Progress | None,
    ) -> None:
        self._day = day
        self._destination = destination
        self._name = destination.name
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._on_progress = on_progress
        self._in_flight = min(
            policy.in_flight, destination.limits.requests_at_once or policy.in_flight
        )
        self._total = Delivery()
        self._doubts: ItemIds = {}
        self._stop = Event()
        self._under_way: dict[Future[Delivery], Sequence[Item]] = {}
        # What the ledger cannot know yet, lest a build that stands twice be sent twice.
        self._keys_under_way: set[tuple[bytes, bytes]] = set()

    def run(self, tables: Iterable[pa.Table]) -> Delivery:
        started = self._clock.monotonic()
        if self._policy.guarantee is Guarantee.AT_MOST_ONCE:
            self._total.presumed_sent = self._ledger.presume_sent(self._name, self._day)
        self._doubts = self._ledger.in_doubt(self._name, self._day)
        self._send_all(tables)
        if self._ledger.in_doubt(self._name, self._day):
            self._ledger.drop_settled_doubts(self._name, self._day)
        self._total.seconds = self._clock.monotonic() - started
        return self._total

    def _send_all(self, tables: Iterable[pa.Table]) -> None:
        sender = Sender(
            self._destination,
            self._ledger,
            day=self._day,
            clock=self._clock,
            policy=self._policy,
            stop=self._stop,
        )
        with ThreadPoolExecutor(self._in_flight, "bk-deliver") as pool:
            try:
                for batch in batches(self._items(tables), self._destination.limits):
                    self._collect(leaving=self._in_flight + BATCHES_READY - 1)
                    future = pool.submit(telemetry.carried(self._send), sender, batch)
                    self._under_way[future] = batch
                self._collect(leaving=0)
            except BaseException:
                self._stop.set()
                raise

    def _send(self, sender: Sender, batch: Sequence[Item]) -> Delivery:
        told: dict[str, telemetry.Value] = {
            "bk_pipeline.destination": self._name,
            "bk_pipeline.items": len(batch),
        }
        with telemetry.span("deliver batch", told) as note:
            came_of_it = sender.deliver(batch)
            counts = ("accepted", "rejected", "sent_bytes")
            note.add({f"bk_pipeline.{name}": getattr(came_of_it, name) for name in counts})
        return came_of_it

    def _collect(self, *, leaving: int) -> None:
        """Add up what batches came to, until at most `leaving` are under way.

        Raises:
            PipelineError: The first that ended in one.
        """
        while len(self._under_way) > leaving:
            ended, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                items = self._under_way.pop(future)
                with suppress(Stopped):  # whoever gave the stop is among the others
                    self._total += future.result()
                self._keys_under_way.difference_update(item.key for item in items)
                if self._on_progress is not None:
                    self._on_progress(self._total)

    def _items(self, tables: Iterable[pa.Table]) -> Iterator[Item]:
        """What is to be sent, in time order within each table or large piece of one."""
        for each in tables:
            for at in range(0, each.num_rows, ROWS_AT_ONCE):
                yield from self._items_of(one_chunk(each.slice(at, ROWS_AT_ONCE)))

    def _items_of(self, table: pa.Table) -> Iterator[Item]:
        builds = builds_of(table)
        # Before the ledger is asked: what is settled after that, it did not say.
        taken = set(self._keys_under_way)
        settled = self._ledger.settled(self._name, builds.trace_ids)
        selection = select(
            table,
            builds,
            settled,
            now=self._clock.now(),
            max_age=self._destination.max_age,
            future_limit=self._destination.future_limit,
        )
        self._total += Delivery(
            already_settled=selection.already_settled,
            too_old=selection.too_old,
            future=selection.future,
        )
        if not selection.table.num_rows:
            return
        items = sorted(self._destination.encode(selection.table), key=attrgetter("time_ns"))
        for item in items:
            key = item.key
            if key in taken or item.item_id in settled.get(item.trace_id, NOTHING):
                self._total.already_settled += 1
                continue
            taken.add(key)
            self._keys_under_way.add(key)
            if item.item_id in self._doubts.get(item.trace_id, NOTHING):
                self._total.in_doubt_resent += 1
            yield item

"""The ledger's interface: for deliveries, and for people who inspect or edit it.

A batch is recorded as in doubt before it is sent, and settled by its answer, each in one short
transaction. So at any time, an item that was sent is either settled or in doubt.

A destination is identified by its name, which must not contain a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Self

from bk_pipeline.clock import Clock
from bk_pipeline.contracts import ItemIds, Rejection
from bk_pipeline.ledger import batches, packed, review, settled
from bk_pipeline.ledger.database import Database
from bk_pipeline.ledger.locks import DeliveryLocks
from bk_pipeline.ledger.markers import MarkerStore
from bk_pipeline.ledger.review import ItemFilter, PresumedItems, RecordedRejection, Summary
from bk_pipeline.ledger.schema import open_database
from bk_pipeline.settings import Settings

BUSY_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 1_800.0


class Ledger:
    """One ledger. Thread-safe; several processes can use the same ledger.

    Every method may raise RetryableError (the database is busy) and StorageError (it cannot be
    used: a full disk, no permission, a damaged file); the message says what to do. In that case the
    method has written nothing.
    """

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._delivery_locks = DeliveryLocks(database, clock)
        self.markers = MarkerStore(database)

    @classmethod
    def from_settings(cls, settings: Settings, *, clock: Clock, create: bool = True) -> Self:
        """Open the ledger at `BK_PIPELINE_LEDGER_URL`, or the file in the data directory.

        Args:
            settings: Where the ledger is.
            clock: As for `open`.
            create: As for `open`.
        """
        url = settings.ledger_url
        where = settings.ledger_path if url is None else url.get_secret_value()
        return cls.open(where, clock=clock, create=create)

    @classmethod
    def open(
        cls,
        where: Path | str,
        *,
        clock: Clock,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        create: bool = True,
    ) -> Self:
        """Open the ledger at `where`, creating it if it is missing.

        Args:
            where: An SQLite file on a local disk, or the URL of a PostgreSQL database.
            clock: Gives the times that are recorded, and waits.
            busy_timeout_s: How long to wait for other writers, in seconds.
            create: Whether to create a missing ledger.

        Raises:
            NoLedger: The ledger is missing, and `create` is not set.
        """
        database = open_database(where, busy_timeout_s=busy_timeout_s, create=create)
        return cls(database, clock=clock)

    @property
    def where(self) -> str:
        """The database as shown to users, without a password."""
        return self._database.where

    @property
    def id(self) -> str:
        """32 hex digits, created with the ledger. Copies and backups have the same id."""
        return self._identity[0]

    @property
    def predates_records(self) -> bool:
        """Whether the ledger was in use before span stores kept delivery records."""
        return self._identity[1]

    @cached_property
    def _identity(self) -> tuple[str, bool]:
        with self._database.read() as connection:
            return batches.identity_of(connection)

    def close(self) -> None:
        """Close the connections. Using the ledger again opens new ones."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For deliveries.

    @contextmanager
    def delivery_lock(
        self,
        destination: str,
        day: str,
        *,
        on_wait: Callable[[str], None] | None = None,
        timeout_s: float = LOCK_TIMEOUT_S,
    ) -> Iterator[None]:
        """Hold the delivery lock of `day` and `destination` during the block.

        It is released if the process dies. On PostgreSQL it is lost with its connection; then
        `begin` fails, and so do the other methods that need the lock.

        Args:
            destination: The destination's name.
            day: The partition.
            on_wait: Called once with a sentence if another run holds the lock.
            timeout_s: How long to wait for it, in seconds.

        Raises:
            RetryableError: The other run still held the lock after `timeout_s`.
        """
        with self._delivery_locks.hold(destination, [day], on_wait=on_wait, timeout_s=timeout_s):
            yield

    def settled(
        self, destination: str, trace_ids: Collection[bytes]
    ) -> Mapping[bytes, Collection[bytes]]:
        """Return the settled items of these traces, which must not be sent, by trace."""
        with self._database.read() as connection:
            return settled.items(connection, destination, trace_ids)

    def thresholds(self, destination: str, trace_ids: Collection[bytes]) -> Mapping[bytes, int]:
        """Return the sampling thresholds with which builds were sent; others had none."""
        with self._database.read() as connection:
            return settled.thresholds(connection, destination, trace_ids)

    def record_thresholds(
        self, destination: str, day: str, thresholds: Mapping[bytes, int]
    ) -> None:
        """Record the sampling thresholds with which builds of `day` are about to be sent.

        The caller must hold `delivery_lock`.
        """
        with self._delivery_locks.write(destination, day) as connection:
            number = packed.ensure_destination_id(connection, destination)
            settled.record_thresholds(connection, number, thresholds)

    def in_doubt(self, destination: str, day: str) -> Mapping[bytes, Collection[bytes]]:
        """Return the items of `day` that may have been sent and are not settled, by trace."""
        with self._database.read() as connection:
            return batches.in_doubt_items(connection, destination, day)

    def begin(self, destination: str, day: str, items: ItemIds) -> int:
        """Record a new batch in doubt and return its number. Call this before sending it.

        Raises:
            RetryableError: Also if `delivery_lock` was lost; then send nothing more.
        """
        begin = partial(
            batches.begin, destination=destination, day=day, items=items, now=self._now()
        )
        return self._delivery_locks.run(destination, day, begin)

    def begin_again(self, destination: str, day: str, batch: int) -> None:
        """Record that a batch is sent again. Call this before sending it.

        Raises:
            RetryableError: As for `begin`.
        """
        again = partial(batches.begin_again, batch=batch, now=self._now())
        self._delivery_locks.run(destination, day, again)

    def accept(self, batch: int) -> None:
        """Settle a whole batch as accepted. Does the same as `settle`, many times faster."""
        self._database.run(partial(batches.accept, batch=batch))

    def settle(
        self,
        batch: int,
        *,
        accepted: ItemIds | None = None,
        rejected: Iterable[Rejection] = (),
        in_doubt: ItemIds | None = None,
    ) -> None:
        """Record the outcomes of a batch's items.

        Items that are not given did not arrive and count as never sent. The batch stays as long as
        any of its items is in doubt. Settling a batch again changes nothing, so it is safe to retry
        after a connection error.

        Args:
            batch: The batch's number.
            accepted: Items that the destination accepted.
            rejected: Items that it rejected, with the reasons.
            in_doubt: Items whose outcome is still unknown.
        """
        self._database.run(
            partial(
                batches.settle,
                batch=batch,
                accepted=accepted or {},
                rejected=list(rejected),
                in_doubt=in_doubt or {},
                now=self._now(),
            )
        )

    def presume_sent(self, destination: str, day: str) -> int:
        """Settle the items of `day` that are in doubt as presumed sent; return how many.

        The caller must hold `delivery_lock`, so that they are from runs that have ended.
        """
        with self._delivery_locks.write(destination, day) as connection:
            return batches.presume_sent(connection, destination, day)

    def drop_settled_doubts(self, destination: str, day: str) -> None:
        """Remove the doubt about items of `day` that have been settled since.

        The caller must hold `delivery_lock`.
        """
        with self._delivery_locks.write(destination, day) as connection:
            batches.drop_settled_doubts(connection, destination, day)

    def delivered_parts(self, destination: str, day: str) -> set[str]:
        """Return the parts of `day` that are marked as delivered."""
        with self._database.read() as connection:
            return packed.parts_delivered(connection, destination, day)

    def mark_part_delivered(self, destination: str, day: str, part: str) -> int:
        """Mark `part` as holding no unsettled item. Parts are immutable, so it never will.

        Returns:
            The day's delivery count, which is raised in the same transaction.
        """
        with self._delivery_locks.write(destination, day) as connection:
            packed.mark_delivered(connection, destination, day, part)
            return batches.raise_count(connection, destination, day, self.id, {})

    def delivery_counts(self, destination: str, day: str) -> Mapping[str, int]:
        """Return the delivery counts of `day` that this ledger knows, by ledger id."""
        with self._database.read() as connection:
            return batches.counts(connection, destination, day)

    def knows_day(self, destination: str, day: str) -> bool:
        """Whether anything of `day` is settled or in doubt."""
        with self._database.read() as connection:
            return batches.knows_day(connection, destination, day)

    def has_lost_items(self, destination: str, day: str) -> bool:
        """Whether settled items of `day` have disappeared from the ledger."""
        with self._database.read() as connection:
            return batches.has_lost_items(connection, destination, day)

    def raise_delivery_count(self, destination: str, day: str, seen: Mapping[str, int]) -> int:
        """Raise the day's delivery count above the old one and `seen`, and return it.

        Args:
            destination: The destination's name.
            day: The partition. The caller holds `delivery_lock`.
            seen: The counts in the span store by ledger id, which this ledger records.
        """
        with self._delivery_locks.write(destination, day) as connection:
            return batches.raise_count(connection, destination, day, self.id, seen)

    def adopt(
        self, destination: str, day: str, parts_known: Iterable[str], seen: Mapping[str, int]
    ) -> int:
        """Mark `parts_known` as delivered and record the counts of `seen`, in one transaction.

        Settled items are not changed. The caller must hold `delivery_lock`.

        Returns:
            The day's delivery count.
        """
        with self._delivery_locks.write(destination, day) as connection:
            for part in parts_known:
                packed.mark_delivered(connection, destination, day, part)
            return batches.raise_count(connection, destination, day, self.id, seen)

    # For people.

    def destinations(self) -> list[str]:
        """Return the sorted names of the destinations that have items in the ledger."""
        with self._database.read() as connection:
            return review.destination_names(connection)

    def summary(self, destination: str) -> Summary:
        """Return the counts of a destination; all zero if it is unknown."""
        with self._database.read() as connection:
            return review.summary(connection, destination)

    def rejections(
        self,
        destination: str,
        *,
        day: str | None = None,
        trace_id: bytes | None = None,
        reason_like: str | None = None,
        limit: int | None = None,
    ) -> list[RecordedRejection]:
        """Return the items that the destination rejected, sorted by day, trace and time.

        Args:
            destination: The destination's name.
            day: Only those of this day.
            trace_id: Only those of this build.
            reason_like: Only those whose reason contains this, ignoring case.
            limit: Return at most this many.
        """
        item_filter = ItemFilter(day, trace_id, reason_like)
        with self._database.read() as connection:
            return review.rejected(connection, destination, item_filter, limit=limit)

    def presumed(self, destination: str) -> list[PresumedItems]:
        """Return the items that were presumed sent, sorted by day and trace."""
        with self._database.read() as connection:
            return review.presumed(connection, destination, ItemFilter())

    def requeue(
        self,
        destination: str,
        *,
        day: str | None = None,
        trace_id: bytes | None = None,
        reason_like: str | None = None,
        on_wait: Callable[[str], None] | None = None,
        timeout_s: float = LOCK_TIMEOUT_S,
    ) -> int:
        """Let the next delivery send rejected and presumed items again, and return how many.

        Accepted items are never re-queued. Waits for deliveries of the days concerned.

        Args:
            destination: The destination's name.
            day: As for `rejections`.
            trace_id: As for `rejections`.
            reason_like: As for `rejections`; the reason of presumed items is
                "in doubt, presumed sent".
            on_wait: As for `delivery_lock`.
            timeout_s: As for `delivery_lock`.
        """
        item_filter = ItemFilter(day, trace_id, reason_like)
        with self._database.read() as connection:
            days = review.requeue_days(connection, destination, item_filter)
        with (
            self._delivery_locks.hold(
                destination, days, on_wait=on_wait, timeout_s=timeout_s
            ) as locks,
            locks.write() as connection,
        ):
            return review.requeue(connection, destination, item_filter, days)

    def forget(
        self,
        destination: str,
        *,
        on_wait: Callable[[str], None] | None = None,
        timeout_s: float = LOCK_TIMEOUT_S,
    ) -> int:
        """Delete everything about a destination, and return how many items were settled.

        The next delivery sends everything again, and doubles what the destination still has.
        Waits for deliveries in progress.

        Args:
            destination: The destination's name.
            on_wait: As for `delivery_lock`.
            timeout_s: As for `delivery_lock`.
        """
        with self._database.read() as connection:
            days = review.all_days(connection, destination)
        with (
            self._delivery_locks.hold(
                destination, days, on_wait=on_wait, timeout_s=timeout_s
            ) as locks,
            locks.write() as connection,
        ):
            return review.forget(connection, destination)

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

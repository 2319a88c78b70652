"""The ledger: what a delivery asks of it and tells it.

A batch is written down as in doubt before it leaves, and settled by its answer, each in
one short transaction. Whatever happens in between, either the destination's outcome is
known here, or the batch stands here as in doubt.

A destination is known by its name alone. Nothing secret may be in it.
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
from bk_pipeline.ledger.locks import Turns
from bk_pipeline.ledger.markers import MarkerStore
from bk_pipeline.ledger.review import Choice, Presumed, RecordedRejection, Summary
from bk_pipeline.ledger.schema import open_database
from bk_pipeline.settings import Settings

BUSY_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 1_800.0


class Ledger:
    """One ledger. For several threads at once, and beside other processes with the same one.

    Every method may raise RetryableError (the database is busy) and StorageError (it cannot
    be used: a full disk, no permission, a damaged file); the message says what to do. Then
    nothing of what the method should have written is written.
    """

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._turns = Turns(database, clock)
        self.markers = MarkerStore(database)

    @classmethod
    def from_settings(cls, settings: Settings, *, clock: Clock, create: bool = True) -> Self:
        """The ledger of these settings: that of `BK_PIPELINE_LEDGER_URL`, or the file.

        Args:
            settings: Where it is.
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
        """The ledger at `where`, made if it is missing.

        Args:
            where: A SQLite file, whose folder must be on a disk of this machine; or the URL
                of a PostgreSQL database.
            clock: Tells when something happened.
            busy_timeout_s: How long to wait while others write.
            create: Whether to make what is missing; else that is a NoLedger.
        """
        database = open_database(where, busy_timeout_s=busy_timeout_s, create=create)
        return cls(database, clock=clock)

    @property
    def where(self) -> str:
        """The database as people are told of it; no password."""
        return self._database.where

    @property
    def id(self) -> str:
        """32 hex digits, made with the ledger. Copies and backups of it have the same."""
        return self._identity[0]

    @property
    def predates_records(self) -> bool:
        """Whether it was in use before span stores kept delivery records."""
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

    # While delivering.

    @contextmanager
    def delivery_lock(
        self,
        destination: str,
        day: str,
        *,
        on_wait: Callable[[str], None] | None = None,
        timeout_s: float = LOCK_TIMEOUT_S,
    ) -> Iterator[None]:
        """A block that only one delivery of `day` to `destination` is in at a time.

        Its holder's death ends it. So does, on PostgreSQL, the loss of the connection that
        holds it; then `begin` fails, and so do the other methods that are only for its holder.

        Args:
            on_wait: Told once, in a sentence, if somebody else is in it.
            timeout_s: How long to wait for that one.

        Raises:
            RetryableError: The other one was still at it when the deadline came.
        """
        with self._turns.take(destination, [day], on_wait=on_wait, timeout_s=timeout_s):
            yield

    def settled(
        self, destination: str, trace_ids: Collection[bytes]
    ) -> Mapping[bytes, Collection[bytes]]:
        """The items of these traces that must not be sent (again), by trace."""
        with self._database.read() as connection:
            return settled.items(connection, destination, trace_ids)

    def in_doubt(self, destination: str, day: str) -> Mapping[bytes, Collection[bytes]]:
        """The items of `day` that left and whose answer is not known, by trace."""
        with self._database.read() as connection:
            return batches.in_doubt_items(connection, destination, day)

    def begin(self, destination: str, day: str, items: ItemIds) -> int:
        """The number of a new batch, in doubt from now on. Only then may it be sent.

        Raises:
            RetryableError: Also if `delivery_lock` was lost. Nothing more may be sent then.
        """
        begin = partial(
            batches.begin, destination=destination, day=day, items=items, now=self._now()
        )
        return self._turns.do(destination, day, begin)

    def begin_again(self, destination: str, day: str, batch: int) -> None:
        """Note that a batch is sent once more. Only then may it be.

        Raises:
            RetryableError: As for `begin`.
        """
        again = partial(batches.begin_again, batch=batch, now=self._now())
        self._turns.do(destination, day, again)

    def accept(self, batch: int) -> None:
        """Write down that all of a batch was accepted; as `settle`, but many times as fast."""
        self._database.do(partial(batches.accept, batch=batch))

    def settle(
        self,
        batch: int,
        *,
        accepted: ItemIds | None = None,
        rejected: Iterable[Rejection] = (),
        in_doubt: ItemIds | None = None,
    ) -> None:
        """Write down what became of a batch's items.

        Those not named are known not to have arrived: they are as if never sent. The batch
        remains as long as something of it is `in_doubt`. Doing this again changes nothing, so
        it may be tried again after an error of the connection.
        """
        self._database.do(
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
        """Take for sent what is in doubt of `day`, and say how many items those are.

        Only for who holds `delivery_lock`: then they are from runs that have ended.
        """
        with self._turns.write(destination, day) as connection:
            return batches.presume_sent(connection, destination, day)

    def drop_settled_doubts(self, destination: str, day: str) -> None:
        """Forget that items of `day` were in doubt where they have been settled since.

        Only for who holds `delivery_lock`.
        """
        with self._turns.write(destination, day) as connection:
            batches.drop_settled_doubts(connection, destination, day)

    def delivered_parts(self, destination: str, day: str) -> set[str]:
        """The parts of `day` that were noted as holding nothing unsettled."""
        with self._database.read() as connection:
            return packed.noted(connection, destination, day)

    def mark_part_delivered(self, destination: str, day: str, part: str) -> int:
        """Note that `part` holds nothing unsettled. Parts are immutable, so it never will.

        Returns:
            The day's delivery count, which is raised in the same transaction.
        """
        with self._turns.write(destination, day) as connection:
            packed.note(connection, destination, day, part)
            return batches.raise_count(connection, destination, day, self.id, {})

    def delivery_counts(self, destination: str, day: str) -> Mapping[str, int]:
        """How far each ledger has delivered `day`, as far as this one knows, by ledger id."""
        with self._database.read() as connection:
            return batches.counts(connection, destination, day)

    def knows_day(self, destination: str, day: str) -> bool:
        """Whether anything of `day` is settled or in doubt."""
        with self._database.read() as connection:
            return batches.knows_day(connection, destination, day)

    def has_lost_items(self, destination: str, day: str) -> bool:
        """Whether items of `day` that were settled are not in the ledger any more."""
        with self._database.read() as connection:
            return batches.has_lost_items(connection, destination, day)

    def raise_delivery_count(self, destination: str, day: str, seen: Mapping[str, int]) -> int:
        """Raise the day's delivery count above the old one and `seen`, and return it.

        Args:
            destination: Where the day is delivered.
            day: The partition. The caller holds `delivery_lock`.
            seen: The counts of the span store by ledger id; this ledger knows them from now on.
        """
        with self._turns.write(destination, day) as connection:
            return batches.raise_count(connection, destination, day, self.id, seen)

    def adopt(
        self, destination: str, day: str, parts_known: Iterable[str], seen: Mapping[str, int]
    ) -> int:
        """Note that `parts_known` hold nothing unsettled, and know the counts of `seen`.

        Both or nothing; what was settled before is not touched. Only for who holds `delivery_lock`.

        Returns:
            The day's delivery count.
        """
        with self._turns.write(destination, day) as connection:
            for part in parts_known:
                packed.note(connection, destination, day, part)
            return batches.raise_count(connection, destination, day, self.id, seen)

    # For people.

    def destinations(self) -> list[str]:
        """Whoever has something in the ledger, by name."""
        with self._database.read() as connection:
            return review.names(connection)

    def summary(self, destination: str) -> Summary:
        """Counts of a destination; all zero if it is not known."""
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
        """What the destination rejected, by day, trace and time.

        Args:
            day: Only of this day.
            trace_id: Only of this build.
            reason_like: Only if the reason holds this, in upper or lower case.
            limit: At most so many.
        """
        choice = Choice(day, trace_id, reason_like)
        with self._database.read() as connection:
            return review.rejected(connection, destination, choice, limit=limit)

    def presumed(self, destination: str) -> list[Presumed]:
        """What was taken for sent without an answer, by day and trace."""
        with self._database.read() as connection:
            return review.presumed(connection, destination, Choice())

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
        """Have the next delivery send again what was rejected or presumed sent; how many items.

        What was accepted is never re-queued. Waits for deliveries of the days concerned.

        Args:
            day: As for `rejections`.
            trace_id: As for `rejections`.
            reason_like: As for `rejections`; what was presumed sent has the reason
                "in doubt, presumed sent".
            on_wait: As for `delivery_lock`.
            timeout_s: As for `delivery_lock`.
        """
        choice = Choice(day, trace_id, reason_like)
        with self._database.read() as connection:
            days = review.days_of(connection, destination, choice)
        with (
            self._turns.take(destination, days, on_wait=on_wait, timeout_s=timeout_s) as locks,
            locks.write() as connection,
        ):
            return review.requeue(connection, destination, choice, days)

    def forget(
        self,
        destination: str,
        *,
        on_wait: Callable[[str], None] | None = None,
        timeout_s: float = LOCK_TIMEOUT_S,
    ) -> int:
        """Know nothing of a destination any more; how many settled items that were.

        Everything will be sent again, and doubled if the destination still has it. Waits
        for deliveries that are under way.

        Args:
            on_wait: As for `delivery_lock`.
            timeout_s: As for `delivery_lock`.
        """
        with self._database.read() as connection:
            days = review.all_days(connection, destination)
        with (
            self._turns.take(destination, days, on_wait=on_wait, timeout_s=timeout_s) as locks,
            locks.write() as connection,
        ):
            return review.forget(connection, destination)

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

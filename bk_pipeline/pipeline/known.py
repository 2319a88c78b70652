"""Does the ledger know what was delivered of a day from this data directory?

A ledger that is new, another one or an older copy would have everything sent again, without a
word and for good. So before anything leaves, the ledger's count of a day is compared with those
in the span store; the ledger counts first, then the store, then spans leave. Killed anywhere in
between, the ledger is ahead of the store, which is no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bk_pipeline.errors import LedgerBehind
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.store.delivery_records import UNRECORDED, DeliveryRecord, DeliveryRecords


@dataclass(slots=True)
class DayDeliveries:
    """The delivery records of one day and destination, and this ledger's part in them.

    The caller holds `Ledger.delivery_lock`, except for `behind`.
    """

    day: str
    destination: str
    ledger: Ledger
    records: DeliveryRecords
    _own: DeliveryRecord | None = field(default=None, init=False)

    def behind(self) -> str | None:
        """Why the ledger cannot know what was delivered; None if it does."""
        known = self.ledger.delivery_counts(self.destination, self.day)
        for one in self.found():
            if one.count <= known.get(one.ledger, 0):
                continue
            if one.ledger == self.ledger.id:
                return "this is an older copy of the ledger"
            if one.ledger != UNRECORDED:
                return f"another ledger ({one.ledger[:8]}) delivered from this data directory"
            if not self._is_trusted():
                return "the spans are older than this ledger"
        if self.ledger.has_lost_items(self.destination, self.day):
            return "rows that it had are missing"
        return None

    def found(self) -> list[DeliveryRecord]:
        """The records in the store."""
        self.records.start()
        return self.records.of_day(self.day, self.destination)

    def require_known(self) -> None:
        """Do nothing if the ledger knows what was delivered.

        Raises:
            LedgerBehind: It does not.
        """
        why = self.behind()
        if why is not None:
            raise LedgerBehind(
                f"The ledger {self.ledger.where} does not know what was delivered of {self.day} to "
                f"{self.destination}: {why}. Bring the right ledger back; or let `bk-pipeline "
                "ledger adopt` take those spans for delivered, or send them again with "
                "`bk-pipeline backfill --resend` (in Dagster: `resend: true` in the asset's "
                "config)."
            )

    def _is_trusted(self) -> bool:
        """Whether this ledger knows what was delivered before there were records."""
        trusted = self.records.trusted_ledger
        return self.ledger.predates_records and trusted in {None, self.ledger.id}

    @contextmanager
    def delivering(
        self, first_part: str, delivered: Sequence[str], *, resend: bool
    ) -> Iterator[None]:
        """A block in which the day may be sent, beginning with `first_part`.

        Args:
            first_part: Its name.
            delivered: The parts of which the ledger has all settled.
            resend: Whether to send what the ledger does not know, although it may be behind.

        Raises:
            LedgerBehind: The ledger does not know what was delivered, and `resend` is not set.
        """
        if not resend:
            self.require_known()
        found = self.found()
        own = next((one for one in found if one.ledger == self.ledger.id), None)
        self._own = own or DeliveryRecord(self.destination, self.ledger.id, 0)
        seen = {one.ledger: one.count for one in found}
        if self.records.trusted_ledger is None and self.ledger.predates_records:
            self.records.trust(self.ledger.id)
        count = self.ledger.raise_delivery_count(self.destination, self.day, seen)
        self._write(count, begun=first_part, parts=delivered)
        try:
            if own is None and not resend:
                # Another ledger that began at the same moment can see this record by now.
                self.require_known()
            yield
        except BaseException:
            if own is None and not self.ledger.knows_day(self.destination, self.day):
                self.records.delete(self.day, self._own)
            raise

    def part_done(self, count: int, part: str, next_part: str | None) -> None:
        """Record that the ledger has noted `part`, and which one is next."""
        assert self._own is not None
        self._write(count, begun=next_part, parts=[*self._own.parts, part])

    def adopted(self, count: int, parts: Sequence[str]) -> None:
        """Record that the ledger knows `parts` from now on."""
        self._own = DeliveryRecord(self.destination, self.ledger.id, 0)
        self._write(count, begun=None, parts=parts)

    def _write(self, count: int, *, begun: str | None, parts: Sequence[str] | None = None) -> None:
        assert self._own is not None
        kept = self._own.parts if parts is None else list(dict.fromkeys(parts))
        self._own = DeliveryRecord(self.destination, self.ledger.id, count, kept, begun)
        self.records.write(self.day, self._own)

"""Checks that the ledger knows what was delivered of a day from this data directory.

With a new, different or outdated ledger everything would silently be sent again. So before anything
is sent, the ledger's delivery count of the day is compared with those in the span store. The ledger
is updated first, then the store, then spans are sent: a run killed in between leaves the ledger
ahead of the store, which is harmless.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace

from bk_pipeline.errors import LedgerBehind
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.store.delivery_records import (
    UNRECORDED,
    DeliveryRecord,
    DeliveryRecords,
    dropped_traces,
    pack_traces,
)


@dataclass(slots=True)
class DayDeliveries:
    """The delivery records of one day and destination, as seen and written by one ledger.

    The caller holds `Ledger.delivery_lock`, except for `why_behind`.
    """

    day: str
    destination: str
    ledger: Ledger
    records: DeliveryRecords
    _own: DeliveryRecord | None = field(default=None, init=False)

    def why_behind(self) -> str | None:
        """Return why the ledger does not know what was delivered; None if it does."""
        counts = self.ledger.delivery_counts(self.destination, self.day)
        for one in self.stored():
            if one.count <= counts.get(one.ledger, 0):
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

    def stored(self) -> list[DeliveryRecord]:
        """Return the records in the store, of every ledger."""
        self.records.start()
        return self.records.of_day(self.day, self.destination)

    def dropped(self) -> set[bytes]:
        """Return the builds that this ledger has sampled out and not sent since."""
        own = self._own or next((one for one in self.stored() if self._is_own(one)), None)
        return dropped_traces(own) if own else set()

    def _is_own(self, record: DeliveryRecord) -> bool:
        return record.ledger == self.ledger.id

    def require_known(self) -> None:
        """Raise an error unless the ledger knows what was delivered.

        Raises:
            LedgerBehind: It does not.
        """
        reason = self.why_behind()
        if reason is not None:
            raise LedgerBehind(
                f"The ledger {self.ledger.where} does not know what was delivered of {self.day} to "
                f"{self.destination}: {reason}. Restore the right ledger; or mark those spans as "
                "delivered with `bk-pipeline ledger adopt`; or send them again with "
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
        """Allow the day to be sent inside the block, beginning with `first_part`.

        Args:
            first_part: The name of the first part to send.
            delivered: The parts whose spans are all settled in the ledger, or were when other
                rules and ages applied.
            resend: Skip the check: send spans that another ledger may have delivered.

        Raises:
            LedgerBehind: The ledger does not know what was delivered, and `resend` is not set.
        """
        if not resend:
            self.require_known()
        stored = self.stored()
        own = next(filter(self._is_own, stored), None)
        self._own = own or DeliveryRecord(self.destination, self.ledger.id, 0)
        seen = {one.ledger: one.count for one in stored}
        if self.records.trusted_ledger is None and self.ledger.predates_records:
            self.records.trust(self.ledger.id)
        count = self.ledger.raise_delivery_count(self.destination, self.day, seen)
        self._write(count, begun=first_part, parts=delivered)
        try:
            if own is None and not resend:
                # Detects another ledger that began at the same moment: one of the two sees the other.
                self.require_known()
            yield
        except BaseException:
            if own is None and not self.ledger.knows_day(self.destination, self.day):
                self.records.delete(self.day, self._own)
            raise

    def record_part(
        self, count: int, part: str, next_part: str | None, dropped: Collection[bytes]
    ) -> None:
        """Record that `part` is delivered at delivery count `count`, and which part is next.

        Args:
            count: The delivery count.
            part: The part that is delivered.
            next_part: The part that is next, if any.
            dropped: All builds of the day that are sampled out.
        """
        assert self._own is not None
        self._own = replace(self._own, dropped=pack_traces(dropped))
        self._write(count, begun=next_part, parts=[*self._own.parts, part])

    def record_adoption(self, count: int, parts: Sequence[str], dropped: Collection[bytes]) -> None:
        """Record that the ledger has adopted `parts`, except for the builds in `dropped`."""
        packed = pack_traces(dropped)
        self._own = DeliveryRecord(self.destination, self.ledger.id, 0, dropped=packed)
        self._write(count, begun=None, parts=parts)

    def _write(self, count: int, *, begun: str | None, parts: Sequence[str] | None = None) -> None:
        assert self._own is not None
        kept = self._own.parts if parts is None else list(dict.fromkeys(parts))
        self._own = replace(self._own, count=count, parts=kept, begun=begun)
        self.records.write(self.day, self._own)

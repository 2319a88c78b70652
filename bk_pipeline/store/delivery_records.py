"""What was delivered from this data directory, by destination, day and ledger.

The ledger knows what a destination has; the store keeps how far which ledger has come, so that
a ledger that is gone, another one, or an older copy is noticed before everything is sent again.
Each ledger writes files of its own alone. A delivery looks at its day's files only.

A store of a version that kept no records gets them once: every day that has spans by then is
`UNRECORDED`. Only a ledger of that time can tell what was delivered of those; the first one that
comes is remembered (`trust`), because a backup of it would not know all.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

import msgspec

from bk_pipeline.errors import StorageError
from bk_pipeline.store.folder import SPANS, Folder
from bk_pipeline.store.raw import PARQUET

T = TypeVar("T")
DELIVERIES = "deliveries"
JSON = ".json"
# Stands for the ledger that delivered before there were records, if one did.
UNRECORDED = "unrecorded"
KEPT = f"{DELIVERIES}/kept{JSON}"
HASH_DIGITS = 16


class DeliveryRecord(msgspec.Struct, frozen=True):
    """How far one ledger has delivered a day to a destination.

    Attributes:
        destination: Its name in the ledger; nothing for `UNRECORDED`, which concerns all.
        ledger: The ledger's id.
        count: Raised before the first batch of each delivery, and after each part.
        parts: The span parts of which all is settled.
        begun: The part whose delivery was under way, if one was.
    """

    destination: str
    ledger: str
    count: int
    parts: list[str] = []
    begun: str | None = None


class _Kept(msgspec.Struct):
    """That records are kept, and which ledger is trusted about `UNRECORDED` days."""

    trusted_ledger: str | None = None


class DeliveryRecords:
    """The delivery records of a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._kept: _Kept | None = None

    def start(self) -> None:
        """Keep records from now on. To be called before spans are written or sent."""
        if self._kept is not None:
            return
        self._kept = self._read(KEPT, _Kept)
        if self._kept is not None:
            return
        for day in self._folder.folders(SPANS):
            names = self._folder.names(f"{SPANS}/{day}", suffix=PARQUET)
            parts = [name.removesuffix(PARQUET) for name in names]
            self.write(day, DeliveryRecord("", UNRECORDED, 1, parts))
        self._keep(_Kept())

    @property
    def trusted_ledger(self) -> str | None:
        """The ledger that knows what was delivered of `UNRECORDED` days; None: none came yet."""
        self.start()
        return self._kept.trusted_ledger if self._kept else None

    def trust(self, ledger: str) -> None:
        """Have `ledger` be the `trusted_ledger`."""
        self._keep(_Kept(ledger))

    def days(self) -> list[str]:
        """The days that have records, in order."""
        return self._folder.folders(DELIVERIES)

    def of_day(self, day: str, destination: str) -> list[DeliveryRecord]:
        """The records of `day` that concern `destination`, of whichever ledger."""
        wanted = (_key(destination), _key(""))
        names = self._folder.names(f"{DELIVERIES}/{day}", suffix=JSON)
        found = (
            self._read(f"{DELIVERIES}/{day}/{name}", DeliveryRecord)
            for name in names
            if name.startswith(wanted)
        )
        return [one for one in found if one is not None]

    def delivered(self, day: str) -> set[str]:
        """The names of the span parts of `day` that any ledger delivered or began to deliver."""
        files = self._folder.names(f"{DELIVERIES}/{day}", suffix=JSON)
        found = (self._read(f"{DELIVERIES}/{day}/{name}", DeliveryRecord) for name in files)
        return {part for one in found if one for part in (*one.parts, one.begun) if part}

    def write(self, day: str, record: DeliveryRecord) -> None:
        """Put `record` in place of the same ledger's earlier one."""
        self._folder.write(self._name(day, record), msgspec.json.encode(record))

    def delete(self, day: str, record: DeliveryRecord) -> None:
        """Have no record of this ledger for the record's destination."""
        self._folder.delete(self._name(day, record))

    def _read(self, name: str, kind: type[T]) -> T | None:
        content = self._folder.read(name)
        try:
            return msgspec.json.decode(content, type=kind) if content is not None else None
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            # Not moved aside like other damaged files: without it nobody would notice a lost ledger.
            raise StorageError(
                f"{name} in {self._folder.shown} is damaged. Restore it from a backup; or, if the "
                "ledger is the one that has always delivered from there, delete the file."
            ) from exc

    def _keep(self, kept: _Kept) -> None:
        self._folder.write(KEPT, msgspec.json.encode(kept))
        self._kept = kept

    def _name(self, day: str, record: DeliveryRecord) -> str:
        return f"{DELIVERIES}/{day}/{_key(record.destination)}-{record.ledger}{JSON}"


def raw_parts(parts: Sequence[str]) -> set[str]:
    """The raw parts that span parts were made of, whatever the recipe."""
    return {name.rsplit("-", maxsplit=1)[0] for name in parts}


def _key(destination: str) -> str:
    return sha256(destination.encode()).hexdigest()[:HASH_DIGITS]

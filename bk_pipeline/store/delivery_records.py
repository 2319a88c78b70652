"""Delivery records: how far each ledger has delivered each day to each destination.

The ledger records what a destination has. The store keeps, besides, how far each ledger has come,
so that a missing, different or outdated ledger is detected before everything is sent again. Each
ledger writes only its own files, and a delivery reads only the files of its day.

A store written by a version without records gets them once: each day that has spans then is
recorded as `UNRECORDED`. Only a ledger from that time knows what was delivered of those days. The
first one that delivers becomes the trusted ledger, because a backup of it would not know all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TypeVar

import msgspec

from bk_pipeline.errors import StorageError
from bk_pipeline.store.folder import SPANS, Folder
from bk_pipeline.store.raw import PARQUET

T = TypeVar("T")
DELIVERIES = "deliveries"
JSON = ".json"
# Stands for the ledger, if any, that delivered before there were records.
UNRECORDED = "unrecorded"
STATE_FILE = f"{DELIVERIES}/kept{JSON}"
HASH_DIGITS = 16
TRACE_BYTES = 16


class DeliveryRecord(msgspec.Struct, frozen=True):
    """How far one ledger has delivered a day to a destination.

    Attributes:
        destination: Its name in the ledger; empty for `UNRECORDED`, which concerns all.
        ledger: The ledger's id.
        count: Incremented before the first batch of each delivery, and after each part.
        parts: The span parts whose spans are all settled, except for those of `dropped` builds.
        begun: The part whose delivery was in progress, if any.
        dropped: The trace ids of builds that were sampled out and not sent since, 16 bytes each.
    """

    destination: str
    ledger: str
    count: int
    parts: list[str] = []
    begun: str | None = None
    dropped: bytes = b""


class _State(msgspec.Struct):
    """Present if the store keeps records; names the ledger that knows `UNRECORDED` days."""

    trusted_ledger: str | None = None


class DeliveryRecords:
    """The delivery records of a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._state: _State | None = None

    def start(self) -> None:
        """Begin to keep records, unless they are kept already. Call before writing or sending spans."""
        if self._state is not None:
            return
        self._state = self._read(STATE_FILE, _State)
        if self._state is not None:
            return
        for day in self._folder.folders(SPANS):
            names = self._folder.names(f"{SPANS}/{day}", suffix=PARQUET)
            parts = [name.removesuffix(PARQUET) for name in names]
            self.write(day, DeliveryRecord("", UNRECORDED, 1, parts))
        self._write_state(_State())

    @property
    def trusted_ledger(self) -> str | None:
        """The id of the ledger that knows what was delivered of `UNRECORDED` days, if any."""
        self.start()
        return self._state.trusted_ledger if self._state else None

    def trust(self, ledger: str) -> None:
        """Make `ledger` the trusted ledger."""
        self._write_state(_State(ledger))

    def days(self) -> list[str]:
        """Return the days that have records, sorted."""
        return self._folder.folders(DELIVERIES)

    def of_day(self, day: str, destination: str) -> list[DeliveryRecord]:
        """Return the records of `day` that concern `destination`, of every ledger."""
        prefixes = (_key(destination), _key(""))
        names = self._folder.names(f"{DELIVERIES}/{day}", suffix=JSON)
        found = (
            self._read(f"{DELIVERIES}/{day}/{name}", DeliveryRecord)
            for name in names
            if name.startswith(prefixes)
        )
        return [one for one in found if one is not None]

    def delivered(self, day: str) -> set[str]:
        """Return the span parts of `day` that any ledger delivered or began to deliver."""
        files = self._folder.names(f"{DELIVERIES}/{day}", suffix=JSON)
        found = (self._read(f"{DELIVERIES}/{day}/{name}", DeliveryRecord) for name in files)
        return {part for one in found if one for part in (*one.parts, one.begun) if part}

    def write(self, day: str, record: DeliveryRecord) -> None:
        """Write `record`, replacing the earlier one of the same ledger."""
        self._folder.write(self._name(day, record), msgspec.json.encode(record))

    def delete(self, day: str, record: DeliveryRecord) -> None:
        """Delete the record of the same ledger and destination, if there is one."""
        self._folder.delete(self._name(day, record))

    def _read(self, name: str, kind: type[T]) -> T | None:
        content = self._folder.read(name)
        try:
            return msgspec.json.decode(content, type=kind) if content is not None else None
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            # Not quarantined like other files: without it a lost ledger would go unnoticed.
            raise StorageError(
                f"{name} in {self._folder.redacted_location} is damaged. Restore it from a backup; or, if the "
                "ledger is the one that has always delivered from there, delete the file."
            ) from exc

    def _write_state(self, state: _State) -> None:
        self._folder.write(STATE_FILE, msgspec.json.encode(state))
        self._state = state

    def _name(self, day: str, record: DeliveryRecord) -> str:
        return f"{DELIVERIES}/{day}/{_key(record.destination)}-{record.ledger}{JSON}"


def raw_parts(parts: Sequence[str]) -> set[str]:
    """Return the names of the raw parts that the named span parts were made from."""
    return {name.rsplit("-", maxsplit=1)[0] for name in parts}


def pack_traces(trace_ids: Iterable[bytes]) -> bytes:
    """Return trace ids as the value of `DeliveryRecord.dropped`."""
    return b"".join(sorted(trace_ids))


def dropped_traces(record: DeliveryRecord) -> set[bytes]:
    """Return the trace ids in `DeliveryRecord.dropped`."""
    packed = record.dropped
    return {packed[at : at + TRACE_BYTES] for at in range(0, len(packed), TRACE_BYTES)}


def _key(destination: str) -> str:
    return sha256(destination.encode()).hexdigest()[:HASH_DIGITS]

"""What Buildkite last answered about an organization and its clusters, and when it was asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import chain
from zlib import crc32

import msgspec

from bk_pipeline.spans.organizations import Cluster, Names, Organization
from bk_pipeline.store.folder import Folder

ORGANIZATIONS = "organizations"
JSON = ".json"
# A request that failed, but was not refused, is repeated after this time.
RETRY_AFTER = timedelta(hours=1)


class Outcome(StrEnum):
    """How a request ended. `REFUSED` means that the token may not make it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"


class Inquiry(msgspec.Struct, frozen=True):
    """A request, by its time."""

    at: datetime
    outcome: Outcome

    def is_due(self, now: datetime) -> bool:
        """Whether to ask again: on another UTC day, or an hour after a failure."""
        if self.outcome is Outcome.FAILED and not timedelta() <= now - self.at < RETRY_AFTER:
            return True
        return now.astimezone(UTC).date() != self.at.astimezone(UTC).date()


class OrganizationRecord(msgspec.Struct):
    """The newest answers, and the newest inquiry for each scope. A refusal keeps older answers.

    A cluster that is no longer listed stays: its old builds are still transformed.
    """

    organization: Organization | None = None
    clusters: dict[str, Cluster] | None = None
    inquiries: dict[str, Inquiry] = {}


class _Stored(msgspec.Struct):
    checksum: int
    record: msgspec.Raw


class OrganizationStore:
    """The records of all organizations in a data directory: a small JSON file for each."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def read(self, slug: str) -> OrganizationRecord:
        """Return the organization's record; an empty one if there is none.

        Raises:
            DamagedFile: It cannot be read. It is quarantined, so the next call returns an empty one.
        """
        name = f"{ORGANIZATIONS}/{slug}{JSON}"
        content = self._folder.read(name)
        if content is None:
            return OrganizationRecord()
        try:
            stored = msgspec.json.decode(content, type=_Stored)
            if crc32(stored.record) != stored.checksum:
                raise self._folder.quarantine(name, "its checksum does not match")
            return msgspec.json.decode(stored.record, type=OrganizationRecord)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise self._folder.quarantine(name, str(exc)) from exc

    def write(self, slug: str, record: OrganizationRecord) -> None:
        """Replace the organization's record."""
        content = msgspec.json.encode(record)
        stored = _Stored(crc32(content), msgspec.Raw(content))
        self._folder.write(f"{ORGANIZATIONS}/{slug}{JSON}", msgspec.json.encode(stored))

    def names(self) -> Names:
        """Return all names that are known.

        Raises:
            DamagedFile: As for `read`.
        """
        files = self._folder.names(ORGANIZATIONS, suffix=JSON)
        records = [self.read(name.removesuffix(JSON)) for name in files]
        clusters = [one.clusters.values() for one in records if one.clusters is not None]
        return Names(
            [one.organization for one in records if one.organization is not None],
            chain.from_iterable(clusters) if clusters else None,
        )

"""The raw store: builds as Buildkite sent them, in append-only Parquet parts by day.

Parts never change. If a build has several records, the one in the newest part wins; the others
are dropped when parts are merged (`compaction.py`). A part's name begins with its fetch time, so
names sort by age.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import uuid4
from zlib import crc32

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.spans.columns import MOMENT
from bk_pipeline.spans.timing import from_ns, to_ns
from bk_pipeline.store.folder import REPLACES, Folder
from bk_pipeline.store.organizations import OrganizationStore

RAW = "raw"
WATERMARK = "watermark.json"
PARQUET = ".parquet"
# Suffix of a merged part's name: only the footers of such parts are read for what they replace.
MERGED_SUFFIX = "-merged"

# Limits on payload bytes. The first bounds the memory of a writer, the second that of a reader.
PART_BYTES = 64 * 1024 * 1024
ROW_GROUP_BYTES = 16 * 1024 * 1024

SCHEMA = pa.schema(
    [
        ("build_id", pa.string()),
        ("number", pa.int64()),
        ("pipeline", pa.dictionary(pa.int32(), pa.string())),
        ("state", pa.dictionary(pa.int32(), pa.string())),
        ("created_at", MOMENT),
        ("finished_at", MOMENT),
        ("fetched_at", MOMENT),
        ("payload", pa.binary()),
    ]
)


class RawBuild(Protocol):
    """What the store needs of a build: its key columns, and its JSON payload as sent."""

    @property
    def id(self) -> str:
        """The UUID."""
        ...

    @property
    def number(self) -> int:
        """The build number within its pipeline."""
        ...

    @property
    def pipeline(self) -> str:
        """The pipeline's slug."""
        ...

    @property
    def state(self) -> str:
        """The state that Buildkite reports."""
        ...

    @property
    def created_ns(self) -> int:
        """Creation time, Unix nanoseconds."""
        ...

    @property
    def finished_ns(self) -> int | None:
        """Finish time, Unix nanoseconds; None while it runs."""
        ...

    @property
    def payload(self) -> bytes:
        """The JSON text as sent."""
        ...


class Revision(NamedTuple):
    """Identifies one record of a build among later ones of the same build."""

    build_id: str
    finished_ns: int | None
    state: str


class _Watermark(msgspec.Struct):
    """Content of the watermark file; void once a part that is not in `quarantined` is damaged."""

    finished_before: datetime
    quarantined: list[str] = []
    checksum: int | None = None

    def expected_checksum(self) -> int:
        return crc32(f"{self.finished_before.isoformat()} {self.quarantined}".encode())


class RawStore:
    """The raw parts of all days in a data directory, and the records of their organizations."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.organizations = OrganizationStore(folder)

    def days(self) -> list[str]:
        """Return the days that hold anything, sorted."""
        return self._folder.folders(RAW)

    def parts(self, day: str) -> list[str]:
        """Return the day's current part names, oldest first; replaced parts are left out."""
        return list(self.sizes(day))

    def sizes(self, day: str) -> dict[str, int]:
        """Return file size in bytes by name of the current parts, oldest first."""
        found = self.all_parts(day)
        replaced = {old for part in found for old in self.merged_from(day, part)}
        return {part: size for part, size in found.items() if part not in replaced}

    def merged_from(self, day: str, part: str) -> list[str]:
        """Return the names of the parts that `part` replaces; empty unless it is a merged part."""
        if not part.endswith(MERGED_SUFFIX):
            return []
        return self._folder.replaces(self._name(day, part))

    def append(self, day: str, builds: Iterable[RawBuild], *, fetched_at: datetime) -> str:
        """Store `builds`, sorted by creation, as a new part and return its name."""
        part = _new_part_name(fetched_at)
        ordered = sorted(builds, key=lambda build: (build.created_ns, build.id))
        with self._folder.parquet_writer(self._name(day, part), SCHEMA) as writer:
            for group in _row_groups(ordered):
                writer.write_batch(_record_batch(group, fetched_at))
        return part

    def merge(
        self, day: str, parts: Sequence[str], tables: Iterable[pa.Table], *, now: datetime
    ) -> str:
        """Store `tables`, one row group each, as a part that replaces `parts`; return its name."""
        merged = _new_part_name(now) + MERGED_SUFFIX
        with self._folder.parquet_writer(self._name(day, merged), SCHEMA) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(table.num_rows, 1))
            writer.add_key_value_metadata({REPLACES: msgspec.json.encode(parts)})
        return merged

    def delete_replaced(self, day: str, *, before: datetime) -> None:
        """Delete the files of parts that were replaced earlier than `before`."""
        found = self.all_parts(day)
        for part in found:
            if part < _timestamp(before):
                for old in self.merged_from(day, part):
                    if old in found:
                        self._folder.delete(self._name(day, old))

    def tables(self, day: str, part: str) -> Iterator[pa.Table]:
        """Yield the part's rows, a row group at a time."""
        with self._folder.parquet_file(self._name(day, part)) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group).cast(SCHEMA)

    def payloads(self, day: str, part: str) -> Iterator[list[bytes]]:
        """Yield the part's payloads as sent, a row group at a time.

        They are sorted by creation; in a merged part only within each row group.
        """
        with self._folder.parquet_file(self._name(day, part)) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=["payload"])["payload"].to_pylist()

    def revisions(self, day: str, *, finished_from: datetime | None = None) -> set[Revision]:
        """Return the stored revisions of builds that finished at or after `finished_from`, or all."""
        found: set[Revision] = set()
        for part in self.parts(day):
            with self._folder.parquet_file(self._name(day, part)) as file:
                if finished_from and _all_finished_before(file, finished_from):
                    continue
                found |= _revisions(file, finished_from)
        return found

    def watermark(self, day: str) -> datetime | None:
        """Return the time before which all finished builds of the day are stored.

        None if that is unknown: the day was never listed, or has lost a part since.

        Raises:
            DamagedFile: The watermark file cannot be read.
        """
        name = f"{RAW}/{day}/{WATERMARK}"
        content = self._folder.read(name)
        if content is None:
            return None
        try:
            found = msgspec.json.decode(content, type=_Watermark)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._folder.quarantine(name, str(exc)) from exc
        if found.checksum not in {None, found.expected_checksum()}:
            raise self._folder.quarantine(name, "its checksum does not match")
        lost = set(self.quarantined(day)) - set(found.quarantined)
        return None if lost else found.finished_before

    def set_watermark(
        self, day: str, finished_before: datetime, *, quarantined: Sequence[str] = ()
    ) -> None:
        """Record that all builds that finished earlier than `finished_before` are stored.

        Args:
            day: The partition.
            finished_before: Aware, UTC.
            quarantined: The quarantined files of the day at the time it was listed.
        """
        found = _Watermark(finished_before, list(quarantined))
        found.checksum = found.expected_checksum()
        self._folder.write(f"{RAW}/{day}/{WATERMARK}", msgspec.json.encode(found))

    def quarantined(self, day: str) -> list[str]:
        """Return the names of the day's quarantined files."""
        return self._folder.quarantined(f"{RAW}/{day}")

    def delete_stale_temporaries(self, *, now: datetime) -> int:
        """Delete temporary files of killed processes, of all days, and return how many."""
        return self._folder.delete_stale_temporaries(now=now)

    def all_parts(self, day: str) -> dict[str, int]:
        """Return file size in bytes by name, oldest first, replaced parts included."""
        found = self._folder.sizes(f"{RAW}/{day}", suffix=PARQUET)
        return {name.removesuffix(PARQUET): size for name, size in found.items()}

    def _name(self, day: str, part: str) -> str:
        return f"{RAW}/{day}/{part}{PARQUET}"


class PartWriter:
    """Collects a day's builds and stores them in parts of bounded size.

    Attributes:
        parts: The names of the parts written so far.
        builds: How many builds were added.
        stored: How many of them are in `parts`.
    """

    def __init__(self, raw: RawStore, day: str, *, fetched_at: datetime) -> None:
        self._raw, self._day, self._fetched_at = raw, day, fetched_at
        self._waiting: list[RawBuild] = []
        self._bytes = 0
        self.parts: list[str] = []
        self.builds = 0
        self.stored = 0

    def add(self, builds: Sequence[RawBuild]) -> None:
        """Take `builds`, and store a part if enough are waiting."""
        self._waiting.extend(builds)
        self._bytes += sum(len(build.payload) for build in builds)
        self.builds += len(builds)
        if self._bytes >= PART_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store the builds that are waiting as a part."""
        if self._waiting:
            part = self._raw.append(self._day, self._waiting, fetched_at=self._fetched_at)
            self.parts.append(part)
            self.stored += len(self._waiting)
            self._waiting, self._bytes = [], 0


def _timestamp(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%S.%fZ}"


def _new_part_name(moment: datetime) -> str:
    """Return a unique part name; names sort by `moment`."""
    return f"{_timestamp(moment)}-{uuid4().hex[:8]}"


def _row_groups(builds: Sequence[RawBuild]) -> Iterator[list[RawBuild]]:
    group: list[RawBuild] = []
    size = 0
    for build in builds:
        group.append(build)
        size += len(build.payload)
        if size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _record_batch(builds: list[RawBuild], fetched_at: datetime) -> pa.RecordBatch:
    def dictionary(values: list[str]) -> pa.Array:
        return pa.array(values, pa.string()).dictionary_encode()

    columns = [
        pa.array([build.id for build in builds], pa.string()),
        pa.array([build.number for build in builds], pa.int64()),
        dictionary([build.pipeline for build in builds]),
        dictionary([build.state for build in builds]),
        pa.array([build.created_ns for build in builds], pa.int64()).cast(MOMENT),
        pa.array([build.finished_ns for build in builds], pa.int64()).cast(MOMENT),
        pa.repeat(pa.scalar(to_ns(fetched_at), pa.int64()), len(builds)).cast(MOMENT),
        pa.array([build.payload for build in builds], pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _revisions(file: pa.parquet.ParquetFile, finished_from: datetime | None) -> set[Revision]:
    table = file.read(columns=["build_id", "finished_at", "state"])
    finished = table["finished_at"].cast(pa.int64())
    if finished_from:
        recent = pc.greater_equal(finished, to_ns(finished_from))
        table, finished = table.filter(recent), finished.filter(recent)
    columns = (table["build_id"], finished, table["state"])
    return set(map(Revision, *(column.to_pylist() for column in columns)))


def _all_finished_before(file: pa.parquet.ParquetFile, moment: datetime) -> bool:
    """Whether the file's statistics prove that no build in it finished at `moment` or later."""
    column = SCHEMA.get_field_index("finished_at")
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            if (
                statistics is None
                or statistics.null_count < file.metadata.row_group(group).num_rows
            ):
                return False
        elif to_ns(_aware(statistics.max)) >= to_ns(moment):
            return False
    return True


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=from_ns(0).tzinfo)

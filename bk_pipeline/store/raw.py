"""The raw store: each build as Buildkite sent it, in append-only Parquet parts by day.

Parts are never changed; of several records of a build the newest part's counts, and the
others go when parts are merged (`compaction.py`).
A part's name begins with when it was fetched, so that sorting names sorts by age.
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

from bk_pipeline.spans.timing import MOMENT, from_ns, to_ns
from bk_pipeline.store.folder import REPLACES, Folder

RAW = "raw"
WATERMARK = "watermark.json"
PARQUET = ".parquet"
# Ends the name of a part that was merged of others, so that only such a one is looked into.
MERGED = "-merged"

# A part is closed when its payloads reach this, which bounds what is held in memory; a row
# group is what a reader holds.
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
    """What the store asks of a build: its key columns, and its JSON text as sent."""

    @property
    def id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def pipeline(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def created_ns(self) -> int: ...
    @property
    def finished_ns(self) -> int | None: ...
    @property
    def payload(self) -> bytes: ...


class Revision(NamedTuple):
    """What tells one record of a build from a later one."""

    build_id: str
    finished_ns: int | None
    state: str


class _Watermark(msgspec.Struct):
    """The file. It holds no longer once a part of the day, not in `quarantined`, is damaged."""

    finished_before: datetime
    quarantined: list[str] = []
    checksum: int | None = None

    def summed(self) -> int:
        return crc32(f"{self.finished_before.isoformat()} {self.quarantined}".encode())


class RawStore:
    """The raw parts of all days in a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def days(self) -> list[str]:
        """The days that hold anything, in order."""
        return self._folder.folders(RAW)

    def parts(self, day: str) -> list[str]:
        """The day's part names, oldest fetch first, without those that a merged one replaces."""
        return list(self.sizes(day))

    def sizes(self, day: str) -> dict[str, int]:
        """The parts with the bytes of their files, oldest fetch first."""
        present = self.present(day)
        hidden = {old for part in present for old in self.replaced(day, part)}
        return {part: size for part, size in present.items() if part not in hidden}

    def replaced(self, day: str, part: str) -> list[str]:
        """The parts that `part` was merged of; none if it was not."""
        if not part.endswith(MERGED):
            return []
        return self._folder.replaced(self._name(day, part))

    def append(self, day: str, builds: Iterable[RawBuild], *, fetched_at: datetime) -> str:
        """The name of a new part that holds `builds`, in order of creation."""
        part = _named(fetched_at)
        ordered = sorted(builds, key=lambda build: (build.created_ns, build.id))
        with self._folder.parquet_writer(self._name(day, part), SCHEMA) as writer:
            for group in _groups(ordered):
                writer.write_batch(_batch(group, fetched_at))
        return part

    def merge(
        self, day: str, parts: Sequence[str], tables: Iterable[pa.Table], *, now: datetime
    ) -> str:
        """The name of a new part that holds `tables`, a row group each, in place of `parts`."""
        merged = _named(now) + MERGED
        with self._folder.parquet_writer(self._name(day, merged), SCHEMA) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(table.num_rows, 1))
            writer.add_key_value_metadata({REPLACES: msgspec.json.encode(parts)})
        return merged

    def sweep(self, day: str, *, before: datetime) -> None:
        """Delete the files of parts that were replaced `before`."""
        present = self.present(day)
        for part in present:
            if part < _stamp(before):
                for old in self.replaced(day, part):
                    if old in present:
                        self._folder.delete(self._name(day, old))

    def tables(self, day: str, part: str) -> Iterator[pa.Table]:
        """The part's rows, a bounded number at a time."""
        with self._folder.parquet_file(self._name(day, part)) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group).cast(SCHEMA)

    def payloads(self, day: str, part: str) -> Iterator[list[bytes]]:
        """The part's payloads as sent, a bounded number at a time.

        Oldest creation first; in a merged part within each of these only.
        """
        with self._folder.parquet_file(self._name(day, part)) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=["payload"])["payload"].to_pylist()

    def revisions(self, day: str, *, finished_from: datetime | None = None) -> set[Revision]:
        """What the day holds of builds that finished at or after `finished_from`, or of all."""
        found: set[Revision] = set()
        for part in self.parts(day):
            with self._folder.parquet_file(self._name(day, part)) as file:
                if finished_from and _all_finished_before(file, finished_from):
                    continue
                found |= _revisions(file, finished_from)
        return found

    def watermark(self, day: str) -> datetime | None:
        """All builds of the day that had finished before this are stored; None: not known.

        Raises:
            DamagedFile: Its file cannot be read.
        """
        name = f"{RAW}/{day}/{WATERMARK}"
        content = self._folder.read(name)
        if content is None:
            return None
        try:
            found = msgspec.json.decode(content, type=_Watermark)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._folder.damaged(name, str(exc)) from exc
        if found.checksum not in {None, found.summed()}:
            raise self._folder.damaged(name, "its checksum is another")
        lost = set(self.quarantined(day)) - set(found.quarantined)
        return None if lost else found.finished_before

    def set_watermark(
        self, day: str, finished_before: datetime, *, quarantined: Sequence[str] = ()
    ) -> None:
        """Note that what had finished before is stored.

        Args:
            day: The partition.
            finished_before: Aware, UTC.
            quarantined: What was quarantined of the day before it was listed.
        """
        found = _Watermark(finished_before, list(quarantined))
        found.checksum = found.summed()
        self._folder.write(f"{RAW}/{day}/{WATERMARK}", msgspec.json.encode(found))

    def quarantined(self, day: str) -> list[str]:
        """The damaged files of the day that were moved aside."""
        return self._folder.quarantined(f"{RAW}/{day}")

    def drop_old_temporaries(self, *, now: datetime) -> int:
        """How many temporary files of killed processes were deleted, in all of the folder."""
        return self._folder.drop_old_temporaries(now=now)

    def present(self, day: str) -> dict[str, int]:
        """All files with their sizes, replaced parts among them, oldest fetch first."""
        found = self._folder.sizes(f"{RAW}/{day}", suffix=PARQUET)
        return {name.removesuffix(PARQUET): size for name, size in found.items()}

    def _name(self, day: str, part: str) -> str:
        return f"{RAW}/{day}/{part}{PARQUET}"


class PartWriter:
    """Takes a day's builds as they come and stores them in parts of bounded size."""

    def __init__(self, raw: RawStore, day: str, *, fetched_at: datetime) -> None:
        self._raw, self._day, self._fetched_at = raw, day, fetched_at
        self._waiting: list[RawBuild] = []
        self._bytes = 0
        self.parts: list[str] = []
        self.builds = 0
        self.stored = 0  # of `builds`, those in parts

    def add(self, builds: Sequence[RawBuild]) -> None:
        self._waiting.extend(builds)
        self._bytes += sum(len(build.payload) for build in builds)
        self.builds += len(builds)
        if self._bytes >= PART_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store what is waiting."""
        if self._waiting:
            part = self._raw.append(self._day, self._waiting, fetched_at=self._fetched_at)
            self.parts.append(part)
            self.stored += len(self._waiting)
            self._waiting, self._bytes = [], 0


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%S.%fZ}"


def _named(moment: datetime) -> str:
    """A name for a part; names sort by `moment`."""
    return f"{_stamp(moment)}-{uuid4().hex[:8]}"


def _groups(builds: Sequence[RawBuild]) -> Iterator[list[RawBuild]]:
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


def _batch(builds: list[RawBuild], fetched_at: datetime) -> pa.RecordBatch:
    def words(values: list[str]) -> pa.Array:
        return pa.array(values, pa.string()).dictionary_encode()

    columns = [
        pa.array([build.id for build in builds], pa.string()),
        pa.array([build.number for build in builds], pa.int64()),
        words([build.pipeline for build in builds]),
        words([build.state for build in builds]),
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
    """Whether the file's own statistics say that none of its builds finished later."""
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

"""The span store (one Parquet part of spans for each raw part), search in it, and statistics tables.

Spans inside of jobs are in parts of their own, which are added and never made again: what they were
read from may be gone. The spans of a job are in one of them.

A span part is a pure function of its raw part and of the code and settings that transform it. The
latter two are its transform fingerprint, which is part of its name: a part is rebuilt after an
upgrade or a change of settings, and never otherwise. So a run costs only what its new raw parts do.

A search for a build reads only the columns it needs, and only row groups whose statistics do not
rule the value out, so searching a year takes about as long as reading a day.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from bk_pipeline.errors import UNNAMED, DamagedFile
from bk_pipeline.spans.table import BUILD_SCHEMA, DETAIL_SCHEMA, SCHEMA
from bk_pipeline.store.delivery_records import DELIVERIES, DeliveryRecords
from bk_pipeline.store.folder import DETAILS, LOGS, REPLACES, SPANS, Folder
from bk_pipeline.store.raw import MERGED_SUFFIX, PARQUET

# Footer key of a part's `PartSummary`.
SUMMARY = b"bk_pipeline.summary"
# Footer key of the `ReadSource`s of a part with spans inside of jobs.
READ = b"bk_pipeline.read"
# The columns that identify a span.
KEYS = pa.schema([SCHEMA.field(name) for name in ("trace_id", "span_id")])


class QuarantinedBuild(msgspec.Struct, frozen=True):
    """A build whose payload cannot be transformed, and the reason."""

    build_id: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.build_id or UNNAMED}: {self.reason}"


class PartSummary(msgspec.Struct):
    """Counts of a span part, stored in its footer.

    Attributes:
        builds: Builds of the raw part that could be read.
        unfinished: Those that have no trace yet.
        skipped: Those that were skipped or not run, and will have no trace.
        held_back: Those that have finished but not settled.
        spans: Rows of the part.
        jobs: Job spans among them.
        time_adjusted: Spans whose times were adjusted.
        quarantined: Builds that could not be transformed.
        first_ns: Start of the earliest span, Unix nanoseconds; None without spans.
    """

    builds: int = 0
    unfinished: int = 0
    skipped: int = 0
    held_back: int = 0
    spans: int = 0
    jobs: int = 0
    time_adjusted: int = 0
    # Stored under its first name in existing span parts.
    quarantined: list[QuarantinedBuild] = msgspec.field(default_factory=list, name="set_aside")
    first_ns: int | None = None

    @property
    def traces(self) -> int:
        """How many of the builds have a trace."""
        return self.builds - self.unfinished - self.skipped - self.held_back


class ReadSource(msgspec.Struct, frozen=True, array_like=True):
    """That a source inside of a job was read, which is stored with the spans it gave.

    Attributes:
        span_id: That of the job's span.
        source: What was read: log, tests or profiles.
        outcome: `read`; `gone`, `too_large` or `unreadable` if it cannot be had.
        bytes: How much was read.
        spans: How many spans it gave.
    """

    span_id: str
    source: str
    outcome: str
    bytes: int = 0
    spans: int = 0


class SpanPart(NamedTuple):
    """A span part's identity: the raw part it was made from, and the transform fingerprint."""

    raw_part: str
    fingerprint: str

    @property
    def name(self) -> str:
        """The file name, without its suffix."""
        return f"{self.raw_part}-{self.fingerprint}"

    @property
    def is_detail(self) -> bool:
        """Whether it has spans inside of jobs; then `raw_part` is not that of a raw part."""
        return self.raw_part.startswith(DETAILS)


def _part_of(name: str) -> SpanPart:
    return SpanPart(*name.removesuffix(PARQUET).rsplit("-", maxsplit=1))


# Columns that `SpanStore.datasets` adds.
DAY, REVISION = "day", "revision"
IS_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Datasets(NamedTuple):
    """The span table as pyarrow datasets with the columns `day` and `revision` before its own.

    The days and revisions are partitions: a filter on them decides which files are read. Columns
    that an older file lacks are null. `start` and `end` are in UTC, without a time zone.

    Attributes:
        single: The days that have one part, and the spans inside of jobs of all days.
        several: The days that have more. A build's rows count that have its greatest `revision`.
        files: The number of files.
    """

    single: ds.Dataset
    several: ds.Dataset
    files: int


class SpanStore:
    """The span parts of all days in a data directory.

    `parts` and what is named after builds have the spans of builds; `detail_parts` those inside of
    jobs; `delivery_parts` and `datasets` both.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.deliveries = DeliveryRecords(folder)

    def parts(self, day: str) -> list[SpanPart]:
        """Return the day's current parts, oldest first, of every fingerprint.

        A part is left out if a merged part with the same fingerprint replaces it.
        """
        return self._current(day, self.all_parts(day))

    def _current(self, day: str, found: list[SpanPart]) -> list[SpanPart]:
        if len(found) == 1:
            return found  # spares the request that reads its footer
        replaced = {
            SpanPart(old, part.fingerprint) for part in found for old in self.merged_from(day, part)
        }
        return [part for part in found if part not in replaced]

    def all_parts(self, day: str) -> list[SpanPart]:
        """Return all of the day's parts, oldest first, replaced ones included."""
        names = self._folder.names(f"{SPANS}/{day}", suffix=PARQUET)
        return [_part_of(name) for name in names]

    def detail_parts(self, day: str) -> list[SpanPart]:
        """Return the day's parts with spans inside of jobs, oldest first."""
        return list(map(_part_of, self._folder.names(f"{DETAILS}/{day}", suffix=PARQUET)))

    def read_sources(self, day: str) -> list[ReadSource]:
        """Return what was read inside of the day's jobs."""
        found: list[ReadSource] = []
        for part in self.detail_parts(day):
            with self._folder.parquet_file(self._name(day, part)) as file:
                content = (file.metadata.metadata or {}).get(READ, b"[]")
                found += msgspec.json.decode(content, type=list[ReadSource])
        return found

    def log_writer(self, day: str, job_id: str) -> AbstractContextManager[pa.NativeFile]:
        """Return a context manager to write the log of a job, packed by gzip."""
        return self._folder.gzip_writer(f"{LOGS}/{day}/{job_id}.log.gz")

    def delivery_parts(self, day: str) -> list[SpanPart]:
        """Return all parts to deliver: the current ones, then those with spans inside of jobs."""
        return [*self.parts(day), *self.detail_parts(day)]

    def parts_by_day(self) -> dict[str, list[SpanPart]]:
        """Return `parts` of every day that has any, from one listing."""
        found = self._all_by_day(SPANS)
        return {day: self._current(day, parts) for day, parts in found.items()}

    def _all_by_day(self, folder: str) -> dict[str, list[SpanPart]]:
        found: dict[str, list[SpanPart]] = {}
        for name in self._folder.names_recursive(folder, suffix=PARQUET):
            day, _, file = name.partition("/")
            if IS_DAY.fullmatch(day) and "-" in file and "/" not in file:
                found.setdefault(day, []).append(_part_of(file))
        return found

    def merged_from(self, day: str, part: SpanPart) -> list[str]:
        """Return the raw parts that this one's raw part replaces; empty unless that was merged."""
        if not part.raw_part.endswith(MERGED_SUFFIX):
            return []
        return self._folder.replaces(self._name(day, part))

    def write(
        self,
        day: str,
        part: SpanPart,
        tables: Iterable[pa.Table],
        summary: PartSummary,
        *,
        replaces: Sequence[str] = (),
        read: Sequence[ReadSource] = (),
    ) -> None:
        """Write a part.

        Args:
            day: The partition.
            part: Its identity.
            tables: Its rows; each table becomes a row group.
            summary: Stored in the footer; it may be filled in while `tables` is consumed.
            replaces: The raw parts that the part's raw part replaces.
            read: What was read for it, if it has spans inside of jobs.
        """
        self.deliveries.start()
        schema = DETAIL_SCHEMA if part.is_detail else BUILD_SCHEMA
        with self._folder.parquet_writer(self._name(day, part), schema) as writer:
            for table in tables:
                if table.num_rows:
                    rows = table.select(schema.names)
                    writer.write_table(rows, row_group_size=table.num_rows)
            metadata: dict[bytes, object] = {SUMMARY: summary, REPLACES: replaces}
            if read:
                metadata[READ] = read
            writer.add_key_value_metadata(
                {key: msgspec.json.encode(value) for key, value in metadata.items()}
            )

    def tables(
        self, day: str, part: SpanPart, *, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Yield the part's rows, a row group of whole builds at a time, sorted by creation.

        Args:
            day: The partition.
            part: Its identity.
            columns: The columns to read; None for all. One that an older part lacks is null.
        """
        schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
        with self._folder.parquet_file(self._name(day, part)) as file:
            for group in range(file.num_row_groups):
                # Threads gain little on so few rows, and the memory they keep would be a third of
                # what a delivery takes.
                table = file.read_row_group(group, schema.names, use_threads=False)
                for field in schema:
                    if field.name not in table.column_names:
                        table = table.append_column(field, pa.nulls(len(table), field.type))
                yield table.select(schema.names).cast(schema)

    def newest(
        self, day: str, *, columns: Sequence[str], parts: Sequence[SpanPart] | None = None
    ) -> Iterator[pa.Table]:
        """Yield the day's spans; if a build is in several parts, only those of the newest part.

        A build that resumed after it had finished is in several parts, each time as a whole.

        Args:
            day: The partition.
            columns: The columns to read, `trace_id` among them.
            parts: The parts to read, oldest first; None for all.
        """
        seen = pa.array([], pa.string())
        for part in reversed(self.parts(day) if parts is None else parts):
            found = [seen]
            for table in self.tables(day, part, columns=columns):
                ids = table["trace_id"].cast(pa.string())
                yield table.filter(pc.invert(pc.is_in(ids, value_set=seen))) if len(seen) else table
                found.append(ids.unique())
            seen = pa.concat_arrays(found).unique()

    def datasets(self, days: Sequence[str] | None = None) -> Datasets:
        """Return the rows of `days`, or of all, as datasets, which read files when they are scanned."""
        found = (
            self.parts_by_day() if days is None else {day: self.parts(day) for day in sorted(days)}
        )
        single: dict[str, pc.Expression] = {}
        several: dict[str, pc.Expression] = {}
        details = (
            self._all_by_day(DETAILS)
            if days is None
            else {day: self.detail_parts(day) for day in sorted(days)}
        )
        for day, parts in found.items():
            for revision, part in enumerate(parts):
                into = single if len(parts) == 1 else several
                into[self._name(day, part)] = _partition(day, revision)
        for day, parts in details.items():
            single |= {self._name(day, part): _partition(day, 0) for part in parts}
        fields = [pa.field(DAY, pa.date32()), pa.field(REVISION, pa.int32())]
        # DuckDB has nanoseconds only without a time zone.
        naive = {"start": pa.timestamp("ns"), "end": pa.timestamp("ns")}
        fields += [pa.field(one.name, naive.get(one.name, one.type)) for one in SCHEMA]
        schema = pa.schema(fields)
        return Datasets(
            single=self._folder.dataset(single, schema),
            several=self._folder.dataset(several, schema),
            files=len(single) + len(several),
        )

    def damaged_file(self) -> str | None:
        """Return the name of a damaged file of `datasets`, if there is one. Reads all of them."""
        both = chain(self.parts_by_day().items(), self._all_by_day(DETAILS).items())
        for day, parts in both:
            for part in parts:
                if self._folder.is_damaged(self._name(day, part)):
                    return self._name(day, part)
        return None

    def summary(self, day: str, part: SpanPart) -> PartSummary:
        """Return the counts stored with `part`."""
        with self._folder.parquet_file(self._name(day, part)) as file:
            content = (file.metadata.metadata or {})[SUMMARY]
            return msgspec.json.decode(content, type=PartSummary)

    def delete(self, day: str, part: SpanPart) -> None:
        """Delete `part`, if it exists. If it was delivered, its span ids are kept; see `keys`."""
        if part.name in self.deliveries.delivered(day):
            with (
                suppress(DamagedFile),
                self._folder.parquet_writer(_keys_name(day, part.name), KEYS) as writer,
            ):
                for table in self.tables(day, part, columns=KEYS.names):
                    writer.write_table(table)
        self._folder.delete(self._name(day, part))

    def keys(self, day: str, part: str) -> pa.Array | None:
        """Return the `keys_of` a part's spans; None if it was deleted before it was delivered."""
        name = self._name(day, _part_of(part))
        if f"{part}{PARQUET}" not in self._folder.names(name.rpartition("/")[0], suffix=PARQUET):
            name = _keys_name(day, part)
            if f"{part}{PARQUET}" not in self._folder.names(f"{DELIVERIES}/{day}", suffix=PARQUET):
                return None
        with self._folder.parquet_file(name) as file:
            return keys_of(file.read(KEYS.names))

    def _name(self, day: str, part: SpanPart) -> str:
        folder = DETAILS if part.is_detail else SPANS
        return f"{folder}/{day}/{part.name}{PARQUET}"


def _partition(day: str, revision: int) -> pc.Expression:
    """Return the values of the columns that `SpanStore.datasets` adds to a file's rows."""
    of_day = pc.field(DAY) == pa.scalar(date.fromisoformat(day))
    return of_day & (pc.field(REVISION) == pa.scalar(revision, pa.int32()))


def keys_of(table: pa.Table) -> pa.Array:
    """Return trace id and span id of each row, joined to one string."""
    ids = (table[name].cast(pa.string()) for name in KEYS.names)
    return pc.binary_join_element_wise(*ids, "").combine_chunks()


def _keys_name(day: str, part: str) -> str:
    return f"{DELIVERIES}/{day}/{part}{PARQUET}"


STATS = "stats"
# Footer key: which span parts the rows were computed from.
MADE_OF = b"bk_pipeline.made_of"


class StatsStore:
    """The statistics tables of all days in a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def write(self, table: str, day: str, rows: pa.Table, *, source: str) -> None:
        """Replace the day's rows of `table`; `source` identifies what they were computed from."""
        schema = rows.schema.remove_metadata()
        with self._folder.parquet_writer(self._name(table, day), schema) as writer:
            writer.write_table(rows.cast(schema))
            writer.add_key_value_metadata({MADE_OF: source})

    def source(self, table: str, day: str) -> str | None:
        """Return the `source` that the day's rows were written with; None if there are no rows."""
        if day not in self.days(table):
            return None
        with self._folder.parquet_file(self._name(table, day)) as file:
            content: bytes = (file.metadata.metadata or {})[MADE_OF]
            return content.decode()

    def read(self, table: str, day: str) -> pa.Table:
        """Return the day's rows of `table`."""
        with self._folder.parquet_file(self._name(table, day)) as file:
            return file.read()

    def days(self, table: str) -> list[str]:
        """Return the days that `table` has rows for, sorted."""
        names = self._folder.names(f"{STATS}/{table}", suffix=PARQUET)
        return [name.removesuffix(PARQUET) for name in names]

    def _name(self, table: str, day: str) -> str:
        return f"{STATS}/{table}/{day}{PARQUET}"


NUMBER, PIPELINE = "buildkite.build.number", "buildkite.pipeline.slug"
ORGANIZATION = "buildkite.organization.slug"
STATE, CREATED, URL = (f"buildkite.build.{one}" for one in ("state", "created_at", "web_url"))
COLUMNS = ("trace_id", "parent_span_id", NUMBER, PIPELINE, ORGANIZATION, STATE, CREATED, URL)


@dataclass(frozen=True, slots=True)
class FoundBuild:
    """A build of the span table, described by its root span, and the file that holds it."""

    trace_id: str
    organization: str
    pipeline: str
    number: int
    state: str
    created_at: str
    web_url: str
    file: str


class SpanSearch:
    """Searches the span table of a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def find_by_trace_id(self, trace_id: str, days: Sequence[str] | None) -> FoundBuild | None:
        """Return the build with this trace id, searching `days`, or all days if None."""
        found = self._find(pc.field("trace_id") == trace_id, days)
        return found[0] if found else None

    def find_by_number(self, number: int, pipeline: str | None) -> list[FoundBuild]:
        """Return the builds of this number, newest first, of one pipeline or (None) of all."""
        predicate = pc.field(NUMBER) == number
        if pipeline is not None:
            predicate &= pc.field(PIPELINE) == pipeline
        return self._find(predicate, None)

    def spans(self, build: FoundBuild) -> pa.Table:
        """Return the build's rows of the span table, those inside of its jobs last."""
        predicate = pc.field("trace_id") == build.trace_id
        details = f"{DETAILS}/{build.file.split('/')[1]}"
        names = self._folder.names(details, suffix=PARQUET)
        files = [build.file, *(f"{details}/{name}" for name in names)]
        return self._folder.scan(files, SCHEMA, predicate).drop_columns(Folder.FILE_COLUMN)

    def _files(self, days: Sequence[str] | None) -> list[str]:
        if days is None:
            found = self._folder.names_recursive(SPANS, suffix=PARQUET)
            return [f"{SPANS}/{name}" for name in found]
        folders = [f"{SPANS}/{day}" for day in days]
        return [
            f"{folder}/{name}"
            for folder in folders
            for name in self._folder.names(folder, suffix=PARQUET)
        ]

    def _find(self, predicate: pc.Expression, days: Sequence[str] | None) -> list[FoundBuild]:
        names = self._files(days)
        schema = pa.schema([SCHEMA.field(name) for name in COLUMNS])
        table = self._folder.scan(names, schema, predicate & pc.field("parent_span_id").is_null())
        newest: dict[str, FoundBuild] = {}
        for row in table.to_pylist():
            found = FoundBuild(
                trace_id=row["trace_id"],
                organization=row[ORGANIZATION] or "",
                pipeline=row[PIPELINE] or "",
                number=row[NUMBER],
                state=row[STATE] or "",
                created_at=row[CREATED] or "",
                web_url=row[URL] or "",
                file=row[Folder.FILE_COLUMN],
            )
            known = newest.get(found.trace_id)
            # Names begin with the fetch time, so the greater name holds the newer record.
            if known is None or known.file < found.file:
                newest[found.trace_id] = found
        return sorted(newest.values(), key=lambda one: one.created_at, reverse=True)

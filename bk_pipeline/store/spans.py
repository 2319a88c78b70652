"""The span store: the span table, one part for each raw part, by day.

A span part is a pure function of its raw part, the span model and its settings. The last
two are its *recipe*, which stands in its name: after an upgrade or a change of settings a
part is made anew, and otherwise never. So the cost of a run is that of the raw parts that
came since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.errors import DamagedFile
from bk_pipeline.spans.table import SCHEMA
from bk_pipeline.store.delivery_records import DELIVERIES, DeliveryRecords
from bk_pipeline.store.folder import REPLACES, SPANS, Folder
from bk_pipeline.store.raw import MERGED, PARQUET

SUMMARY = b"bk_pipeline.summary"
# What identifies a span.
KEYS = pa.schema([SCHEMA.field(name) for name in ("trace_id", "span_id")])


class QuarantinedBuild(msgspec.Struct, frozen=True):
    """A build whose payload cannot be made into spans, and why."""

    build_id: str | None
    reason: str


class PartSummary(msgspec.Struct):
    """What a span part holds. Kept in the file itself, in its footer.

    `builds` are those of the raw part. Of these, `unfinished` have no trace yet, and `skipped`
    (or not run) will have none; `held_back` are finished and not settled. `first_ns` is the start of its earliest trace, None without one.
    """

    builds: int = 0
    unfinished: int = 0
    skipped: int = 0
    held_back: int = 0
    spans: int = 0
    jobs: int = 0
    time_adjusted: int = 0
    # Stored in span parts under its first name.
    quarantined: list[QuarantinedBuild] = msgspec.field(default_factory=list, name="set_aside")
    first_ns: int | None = None

    @property
    def traces(self) -> int:
        """How many of its builds have a trace."""
        return self.builds - self.unfinished - self.skipped - self.held_back


class SpanPart(NamedTuple):
    """A span part's name: the raw part that it was made of, and the recipe."""

    raw_part: str
    fingerprint: str

    @property
    def name(self) -> str:
        return f"{self.raw_part}-{self.fingerprint}"


class SpanStore:
    """The span parts of all days in a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.deliveries = DeliveryRecords(folder)

    def parts(self, day: str) -> list[SpanPart]:
        """The day's parts, oldest fetch first; of one raw part all recipes there are.

        Without those whose raw part is in a merged one that has spans of the same recipe.
        """
        present = self.present(day)
        hidden = {
            SpanPart(old, part.fingerprint) for part in present for old in self.replaced(day, part)
        }
        return [part for part in present if part not in hidden]

    def present(self, day: str) -> list[SpanPart]:
        """All files, replaced parts among them, oldest fetch first."""
        names = self._folder.names(f"{SPANS}/{day}", suffix=PARQUET)
        return [SpanPart(*name.removesuffix(PARQUET).rsplit("-", maxsplit=1)) for name in names]

    def replaced(self, day: str, part: SpanPart) -> list[str]:
        """The raw parts that this one's was merged of; none if it was not."""
        if not part.raw_part.endswith(MERGED):
            return []
        return self._folder.replaced(self._name(day, part))

    def write(
        self,
        day: str,
        part: SpanPart,
        tables: Iterable[pa.Table],
        summary: PartSummary,
        *,
        replaces: Sequence[str] = (),
    ) -> None:
        """Make the part of `tables`, a row group each; `summary` is read once they are through.

        Args:
            day: The partition.
            part: Its name.
            tables: Its rows.
            summary: Kept with them.
            replaces: The raw parts that this one's was merged of.
        """
        self.deliveries.start()
        with self._folder.parquet_writer(self._name(day, part), SCHEMA) as writer:
            for table in tables:
                if table.num_rows:
                    writer.write_table(table, row_group_size=table.num_rows)
            metadata = {SUMMARY: summary, REPLACES: replaces}
            writer.add_key_value_metadata(
                {key: msgspec.json.encode(value) for key, value in metadata.items()}
            )

    def tables(
        self, day: str, part: SpanPart, *, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """The part's rows: whole builds, in order of creation, a bounded number at a time.

        With all columns, or with these.
        """
        schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(at) for at in columns])
        with self._folder.parquet_file(self._name(day, part)) as file:
            for group in range(file.num_row_groups):
                # Threads gain little with so few rows, and each keeps memory of its own: together
                # a third of all that a delivery takes.
                yield (
                    file.read_row_group(group, schema.names, use_threads=False)
                    .select(schema.names)
                    .cast(schema)
                )

    def newest(self, day: str, *, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of the day's spans, of each build those of its newest part alone.

        A build that went on after it had finished stands in several parts, each time whole.

        Args:
            day: The partition.
            columns: `trace_id` among them.
        """
        seen = pa.array([], pa.string())
        for part in reversed(self.parts(day)):
            found = [seen]
            for table in self.tables(day, part, columns=columns):
                ids = table["trace_id"].cast(pa.string())
                yield table.filter(pc.invert(pc.is_in(ids, value_set=seen))) if len(seen) else table
                found.append(ids.unique())
            seen = pa.concat_arrays(found).unique()

    def summary(self, day: str, part: SpanPart) -> PartSummary:
        with self._folder.parquet_file(self._name(day, part)) as file:
            content = (file.metadata.metadata or {})[SUMMARY]
            return msgspec.json.decode(content, type=PartSummary)

    def delete(self, day: str, part: SpanPart) -> None:
        """Delete a part. Of one that was delivered, the ids of its spans are kept (`keys`)."""
        if part.name in self.deliveries.delivered(day):
            with (
                suppress(DamagedFile),
                self._folder.parquet_writer(_keys_name(day, part.name), KEYS) as writer,
            ):
                for table in self.tables(day, part, columns=KEYS.names):
                    writer.write_table(table)
        self._folder.delete(self._name(day, part))

    def keys(self, day: str, part: str) -> pa.Array | None:
        """`keys_of` the spans of a part that is there or was delivered; None if not known."""
        name = f"{SPANS}/{day}/{part}{PARQUET}"
        if f"{part}{PARQUET}" not in self._folder.names(f"{SPANS}/{day}", suffix=PARQUET):
            name = _keys_name(day, part)
            if f"{part}{PARQUET}" not in self._folder.names(f"{DELIVERIES}/{day}", suffix=PARQUET):
                return None
        with self._folder.parquet_file(name) as file:
            return keys_of(file.read(KEYS.names))

    def _name(self, day: str, part: SpanPart) -> str:
        return f"{SPANS}/{day}/{part.name}{PARQUET}"


def keys_of(table: pa.Table) -> pa.Array:
    """For each row its trace id and span id in one string."""
    ids = (table[name].cast(pa.string()) for name in KEYS.names)
    return pc.binary_join_element_wise(*ids, "").combine_chunks()


def _keys_name(day: str, part: str) -> str:
    return f"{DELIVERIES}/{day}/{part}{PARQUET}"


STATS = "stats"
MADE_OF = b"bk_pipeline.made_of"


class StatsStore:
    """The tables of all days in a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def write(self, table: str, day: str, rows: pa.Table, *, made_of: str) -> None:
        """Put `rows`, and a word on what they were made of, in place of what the day had."""
        schema = rows.schema.remove_metadata()
        with self._folder.parquet_writer(self._name(table, day), schema) as writer:
            writer.write_table(rows.cast(schema))
            writer.add_key_value_metadata({MADE_OF: made_of})

    def made_of(self, table: str, day: str) -> str | None:
        """What the day's rows were made of; None if there are none."""
        if day not in self.days(table):
            return None
        with self._folder.parquet_file(self._name(table, day)) as file:
            content: bytes = (file.metadata.metadata or {})[MADE_OF]
            return content.decode()

    def read(self, table: str, day: str) -> pa.Table:
        with self._folder.parquet_file(self._name(table, day)) as file:
            return file.read()

    def days(self, table: str) -> list[str]:
        """The days that `table` has, in order."""
        names = self._folder.names(f"{STATS}/{table}", suffix=PARQUET)
        return [name.removesuffix(PARQUET) for name in names]

    def _name(self, table: str, day: str) -> str:
        return f"{STATS}/{table}/{day}{PARQUET}"

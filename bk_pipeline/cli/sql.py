"""`bk-pipeline sql`: a query over the stored builds, as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import click
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from bk_pipeline.analysis.sql import Database, UnreadableSpans
from bk_pipeline.app import App
from bk_pipeline.cli.output import Console, atomic_file, echo
from bk_pipeline.cli.signals import summing_up
from bk_pipeline.display import escape_json_line, printable
from bk_pipeline.errors import ConfigError, FatalError, StorageError
from bk_pipeline.settings import Settings
from bk_pipeline.store.spans import SpanStore
from bk_pipeline.text import shortened
from bk_pipeline.units import NS_PER_S

MEMORY_MIB = 1024
DEFAULT_DAYS = 30
ON_TERMINAL = 100
LONGEST_CELL = 80
PIPE_WIDTH = 100_000
MONTHS_PER_YEAR = 12
JSON = msgspec.json.Encoder(decimal_format="number")
# What Arrow writes between a date and a time.
BLANK = re.compile(r"(?<=\d) (?=\d)")
# What it writes for times that Python does not have, DuckDB's infinity among them.
OUT_OF_RANGE = "<value out of range:"

Batches = Iterator[pa.RecordBatch]


def sql(
    query: str | None,
    file: Path | None,
    *,
    parameters: tuple[tuple[str, str], ...],
    format_: str,
    output: Path | None,
    limit: int | None,
    memory_mib: int,
) -> None:
    """Run a query over the stored builds and write its result."""
    text = _query_text(query, file)
    refuse_binary_terminal(format_, output)
    with open_database(App(Settings.load()), memory_mib=memory_mib) as database:
        schema, batches = database.query(text, dict(parameters))
        write_result(schema, batches, format_=format_, output=output, limit=limit)


@contextmanager
def open_database(app: App, *, memory_mib: int = MEMORY_MIB) -> Iterator[Database]:
    """Open the views over the stored spans. In the block, a damaged file is named in the error.

    Raises:
        FatalError: Nothing is stored yet.
        StorageError: A file of the span table cannot be read.
    """
    require_spans(app)
    spans = app.spans()
    datasets = spans.datasets()
    with (
        _damage_named(spans),
        Database(datasets.single, datasets.several, memory_mib=memory_mib) as database,
        summing_up(database.delete_temporary_files),
    ):
        yield database


def require_spans(app: App) -> None:
    """Refuse to go on if nothing is stored.

    Raises:
        FatalError: Nothing is stored yet.
    """
    if not app.spans().parts_by_day():
        raise FatalError(
            "There are no stored spans yet. Run bk-pipeline backfill --from DAY --to DAY, or set "
            "BK_PIPELINE_DATA_DIR to where they are."
        )


def period_of(app: App, since: date | None, until: date | None) -> dict[str, str]:
    """Return the first and the last day of a period, as the parameters `since` and `until`.

    By default it ends with the last stored day, and has `DEFAULT_DAYS`.

    Raises:
        ConfigError: It ends before it begins.
    """
    last = until or date.fromisoformat(max(app.spans().parts_by_day()))
    first = since or last - timedelta(days=DEFAULT_DAYS - 1)
    if first > last:
        raise ConfigError(f"The period ends before it begins: {first} to {last}.")
    return {"since": first.isoformat(), "until": last.isoformat()}


def refuse_binary_terminal(format_: str, output: Path | None) -> None:
    """Refuse to write Parquet to a terminal, before any work is done.

    Raises:
        ConfigError: It would be written to a terminal.
    """
    if format_ == "parquet" and output is None and sys.stdout.isatty():
        raise ConfigError(
            "Parquet is not for a terminal. Name a file with --output, or use a pipe."
        )


def write_result(
    schema: pa.Schema, batches: Batches, *, format_: str, output: Path | None, limit: int | None
) -> None:
    """Write the rows of a result as they are computed.

    Args:
        schema: The columns.
        batches: The rows.
        format_: A key of `RENDERERS`.
        output: The file to replace; standard output if None.
        limit: The most rows to write; if None, all, or `ON_TERMINAL` on a terminal.

    Raises:
        ConfigError: The format is not for a terminal, or lacks the type of a column.
        FatalError: The file cannot be written.
    """
    refuse_binary_terminal(format_, output)
    terminal = output is None and sys.stdout.isatty()
    if limit is None and terminal:
        limit = ON_TERMINAL
    shown = _Limited(_named_once(batches), limit)
    # Before the output is opened: a wrong query must not make a file.
    first = next(shown, None)
    with atomic_file(output) if output else _standard_output() as out:
        RENDERERS[format_](out, _unique(schema), _after(first, shown), terminal)
        left_out = shown.left_out()
    if left_out:
        total = left_out + (limit or 0)
        echo(f"{left_out:,} more rows were left out: --limit {total} shows all.", err=True)


def _query_text(query: str | None, file: Path | None) -> str:
    if (query is None) == (file is None):
        raise click.UsageError("Give either a query or --file.")
    if query is not None:
        return query
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else Path(str(file)).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"Cannot read {file}: {exc.strerror}.") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not valid UTF-8.") from None


@contextmanager
def _damage_named(spans: SpanStore) -> Iterator[None]:
    """Name the damaged file if one ends the block."""
    try:
        yield
    except UnreadableSpans as exc:
        name = spans.damaged_file()
        if name is None:
            raise StorageError(f"The span table could not be read: {exc}") from exc
        day = name.split("/")[1]
        raise StorageError(
            f"{name} is damaged ({exc}). Materialize the spans and statistics of {day} to rebuild "
            "it, or leave the day out of the query."
        ) from exc


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


class _Limited:
    """Yields at most `limit` rows, in batches."""

    def __init__(self, batches: Batches, limit: int | None) -> None:
        self._batches = batches
        self._left = math.inf if limit is None else limit
        self._left_out = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> pa.RecordBatch:
        if self._left <= 0:
            raise StopIteration
        batch = next(self._batches)
        if batch.num_rows > self._left:
            self._left_out = batch.num_rows - int(self._left)
            batch = batch.slice(0, int(self._left))
        self._left -= batch.num_rows
        return batch

    def left_out(self) -> int:
        """Read the other rows and return how many they are."""
        rest: int = sum(batch.num_rows for batch in self._batches)
        return self._left_out + rest


def _after(first: pa.RecordBatch | None, rest: Iterable[pa.RecordBatch]) -> Batches:
    if first is not None:
        yield first
        yield from rest


def _unique(schema: pa.Schema) -> pa.Schema:
    """Return the schema with distinct names: the second `a` becomes `a_2`."""
    names: list[str] = []
    for name in schema.names:
        count, chosen = 1, name
        while chosen in names:
            count += 1
            chosen = f"{name}_{count}"
        names.append(chosen)
    return pa.schema([schema.field(at).with_name(name) for at, name in enumerate(names)])


def _named_once(batches: Batches) -> Batches:
    for batch in batches:
        yield pa.RecordBatch.from_arrays(batch.columns, schema=_unique(batch.schema))


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Yield the rows as values that JSON has, numbers as exact as they are."""
    return zip(*map(_values, batch.columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_temporal(column.type) and not pa.types.is_interval(column.type):
        # As text, because Python has neither nanoseconds nor infinity.
        return [one if one is None else _time(one) for one in column.cast(pa.string()).to_pylist()]
    return [plain(one) for one in column.to_pylist(maps_as_pydicts="lossy")]


def _time(text: str) -> str:
    if text.startswith(OUT_OF_RANGE):
        return "-infinity" if f"{OUT_OF_RANGE} -" in text else "infinity"
    return BLANK.sub("T", text)


def plain(value: Any) -> Any:
    """Return a value of a result as JSON has it: NaN as null, times in ISO 8601, bytes as hex."""
    if value is None or isinstance(value, str | bool | int | Decimal):
        return value
    for types, convert in CONVERSIONS:
        if isinstance(value, types):
            return convert(value)
    return str(value)


def _key(key: Any) -> str:
    text = plain(key)
    return text if isinstance(text, str) else JSON.encode(text).decode()


def _interval(value: Any) -> str:
    """Return an interval as an ISO 8601 duration, like `P1Y2M3DT4.5S`."""
    months, days, nanoseconds = value
    years, months = int(months / MONTHS_PER_YEAR), int(math.fmod(months, MONTHS_PER_YEAR))
    seconds = f"{Decimal(nanoseconds) / NS_PER_S:f}"
    parts = [f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (days, "D")) if n]
    if nanoseconds or not parts:
        parts.append(f"T{seconds}S")
    return "P" + "".join(parts)


# The first type that matches counts: an interval is a tuple.
CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (float, lambda number: number if math.isfinite(number) else None),
    (dict, lambda found: {_key(key): plain(one) for key, one in found.items()}),
    (pa.MonthDayNano, _interval),
    ((list, tuple), lambda found: [plain(one) for one in found]),
    (bytes, bytes.hex),
    ((datetime, date, time), lambda moment: moment.isoformat().replace("+00:00", "Z")),
)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else JSON.encode(value).decode()


def _json(out: BinaryIO, schema: pa.Schema, batches: Batches, _: bool) -> None:
    before = b"[\n"
    for batch in batches:
        for row in _rows(batch):
            line = JSON.encode(dict(zip(schema.names, row, strict=True))).decode()
            out.write(before + escape_json_line(line).encode())
            before = b",\n"
    out.write(b"\n]\n" if before == b",\n" else b"[]\n")


def _csv(out: BinaryIO, schema: pa.Schema, batches: Batches, terminal: bool) -> None:
    def write(rows: Iterable[Iterable[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([map(_text, row) for row in rows])
        content = text.getvalue()
        out.write((printable(content) if terminal else content).encode(errors="replace"))

    write([schema.names])
    for batch in batches:
        write(_rows(batch))


def _table(out: BinaryIO, schema: pa.Schema, batches: Batches, terminal: bool) -> None:
    table = Table(box=None, header_style="bold")
    for field in schema:
        numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        numeric = numeric or pa.types.is_decimal(field.type)
        table.add_column(Text(field.name), justify="right" if numeric else "left")
    for batch in batches:
        for row in _rows(batch):
            table.add_row(*(Text(_cell(one)) for one in row))
    # Encoded as the terminal needs it, and in UTF-8 elsewhere.
    text = io.StringIO()
    width = None if terminal else PIPE_WIDTH
    console = Console(file=text, width=width, force_terminal=terminal or None)
    console.print(table)
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    encoding = sys.stdout.encoding if terminal else "utf-8"
    out.write("".join(f"{line}\n" for line in lines).encode(encoding, errors="replace"))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = round(value, 3)
    return shortened(" ".join(_text(value).split()), LONGEST_CELL)


def _parquet(out: BinaryIO, schema: pa.Schema, batches: Batches, _: bool) -> None:
    # A pipe cannot tell its position, which Parquet needs.
    with TemporaryFile() as file:
        try:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(batch)
        except pa.ArrowException as exc:
            raise ConfigError(
                f"Parquet has no type for a column ({exc}): cast it in the query."
            ) from exc
        file.seek(0)
        shutil.copyfileobj(file, out)


RENDERERS: dict[str, Callable[[BinaryIO, pa.Schema, Batches, bool], None]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
}

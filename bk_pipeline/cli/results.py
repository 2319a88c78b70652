"""Results of commands: sentences, and rows as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from bk_pipeline.cli.output import Console, atomic_file, echo
from bk_pipeline.display import escape_json_line, printable
from bk_pipeline.errors import ConfigError
from bk_pipeline.text import duration, shortened
from bk_pipeline.units import MS_PER_S, NS_PER_S

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


def refuse_binary_terminal(format_: str, output: Path | None) -> None:
    """Refuse to write Parquet to a terminal, before any work is done.

    Raises:
        ConfigError: It would be written to a terminal.
    """
    if format_ == "parquet" and output is None and sys.stdout.isatty():
        raise ConfigError(
            "Parquet is not for a terminal. Name a file with --output, or use a pipe."
        )


def write_answer(
    lines: Iterable[str],
    shown: Sequence[Mapping[str, Any]],
    table: pa.Table,
    *,
    format_: str,
    output: Path | None,
    limit: int | None,
) -> None:
    """Write the answer to a question: sentences and a table to read, or every field as data.

    Args:
        lines: The sentences.
        shown: The rows of the table to read. A column `cost` without values is left out.
        table: The rows with every field, for the other formats.
        format_, output, limit: As for `write_result`.

    Raises: As `write_result`.
    """
    if format_ == "table":
        for line in lines:
            echo(printable(line))
        if not shown:
            return
        echo("")
        table = pa.Table.from_pylist(list(shown))
        if "cost" in table.column_names and table["cost"].null_count == len(table):
            table = table.drop_columns(["cost"])  # there are no prices
    write_result(
        table.schema, iter(table.to_batches()), format_=format_, output=output, limit=limit
    )


def money(row: Mapping[str, Any]) -> str | None:
    """Return the cost of a row with its currency, or None."""
    return None if row["cost"] is None else f"{row['cost']:,.2f} {row['currency']}"


def seconds(value: float | None) -> str:
    """Return a time in seconds for reading; an unknown one is empty."""
    return "" if value is None else duration(round(value * MS_PER_S))


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


def objects(schema: pa.Schema, batches: Batches) -> Iterator[dict[str, Any]]:
    """Yield the rows of a result as JSON has them, with distinct names of the columns."""
    names = _unique(schema).names
    for batch in batches:
        for row in _rows(batch):
            yield dict(zip(names, row, strict=True))


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
    for row in objects(schema, batches):
        out.write(before + escape_json_line(JSON.encode(row).decode()).encode())
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

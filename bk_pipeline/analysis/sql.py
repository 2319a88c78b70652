"""Runs a query in DuckDB, in this process, over the span table. Nothing can be written or reached.

The span table comes in as pyarrow datasets, so that DuckDB opens no file: a query's columns and
filters become those of the scan, and a filter on `day` decides which files are read. Access to
files, extensions and Python's variables is off before the query runs, and the settings are locked.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from threading import Event, Thread
from typing import Any, Self

import duckdb
import pyarrow as pa

from bk_pipeline.analysis.views import VIEWS
from bk_pipeline.errors import ConfigError, FatalError, StorageError
from bk_pipeline.spans.table import SCHEMA
from bk_pipeline.text import one_line

BATCH_ROWS = 10_000
MAX_THREADS = 4
LONGEST_MESSAGE = 600
INTERRUPT_EVERY_S = 0.1
ALLOWED = "SELECT (also WITH, FROM, VALUES, DESCRIBE, SUMMARIZE and SHOW TABLES)"
# What DuckDB says if a dataset could not be read. Nothing else tells it from a wrong query.
UNREADABLE = re.compile(r"reading the stream registered as '\w+' failed: (?P<reason>.*)", re.DOTALL)
# Where it shows the place of an error: the line, and below it a mark.
PLACE = re.compile(r"\n\nLINE (?P<number>\d+): (?P<line>[^\n]*)\n\s*\^+\s*$")
LABEL = re.compile(r"^[A-Z][\w ]* Error: ")

TIMES = {
    "start": '"start" AT TIME ZONE \'UTC\' AS "start", epoch_ns("start") AS start_ns',
    "end": '"end" AT TIME ZONE \'UTC\' AS "end", epoch_ns("end") AS end_ns',
}
# A build of several parts counts as the newest has it, as in `SpanStore.newest`. DuckDB passes
# comparisons with `day` on to both sides of a join, but not of a semi-join.
NEWEST = """
CREATE VIEW spans AS SELECT {columns} FROM _single UNION ALL
SELECT {columns} FROM _several JOIN _newest USING (day, trace_id, revision)
"""
REVISIONS = """
CREATE VIEW _newest AS
SELECT day, trace_id, max(revision) AS revision FROM _several GROUP BY day, trace_id
"""


class UnreadableSpans(StorageError):
    """A file of the span table could not be read."""


class Database:
    """The views over the span table; a context manager. Temporary files end with the block.

    Args:
        single: The days with one part, as in `Datasets`.
        several: The days with several parts.
        memory_mib: How much memory DuckDB may use before it writes to temporary files.
    """

    def __init__(self, single: Any, several: Any, *, memory_mib: int) -> None:
        self._memory_mib = memory_mib
        # Only this user can read it.
        self._temporary = Path(mkdtemp(prefix="bk-pipeline-sql-"))
        try:
            self._connection = self._connect()
            self._prepare(single, several)
        except BaseException:
            self.delete_temporary_files()
            raise

    def _connect(self) -> duckdb.DuckDBPyConnection:
        return duckdb.connect(
            ":memory:",
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "enable_external_access": "false",
                "memory_limit": f"{self._memory_mib}MiB",
                "temp_directory": str(self._temporary),
                "threads": str(min(os.cpu_count() or 1, MAX_THREADS)),
            },
        )

    def _prepare(self, single: Any, several: Any) -> None:
        for statement in (
            # Else a name that is no view would be looked up among Python's variables.
            "SET python_enable_replacements = false",
            # Standard output carries results.
            "SET enable_progress_bar = false",
            "SET TimeZone = 'UTC'",
        ):
            self._connection.execute(statement)
        self._connection.register("_single", single)
        self._connection.register("_several", several)
        columns = ", ".join(["day", *(TIMES.get(one, f'"{one}"') for one in SCHEMA.names)])
        for statement in (REVISIONS, NEWEST.format(columns=columns)):
            self._connection.execute(statement)
        for view in VIEWS:
            self._connection.execute(view.statement)
        self._connection.execute("SET lock_configuration = true")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.delete_temporary_files()

    def delete_temporary_files(self) -> None:
        """Delete the temporary files; the block's end does it too."""
        shutil.rmtree(self._temporary, ignore_errors=True)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """End the queries of the block, and reading their rows, after this many seconds.

        Raises:
            FatalError: They took longer.
        """
        over, expired = Event(), Event()

        def interrupt() -> None:
            if not over.wait(seconds):
                expired.set()
                # Again and again: between two batches there is nothing to interrupt.
                while not over.wait(INTERRUPT_EVERY_S):
                    self._connection.interrupt()

        watch = Thread(target=interrupt, daemon=True)
        watch.start()
        try:
            yield
        except KeyboardInterrupt:
            if not expired.is_set():
                raise
            raise FatalError(
                f"The query took more than {seconds:g} seconds. Narrow it, for example by day."
            ) from None
        finally:
            over.set()
            watch.join()

    def query(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the columns of a query's result, and its rows, which are computed as they are read.

        Args:
            sql: One SELECT.
            parameters: The values of its parameters, without the dollar sign. A text is converted
                to the type that the query needs.

        Raises:
            ConfigError: The query is wrong, is not one SELECT, or has other parameters.
            FatalError: It needs more memory.
            UnreadableSpans: A file could not be read.
        """
        with self._translated_errors():
            self._refuse_all_but_select(sql, parameters or {})
            result = self._connection.sql(sql, params=dict(parameters) if parameters else None)
            reader = result.to_arrow_reader(BATCH_ROWS)
            return reader.schema, self._batches(reader)

    def table(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Return the whole result of a query; arguments and errors as for `query`."""
        schema, batches = self.query(sql, parameters)
        return pa.Table.from_batches(batches, schema)

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        with self._translated_errors():
            yield from reader

    def _refuse_all_but_select(self, sql: str, parameters: Mapping[str, Any]) -> None:
        statements = self._connection.extract_statements(sql)
        if not statements:
            raise ConfigError(f"The query is empty. Give one {ALLOWED}.")
        if len(statements) > 1:
            raise ConfigError(
                f"The query has {len(statements)} statements. Give one {ALLOWED} at a time."
            )
        if statements[0].type is not duckdb.StatementType.SELECT:
            raise ConfigError(
                f"{statements[0].type.name} is refused: queries only read. Give one {ALLOWED}."
            )
        named = statements[0].named_parameters
        if missing := sorted(named - parameters.keys()):
            raise ConfigError(
                f"The query has the parameter ${missing[0]}: give it a value, "
                f"--param {missing[0]}=VALUE."
            )
        if unknown := sorted(parameters.keys() - named):
            has = (
                f"it has {', '.join(f'${one}' for one in sorted(named))}"
                if named
                else "it has none"
            )
            raise ConfigError(f"The query has no parameter ${unknown[0]}; {has}.")

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except duckdb.InterruptException as exc:
            raise KeyboardInterrupt from exc
        except duckdb.OutOfMemoryException as exc:
            raise FatalError(
                f"The query needs more than {self._memory_mib:,} MiB of memory. Narrow it, for example "
                "by day, or give it more with --memory."
            ) from exc
        except (duckdb.Error, pa.ArrowException) as exc:
            if found := UNREADABLE.search(str(exc)):
                raise UnreadableSpans(one_line(found["reason"], LONGEST_MESSAGE)) from exc
            raise ConfigError(_message(str(exc))) from exc


def _message(text: str) -> str:
    """Return DuckDB's message as one line, with its hint and the place that it is about."""
    place = PLACE.search(text)
    text = LABEL.sub("", text[: place.start()] if place else text)
    shown = one_line(" ".join(text.split()), LONGEST_MESSAGE)
    if place is None:
        return f"The query failed: {shown}"
    line = one_line(place["line"], LONGEST_MESSAGE)
    return f"The query failed: {shown} (line {place['number']}: {line})"

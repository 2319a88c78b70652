"""`bk-pipeline sql`: a query over the stored builds; and how other commands open them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import click

from bk_pipeline.analysis.sql import Database
from bk_pipeline.app import MEMORY_MIB, App
from bk_pipeline.cli.results import refuse_binary_terminal, write_result
from bk_pipeline.cli.signals import summing_up
from bk_pipeline.errors import ConfigError, FatalError
from bk_pipeline.settings import Settings

DEFAULT_DAYS = 30


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
    with (
        app.database(memory_mib=memory_mib) as database,
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


def period_of(
    app: App, since: date | None, until: date | None, *, default_days: int = DEFAULT_DAYS
) -> dict[str, str]:
    """Return the first and the last day of a period, as the parameters `since` and `until`.

    By default it ends with the last stored day, and has `default_days`.

    Raises:
        ConfigError: It ends before it begins.
    """
    last = until or date.fromisoformat(max(app.spans().parts_by_day()))
    first = since or last - timedelta(days=default_days - 1)
    if first > last:
        raise ConfigError(f"The period ends before it begins: {first} to {last}.")
    return {"since": first.isoformat(), "until": last.isoformat()}


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

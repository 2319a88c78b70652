"""`bk-pipeline ledger`: show deliveries and rejections, re-queue and adopt items."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import click
from rich.table import Table
from rich.text import Text

from bk_pipeline.app import App
from bk_pipeline.cli.output import Console, echo, line_of
from bk_pipeline.deliver.destinations import DEPLOYMENT_METRICS, Configured
from bk_pipeline.errors import ConfigError
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline import adopt_day, adopt_deployments
from bk_pipeline.settings import Settings
from bk_pipeline.spans import ids
from bk_pipeline.text import counted


def destinations() -> None:
    """Show the destinations, with counts of items."""
    table = Table("destination", box=None, header_style="bold")
    for name in ("accepted", "rejected", "presumed sent", "in doubt", "builds"):
        table.add_column(name, justify="right")
    table.add_column("days")
    with _opened() as book:
        for name in book.destinations():
            one = book.summary(name)
            counts = (one.accepted, one.rejected, one.presumed, one.in_doubt, one.builds)
            days = f"{one.first_day} to {one.last_day}" if one.first_day else ""
            table.add_row(Text(name), *(f"{count:,}" for count in counts), days)
    Console(width=None if Console().is_terminal else 200).print(table)


def rejected(
    destination: str, day: date | None, build: str | None, reason: str | None, limit: int
) -> None:
    """List the items that DESTINATION rejected.

    Columns, separated by tabs: day, trace id, span id, span name, reason.
    """
    with _opened() as book:
        _known(book, destination)
        found = book.rejections(
            destination, day=_key(day), trace_id=_trace(build), reason_like=reason, limit=limit
        )
    for one in found:
        fields = (one.day, one.trace_id.hex(), one.item_id.hex(), one.span_name, one.reason)
        line_of(fields)


def requeue(
    destination: str, day: date | None, build: str | None, reason: str | None, everything: bool
) -> None:
    """Have DESTINATION's next delivery send again what was rejected or presumed sent."""
    if not (day or build or reason or everything):
        raise ConfigError("Specify what to re-queue: --day, --build, --reason, or --all.")
    with _opened() as book:
        _known(book, destination)
        count = book.requeue(
            destination,
            day=_key(day),
            trace_id=_trace(build),
            reason_like=reason,
            on_wait=lambda line: echo(line, err=True),
        )
    echo(f"{counted(count, 'item')} will be sent again when materialized.")


def forget(destination: str, yes: bool) -> None:
    """Delete all records of DESTINATION. Everything is then sent, and billed, again."""
    with _opened() as book:
        _known(book, destination)
        accepted = book.summary(destination).accepted
        if not yes:
            click.confirm(
                f"{destination} has accepted {counted(accepted, 'item')}. Forget them, so that "
                "they are sent again when you materialize their days?",
                abort=True,
            )
        count = book.forget(destination, on_wait=lambda line: echo(line, err=True))
    echo(f"Forgotten: {counted(count, 'item')} of {destination}.")


def adopt(destinations: tuple[str, ...], first: date | None, last: date | None) -> None:
    """Take for delivered what was delivered from this data directory with another ledger."""
    app = App(Settings.load())
    spans = app.spans()
    days = [
        day
        for day in spans.deliveries.days()
        if (not first or day >= first.isoformat()) and (not last or day <= last.isoformat())
    ]
    with app.ledger() as book:
        for configured in _chosen(app, destinations):
            with app.destination(configured) as destination:
                is_spans = configured.kind != DEPLOYMENT_METRICS
                take = adopt_day if is_spans else adopt_deployments
                adopted = {
                    day: take(
                        day,
                        spans=spans,
                        destination=destination,
                        ledger=book,
                        guarantee=app.delivery_policy().guarantee,
                        progress=lambda line: echo(line, err=True),
                    )
                    for day in days
                }
            counts = [count for count in adopted.values() if count is not None]
            echo(
                f"{configured.asset}: {sum(counts):,} items of {len(counts)} "
                f"day{'' if len(counts) == 1 else 's'} marked as delivered."
            )


def _chosen(app: App, assets: tuple[str, ...]) -> list[Configured]:
    known = {one.asset: one for one in (*app.destinations(), *app.deployment_metrics())}
    unknown = [name for name in assets if name not in known]
    if unknown or not known:
        raise ConfigError(
            f"No destination {unknown[0] if unknown else ''} is configured. Configured: "
            f"{', '.join(known) or 'none'}."
        )
    return [known[name] for name in assets or known]


@contextmanager
def _opened() -> Iterator[Ledger]:
    """Open the ledger from the settings.

    Raises:
        FatalError: There is no ledger yet. Reading does not create one.
    """
    with App(Settings.load()).ledger(create=False) as book:
        yield book


def _known(book: Ledger, destination: str) -> None:
    names = book.destinations()
    if destination not in names:
        known = ", ".join(names) or "none"
        raise ConfigError(f"The ledger has no destination {destination}. It has: {known}.")


def _key(day: date | None) -> str | None:
    return day.isoformat() if day else None


def _trace(build: str | None) -> bytes | None:
    return bytes.fromhex(ids.trace_id(build)) if build else None

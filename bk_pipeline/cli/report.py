"""`bk-pipeline report`: the report of a day, a week or a month, as one HTML file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from bk_pipeline.app import App
from bk_pipeline.cli.output import atomic_file, echo, tell
from bk_pipeline.cli.sql import open_database
from bk_pipeline.report.compose import summary
from bk_pipeline.report.html import html
from bk_pipeline.settings import Settings


def report(*, period: str, until: date | None, output: Path) -> None:
    """Write the report of the period that ends with `until`, and print its first sentence."""
    app = App(Settings.load())
    zone = app.settings.timezone
    with open_database(app) as database:
        shown = app.period(period, str(until or max(app.spans().parts_by_day())))
        with app.trace_links(on_trouble=tell) as link_of:
            stats, blocks = app.report(shown, database, link_of=link_of, on_trouble=tell)
    organization = app.settings.buildkite_organization_slug
    title = f"Builds of {organization}" if organization else "Builds"
    dates = f"{period.capitalize()} {'of' if shown.days == 1 else 'from'} {shown}, in {zone.key}"
    with atomic_file(output) as file:
        file.write(html(f"{title}: {shown}", dates, blocks).encode())
    echo(f"{output}: {shown}: {summary(stats)}")

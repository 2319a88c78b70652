"""`bk-pipeline sampling`: what the sampling rules would keep of the span table."""

from __future__ import annotations

from datetime import date

from rich.table import Table
from rich.text import Text

from bk_pipeline.app import App
from bk_pipeline.cli.output import Console, echo
from bk_pipeline.deliver.sampling import NO_RULE, Sampling, Share, shares
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted

COLUMNS = ("rate", "builds", "kept", "spans", "kept", "events", "kept")
# What no rule matches: failed builds, among others.
REST = "(no rule)"


def sampling(first: date | None, last: date | None) -> None:
    """Show what each rule would keep of the stored days. Sends nothing."""
    app = App(Settings.load())
    rules = app.sampling()
    if rules is None:
        raise ConfigError(
            "BK_PIPELINE_SAMPLING is not set, so every build is sent. Set it to the path of a file "
            "of rules; docs/sampling.md has examples."
        )
    days = [
        day
        for day in app.raw().days()
        if (not first or day >= first.isoformat()) and (not last or day <= last.isoformat())
    ]
    spans, columns = app.spans(), [*rules.columns, "links"]
    tables = (table for day in days for table in spans.newest(day, columns=columns))
    found = shares(rules, tables)
    total = sum(found.values(), Share())
    if not total.builds:
        echo("There are no spans of these days: materialize them, or choose other days.")
        return
    _show(rules, found, total)
    percent = total.kept_events / total.events
    echo(
        f"Of {counted(len(days), 'day')}, {total.kept_events:,} of {counted(total.events, 'event')} "
        f"would be sent ({percent:.1%}). An event is a span or, at Honeycomb, a link."
    )


def _show(rules: Sampling, found: dict[int, Share], total: Share) -> None:
    table = Table("rule", box=None, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for index, rule in enumerate(rules.rules):
        table.add_row(Text(rule.id), f"{rule.rate:,}", *_cells(found[index]))
    table.add_row(REST, "1", *_cells(found[NO_RULE]))
    table.add_row("total", "", *_cells(total))
    Console(width=None if Console().is_terminal else 200).print(table)


def _cells(share: Share) -> list[str]:
    counts = (
        *(share.builds, share.kept_builds),
        *(share.spans, share.kept_spans),
        *(share.events, share.kept_events),
    )
    return [f"{count:,}" for count in counts]

"""The tables of a report: their columns, and how values look. Cells are plain text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from bk_pipeline.analysis.period import LISTED, Row
from bk_pipeline.display import BUILDKITE, Page, safe_url
from bk_pipeline.report.blocks import Cell, Column, Table
from bk_pipeline.text import duration, shortened
from bk_pipeline.trace.labels import readable, with_matrix_values
from bk_pipeline.units import MS_PER_S, NS_PER_S

LONGEST_TEXT = 60
SHOWN_NAMES = 2
NOTHING = ""
NO_BREAK = "\N{NO-BREAK SPACE}"

# Decimals of a cost, from the least one that has them.
FINE = ((2, 0.095), (3, 0.0095), (4, 0.00095))
Show = Callable[[Any], str]
LinkOf = Callable[[str, int, int], Page | None]
Columns = Mapping[str, tuple[str, Show]]


def time_taken(seconds: float | None) -> str:
    """Return a duration in two units at most, with no line break between them; empty if unknown."""
    return NOTHING if seconds is None else _unbroken(duration(round(seconds * MS_PER_S)))


def percent(share: float | None) -> str:
    """Return a share as a percentage; empty if it is unknown."""
    return NOTHING if share is None else f"{share:.1%}"


def count(number: float | None) -> str:
    """Return a count with separators of thousands."""
    return NOTHING if number is None else f"{number:,.0f}"


def amount(cost: float | None) -> str:
    """Return a cost with cents, or below 10 cents with two digits that count; empty if it is unknown."""
    if cost is None:
        return NOTHING
    decimals = next((n for n, least in FINE if cost >= least), 6) if cost else 2
    return f"{cost:,.{decimals}f}"


def text(value: Any) -> str:
    """Return text on one line, without Buildkite's own emoji, short enough for a table."""
    return shortened(readable(value), LONGEST_TEXT) if isinstance(value, str) else NOTHING


def first_line(value: Any) -> str:
    """Return the first line of a text."""
    return text(value.strip().partition("\n")[0]) if isinstance(value, str) else NOTHING


def _unbroken(label: str) -> str:
    return label.replace(" ", NO_BREAK)


PIPELINES: Columns = {
    "pipeline": ("pipeline", text),
    "builds": ("builds", count),
    "failure_rate": ("failed", percent),
    "duration_p50_s": ("duration p50", time_taken),
    "duration_p90_s": ("p90", time_taken),
    "duration_p99_s": ("p99", time_taken),
    "queue_p50_s": ("queue p50", time_taken),
    "queue_p90_s": ("p90", time_taken),
    "retries": ("retries", count),
    "flaky_failures": ("flaky", count),
    "agent_minutes": ("agent minutes", count),
}
FLAKY: Columns = {
    "pipeline": ("pipeline", text),
    "shown_label": ("step", text),
    "flaky_attempts": ("failed, then passed", count),
    "flaky_commits": ("commits", count),
    "attempts": ("jobs", count),
    "flaky_rate": ("flaky", percent),
    "minutes_lost": ("minutes lost", count),
}
EXPENSIVE: Columns = {
    "pipeline": ("pipeline", text),
    "shown_label": ("step", text),
    "agent_minutes": ("agent minutes", count),
    "jobs": ("jobs", count),
    "duration_p50_s": ("duration p50", time_taken),
    "duration_p90_s": ("p90", time_taken),
    "wait_p90_s": ("wait p90", time_taken),
}
SECTIONS: Columns = {
    "pipeline": ("pipeline", text),
    "shown_label": ("step", text),
    "section": ("section", text),
    "phase": ("phase", text),
    "minutes": ("minutes", count),
    "times": ("times", count),
    "duration_p50_s": ("duration p50", time_taken),
    "duration_p90_s": ("p90", time_taken),
}
QUEUES: Columns = {
    "queue": ("queue", text),
    "cluster": ("cluster", text),
    "jobs": ("jobs", count),
    "wait_p50_s": ("wait p50", time_taken),
    "wait_p90_s": ("p90", time_taken),
    "wait_p99_s": ("p99", time_taken),
    "wait_max_s": ("longest", time_taken),
    "waited_minutes": ("waited, minutes", count),
    "never_started": ("never started", count),
}
TEXTUAL = {text, first_line}


def table_of(rows: Sequence[Row], columns: Columns) -> Table:
    """Return the first rows as a table, with the cost if it is known.

    Args:
        rows: The rows.
        columns: The columns by name in the rows, each with its head and how a value is shown.
    """
    if any(row.get("cost") is not None for row in rows):
        columns = {**columns, "cost": ("cost", amount)}
    heads = [Column(head, is_number=show not in TEXTUAL) for head, show in columns.values()]
    cells = [
        [Cell(show(row[name])) for name, (_, show) in columns.items()] for row in rows[:LISTED]
    ]
    return Table(heads, cells, left_out=max(len(rows) - LISTED, 0))


def with_labels(rows: Sequence[Row], steps: Sequence[Row]) -> list[Row]:
    """Return rows of steps with `shown_label`, which has the values of a matrix."""
    labels = {
        (row["pipeline"], row["step"]): with_matrix_values(
            row["label"] or row["step"], row["matrices"] or ()
        )
        for row in steps
    }
    return [
        {**row, "shown_label": labels.get((row["pipeline"], row["step"]), row["step"])}
        for row in rows
    ]


def failures_table(rows: Sequence[Row], hosts: Collection[str] = (BUILDKITE,)) -> Table:
    """Return rows of `failures.sql`, each with a link to the last job that failed with it."""
    heads = {"message": False, "kind": False, "failures": True, "pipelines": False, "steps": False}
    cells = [
        [
            Cell("new" if row["is_new"] else NOTHING),
            Cell(text(row["message"]) or "(no message)", safe_url(row["url"], hosts)),
            Cell(text(row["kind"])),
            Cell(count(row["failures"])),
            Cell(_some(row["pipelines"])),
            Cell(_some(row["steps"])),
        ]
        for row in rows[:LISTED]
    ]
    columns = [Column(NOTHING), *(Column(head, is_number=one) for head, one in heads.items())]
    if not any(row["is_new"] for row in rows[:LISTED]):
        columns, cells = columns[1:], [row[1:] for row in cells]
    return Table(columns, cells, left_out=max(len(rows) - LISTED, 0))


def _some(names: Sequence[str]) -> str:
    """Return the first of several names, and how many more there are."""
    shown = ", ".join(text(name) for name in names[:SHOWN_NAMES])
    return f"{shown} and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else shown


def builds_table(
    rows: Sequence[Row],
    *,
    zone: tzinfo,
    with_date: bool,
    link_of: LinkOf,
    hosts: Collection[str] = (BUILDKITE,),
    left_out: int = 0,
) -> Table:
    """Return builds, each with links to its page and its trace.

    Args:
        rows: Rows of `report_listed.sql`.
        zone: In which the times are shown.
        with_date: Whether the date is shown beside the time.
        link_of: Where a trace is looked at: trace id, start and end in nanoseconds.
        hosts: Hosts of Buildkite's pages; a build whose URL is elsewhere has no link.
        left_out: How many more there are.
    """
    heads = (
        "build",
        "state",
        f"created, {zone}",
        "duration",
        "queue time",
        "branch",
        "message",
        "trace",
    )
    numbers = {"duration", "queue time"}
    cells = []
    for row in rows[:LISTED]:
        # A time may be missing in a span table of an odd build.
        timed = row["start_ns"] is not None and row["end_ns"] is not None
        trace = link_of(row["trace_id"], row["start_ns"], row["end_ns"]) if timed else None
        cells.append(
            [
                Cell(_unbroken(_name(row)), safe_url(row["url"], hosts)),
                Cell(text(row["state"])),
                Cell(_created(row["start_ns"], zone, with_date=with_date)),
                Cell(time_taken(row["run_s"])),
                Cell(time_taken(row["queue_s"])),
                Cell(text(row["branch"])),
                Cell(first_line(row["message"])),
                Cell("trace" if trace else NOTHING, trace),
            ]
        )
    columns = [Column(one, is_number=one in numbers) for one in heads]
    if not any(row[-1].page for row in cells):
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    return Table(columns, cells, left_out=left_out)


def _created(start_ns: int | None, zone: tzinfo, *, with_date: bool) -> str:
    if start_ns is None:
        return NOTHING
    created = datetime.fromtimestamp(start_ns / NS_PER_S, UTC).astimezone(zone)
    return _unbroken(f"{created:%d %b %H:%M}" if with_date else f"{created:%H:%M}")


def _name(build: Row) -> str:
    known = build["number"] is not None  # a privacy setting may have left it out
    return text(f"{build['pipeline']} #{build['number']}" if known else build["pipeline"])

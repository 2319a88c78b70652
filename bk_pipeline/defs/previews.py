"""The report of a day in Dagster's UI: tables in Markdown. Loads pandas.

Metadata stay in Dagster's event log for ever: a few rows of each table, the rest is in the
Parquet files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pandas as pd

from bk_pipeline.analysis.columns import COUNT, NUMBER
from bk_pipeline.analysis.columns import PIPELINES as PIPELINES_TABLE
from bk_pipeline.analysis.summary import DayStats
from bk_pipeline.defs.plots import builds_over_the_day, durations_by_pipeline, waterfall
from bk_pipeline.display import BUILDKITE, Page, link, safe_url
from bk_pipeline.display import escape_markdown as escaped
from bk_pipeline.text import duration, money, shortened
from bk_pipeline.trace.waterfall import of_all_jobs, readable
from bk_pipeline.window import Window

ROWS = 10
LONGEST_TEXT = 60
NOTHING = ""

Show = Callable[[Any], str]
LinkOf = Callable[[str, int, int], Page | None]
Columns = Mapping[str, tuple[str, Show]]


def stats_preview(
    stats: DayStats,
    window: Window,
    zone: ZoneInfo,
    *,
    spans_of: Callable[[str], Sequence[dict[str, Any]]],
    link_of: LinkOf,
    hosts: Collection[str] = (BUILDKITE,),
) -> dict[str, Any]:
    """Return the metadata of a `build_stats` partition.

    Args:
        stats: The day's.
        window: The day.
        zone: In which its hours are shown.
        spans_of: The spans of a trace, as `waterfall` takes them.
        link_of: Where a trace is looked at: trace id, start and end in nanoseconds.
        hosts: Hosts of Buildkite's pages; a build whose URL is elsewhere has no link.
    """
    if stats.builds.empty:
        return {"builds": 0, "dagster/partition_row_count": 0}
    slowest = stats.builds.nlargest(ROWS, "run_s")
    failed = stats.builds[stats.builds["state"] == "failed"].sort_values("start", ascending=False)
    flaky = stats.steps[stats.steps["flaky_failures"] > 0]
    flaky = flaky.sort_values(["flaky_failures", "flaky_commits"], ascending=False)
    # One text, because each is a click: Dagster shows long ones only when they are asked for.
    report = "\n\n".join(
        [
            builds_over_the_day(stats.builds, window, zone),
            "### Slowest builds",
            *(waterfall(spans_of(trace_id)) for trace_id in slowest["trace_id"].head(1)),
            markdown(_linked(slowest, link_of, hosts), BUILDS),
            "### Failed builds",
            markdown(_linked(failed, link_of, hosts), BUILDS),
            "### Pipelines",
            durations_by_pipeline(stats.pipelines),
            markdown(*_with_cost(stats.pipelines, PIPELINES, by="builds")),
            "### Flaky steps",
            markdown(flaky, FLAKY),
            "### Most expensive steps",
            markdown(*_with_cost(stats.steps, EXPENSIVE, by="cost")),
            "### Agent queues",
            markdown(*_with_cost(stats.queues, QUEUES, by="waited_minutes")),
        ]
    )
    return {
        **numbers(stats.totals),
        "report": dg.MetadataValue.md(report),
        "dagster/partition_row_count": len(stats.pipelines),
    }


def numbers(whole: pd.Series[float]) -> dict[str, float]:
    """Return the numeric columns of `PIPELINES` for all builds together; unknown ones are absent.

    Dagster plots metadata that are numbers over the partitions.
    """
    return {
        column.name: int(whole[column.name]) if column.type == COUNT else float(whole[column.name])
        for column in PIPELINES_TABLE.columns
        if column.type in {COUNT, NUMBER} and not pd.isna(whole[column.name])
    }


def _with_cost(rows: pd.DataFrame, columns: Columns, *, by: str) -> tuple[pd.DataFrame, Columns]:
    """Return the rows sorted by a column, the greatest first, and the columns with cost if known."""
    if rows["cost"].notna().any():
        columns = {**columns, "cost": ("cost", amount)}
    return rows.sort_values(by, ascending=False, kind="stable"), columns


def _linked(builds: pd.DataFrame, link_of: LinkOf, hosts: Collection[str]) -> pd.DataFrame:
    """Add Markdown links to the build and its trace to the rows that are shown."""
    shown = builds.head(ROWS)
    pages = [
        link(_unbroken(text(_name(row))), safe_url(row["url"], hosts))
        for row in shown.to_dict("records")
    ]
    times = zip(*(shown[at].astype("int64") for at in ("start", "end")), strict=True)
    traces = [
        link("trace", url) if (url := link_of(trace_id, start, end)) else NOTHING
        for trace_id, (start, end) in zip(shown["trace_id"], times, strict=True)
    ]
    return builds.assign(
        build=pd.Series(pages, shown.index, dtype=object),
        trace=pd.Series(traces, shown.index, dtype=object),
    )


def _name(build: Mapping[Any, Any]) -> str:
    known = not pd.isna(build["number"])  # a privacy setting may have left it out
    return f"{build['pipeline']} #{build['number']:.0f}" if known else str(build["pipeline"])


def time_taken(seconds: float) -> str:
    """Return a duration in two units at most, with no line break between them."""
    return NOTHING if math.isnan(seconds) else _unbroken(duration(round(seconds * 1000)))


def _unbroken(label: str) -> str:
    return label.replace(" ", "\N{NO-BREAK SPACE}")


def percent(share: float) -> str:
    """Return a share as a percentage; empty if it is unknown."""
    return NOTHING if math.isnan(share) else f"{share:.1%}"


def count(number: float) -> str:
    """Return a count with separators of thousands."""
    return f"{number:,.0f}"


def amount(cost: float) -> str:
    """Return a cost; empty if it is unknown."""
    return NOTHING if math.isnan(cost) else money(cost, None)


def text(value: Any) -> str:
    """Return text on one line, without Buildkite's own emoji, short enough for a table."""
    line = readable(value) if isinstance(value, str) else NOTHING
    return escaped(shortened(line, LONGEST_TEXT))


def step(label: Any) -> str:
    """Return the label that the jobs of a step share."""
    return text(of_all_jobs(label))


def first_line(value: Any) -> str:
    """Return the first line of a text."""
    return text(value.strip().partition("\n")[0]) if isinstance(value, str) else NOTHING


def moment(value: pd.Timestamp) -> str:
    """Return the time of day."""
    return f"{value:%H:%M}"


BUILDS: Columns = {
    "build": ("build", str),
    "state": ("state", text),
    "start": ("created, UTC", moment),
    "run_s": ("duration", time_taken),
    "queue_s": ("queue time", time_taken),
    "branch": ("branch", text),
    "message": ("message", first_line),
    "trace": ("trace", str),
}
PIPELINES: Columns = {
    "pipeline": ("pipeline", text),
    "builds": ("builds", count),
    "failure_rate": ("failed", percent),
    "duration_p50_s": ("duration p50", time_taken),
    "duration_p90_s": ("p90", time_taken),
    "duration_p99_s": ("p99", time_taken),
    "queue_p50_s": ("queue p50", time_taken),
    "queue_p90_s": ("p90", time_taken),
    "queue_p99_s": ("p99", time_taken),
    "retries": ("retries", count),
    "flaky_failures": ("flaky", count),
    "agent_minutes": ("agent minutes", count),
}
FLAKY: Columns = {
    "pipeline": ("pipeline", text),
    "label": ("step", step),
    "flaky_failures": ("failed, then passed", count),
    "flaky_commits": ("commits", count),
    "jobs": ("jobs", count),
    "failure_rate": ("failed at all", percent),
    "retries": ("retries", count),
}
EXPENSIVE: Columns = {
    "pipeline": ("pipeline", text),
    "label": ("step", step),
    "agent_minutes": ("agent minutes", count),
    "jobs": ("jobs", count),
    "duration_p50_s": ("duration p50", time_taken),
    "duration_p90_s": ("p90", time_taken),
    "wait_p90_s": ("wait p90", time_taken),
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


TEXTUAL = {text, str, step, first_line}


def markdown(rows: pd.DataFrame, columns: Columns) -> str:
    """Return the first `ROWS` rows as a table, with text on the left and numbers on the right."""
    lines = [
        [head for head, _ in columns.values()],
        ["---" if show in TEXTUAL else "---:" for _, show in columns.values()],
    ]
    lines += [
        [show(row[name]) for name, (_, show) in columns.items()]
        for row in rows.head(ROWS).to_dict("records")
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = f"\n\n{len(rows) - ROWS:,} more." if len(rows) > ROWS else ""
    return table + more if len(rows) else "None."

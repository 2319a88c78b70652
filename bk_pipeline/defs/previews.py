"""What people see of a day in Dagster's UI: tables in Markdown. Loads pandas.

Metadata stay in Dagster's event log for ever: a few rows of each table, the rest is in the
Parquet files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import pandas as pd

from bk_pipeline.stats.summary import DayStats

ROWS = 10
LONGEST_TEXT = 60
NOTHING = ""
EMOJI = re.compile(r":[\w+-]+:\s*")
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")

Show = Callable[[Any], str]


def stats_preview(stats: DayStats) -> dict[str, Any]:
    """The metadata of a `build_stats` partition."""
    if stats.builds.empty:
        return {"builds": 0, "dagster/partition_row_count": 0}
    whole = stats.whole
    flaky = stats.steps[stats.steps["flaky_failures"] > 0]
    flaky = flaky.sort_values(["flaky_failures", "flaky_commits"], ascending=False)
    return {
        "builds": int(whole["builds"]),
        "failure rate": percent(whole["failure_rate"]),
        "duration p50": duration(whole["duration_p50_s"]),
        "queue time p50": duration(whole["queue_p50_s"]),
        "flaky failures": int(whole["flaky_failures"]),
        "agent minutes": round(float(whole["agent_minutes"]), 1),
        "pipelines": markdown(stats.pipelines.sort_values("builds", ascending=False), PIPELINES),
        "flaky steps": markdown(flaky, FLAKY),
        "most expensive steps": markdown(stats.steps, EXPENSIVE),
        "agent queues": markdown(stats.queues, QUEUES),
        "dagster/partition_row_count": len(stats.pipelines),
    }


def duration(seconds: float) -> str:
    """`8.2 s`, `4 m 05 s`, `1 h 12 m`."""
    if math.isnan(seconds):
        return NOTHING
    if seconds < 9.95:  # noqa: PLR2004  # what rounds to a single digit
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004
        return f"{whole // 60} m {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} m"


def percent(share: float) -> str:
    return NOTHING if math.isnan(share) else f"{share:.1%}"


def count(number: float) -> str:
    return f"{number:,.0f}"


def text(words: Any) -> str:
    """One line, without Buildkite's emoji codes, so long that a table can hold it."""
    if not isinstance(words, str):
        return ""
    line = " ".join(EMOJI.sub("", words).split()) or " ".join(words.split())
    line = line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"
    return MARKDOWN.sub(r"\\\1", line)


PIPELINES: Mapping[str, tuple[str, Show]] = {
    "pipeline": ("pipeline", text),
    "builds": ("builds", count),
    "failure_rate": ("failed", percent),
    "duration_p50_s": ("duration p50", duration),
    "duration_p90_s": ("p90", duration),
    "duration_p99_s": ("p99", duration),
    "queue_p50_s": ("queue p50", duration),
    "queue_p90_s": ("p90", duration),
    "queue_p99_s": ("p99", duration),
    "retries": ("retries", count),
    "flaky_failures": ("flaky", count),
    "agent_minutes": ("agent minutes", count),
}
FLAKY: Mapping[str, tuple[str, Show]] = {
    "pipeline": ("pipeline", text),
    "label": ("step", text),
    "flaky_failures": ("failed, then passed", count),
    "flaky_commits": ("commits", count),
    "jobs": ("jobs", count),
    "failure_rate": ("failed at all", percent),
    "retries": ("retries", count),
}
EXPENSIVE: Mapping[str, tuple[str, Show]] = {
    "pipeline": ("pipeline", text),
    "label": ("step", text),
    "agent_minutes": ("agent minutes", count),
    "jobs": ("jobs", count),
    "duration_p50_s": ("duration p50", duration),
    "duration_p90_s": ("p90", duration),
    "wait_p90_s": ("wait p90", duration),
}
QUEUES: Mapping[str, tuple[str, Show]] = {
    "queue": ("queue", text),
    "cluster": ("cluster", text),
    "jobs": ("jobs", count),
    "wait_p50_s": ("wait p50", duration),
    "wait_p90_s": ("p90", duration),
    "wait_p99_s": ("p99", duration),
    "wait_max_s": ("longest", duration),
    "waited_minutes": ("waited, minutes", count),
    "never_started": ("never started", count),
}


def markdown(
    rows: pd.DataFrame, columns: Mapping[str, tuple[str, Show]]
) -> dg.MarkdownMetadataValue:
    """The first `ROWS` rows as a table; words to the left, numbers to the right."""
    lines = [
        [head for head, _ in columns.values()],
        ["---" if show is text else "---:" for _, show in columns.values()],
    ]
    lines += [
        [show(row[name]) for name, (_, show) in columns.items()]
        for row in rows.head(ROWS).to_dict("records")
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = f"\n\n{len(rows) - ROWS:,} more." if len(rows) > ROWS else ""
    return dg.MetadataValue.md(table + more if len(rows) else "None.")

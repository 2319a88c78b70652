"""A build as a waterfall in the terminal: who waited, who ran, who failed, when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

Span = dict[str, Any]

COLOURS = {"ok": "green", "error": "red", "unset": "yellow"}
LABEL_SHARE = 0.42
LONGEST_LABEL = 52
NS_PER_MS = 1_000_000
RAN, WAITED = "█", "░"


def waterfall(spans: Sequence[Span], *, width: int) -> Table:
    """The spans of one trace (rows of `spans.table.rows`), a line each, `width` columns wide.

    A step with one job is shown as that job. `░` is a job's wait for an agent, `█` its run.
    """
    labels = min(int(width * LABEL_SHARE), LONGEST_LABEL)
    lines = list(_tree(spans))
    root = lines[0][1]
    bars = max(width - labels - 12, 10)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), width=width)
    table.add_column(width=labels, no_wrap=True, overflow="ellipsis")
    table.add_column(width=bars, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for depth, span in lines:
        colour = COLOURS[span["status"]]
        length_ms = (span["end_unix_nano"] - span["start_unix_nano"]) // NS_PER_MS
        table.add_row(
            Text("  " * depth + _label(span), style=colour if span["status"] == "error" else ""),
            _bar(span, root, bars, colour),
            Text(duration(length_ms)),
        )
    return table


def duration(length_ms: int) -> str:
    """Two units at most: "840 ms", "12.3 s", "4 m 05 s", "2 h 10 m", "9 d 3 h"."""
    seconds, milliseconds = divmod(length_ms, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} m"
    if minutes:
        return f"{minutes} m {seconds:02} s"
    return f"{length_ms / 1_000:.1f} s" if seconds else f"{milliseconds} ms"


def _tree(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Depth and span, each parent before its children, which are in order of start."""
    children: dict[str | None, list[Span]] = defaultdict(list)
    for span in spans:
        children[span.get("parent_span_id")].append(span)

    def below(parent: str | None, depth: int) -> Iterator[tuple[int, Span]]:
        for span in sorted(children[parent], key=lambda one: one["start_unix_nano"]):
            inside = children[span["span_id"]]
            if span["name"] == "buildkite.step" and len(inside) == 1:
                yield depth, inside[0]
            else:
                yield depth, span
                yield from below(span["span_id"], depth + 1)

    return below(None, 0)


def _label(span: Span) -> str:
    attributes = span["attributes"]
    if span["name"] == "buildkite.build":
        slug = span["resource"].get("buildkite.pipeline.slug", "")
        state = attributes.get("buildkite.build.state", "")
        return f"{slug} #{attributes['buildkite.build.number']} {state}"
    if span["name"] == "buildkite.build.stage":
        return f"stage {attributes['buildkite.build.stage']}"
    if span["name"] == "buildkite.step.group":
        return f"group {attributes['buildkite.step.group.key']}"
    name = attributes.get("buildkite.job.label") or attributes.get("buildkite.step.label")
    name = name or attributes.get("buildkite.step.key") or attributes.get("buildkite.job.type", "")
    index = attributes.get("buildkite.job.parallel.index")
    notes = [] if index is None else [f"{index + 1}/{attributes['buildkite.job.parallel.total']}"]
    if attributes.get("buildkite.job.retried"):
        notes.append("retried")
    if attributes.get("buildkite.job.soft_failed"):
        notes.append("soft failed")
    state = attributes.get("buildkite.job.state")
    if state not in {None, "passed", "failed"}:
        notes.append(str(state))
    return f"{name} ({', '.join(notes)})" if notes else str(name)


def _bar(span: Span, root: Span, columns: int, colour: str) -> Text:
    began: int = root["start_unix_nano"]
    length: int = max(root["end_unix_nano"] - began, 1)

    def column(moment_ns: int) -> int:
        return min(max((moment_ns - began) * columns // length, 0), columns)

    start = min(column(span["start_unix_nano"]), columns - 1)
    end = max(column(span["end_unix_nano"]), start + 1)
    wait_ns = span["attributes"].get("buildkite.job.wait_time_ms", 0) * NS_PER_MS
    waiting = column(span["start_unix_nano"] - wait_ns)
    return Text.assemble(
        " " * waiting, (WAITED * (start - waiting), "dim"), (RAN * (end - start), colour)
    )

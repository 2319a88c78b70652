"""A build as a waterfall in the terminal: who waited, who ran, who failed, when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from bk_pipeline.cli.labels import of_all_jobs, readable
from bk_pipeline.cli.outline import Line, outline
from bk_pipeline.cli.timescale import Timescale
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.text import duration

Span = dict[str, Any]

COLOURS = {"ok": "green", "error": "red", "unset": "yellow"}
PERSON = "blue"
NS_PER_MS = 1_000_000
RAN, WAITED, PAUSED, FOLDED = "█", "░", "╌", "▒"
LEGEND = "░ waited for an agent  █ ran  ╌ waited for a person"

LABEL_SHARE, LONGEST_LABEL, SHORTEST_LABEL = 0.5, 60, 8
LONGEST_DURATION = 9
# With fewer columns than these left, bars say nothing.
LEAST_BARS = 8
# What fits a few screens.
MOST_LINES = 150


def waterfall(spans: Sequence[Span], *, width: int, most_lines: int | None = MOST_LINES) -> Table:
    """The spans of one trace (rows of `spans.table.rows`), `width` columns wide.

    A line each, but that a step with one job is shown as that job, and that children of one
    parent beyond what `most_lines` leaves room for are folded into a line that counts them.
    Where there is no room for bars there are none, and long pauses are drawn shortened.
    """
    lines = outline(spans, most_lines=most_lines)
    labels = [_label(line) for line in lines]
    room = width - LONGEST_DURATION - 2
    longest = max(cell_len(label.plain) for label in labels)
    label_width = min(longest, LONGEST_LABEL, max(int(room * LABEL_SHARE), SHORTEST_LABEL))
    bars = room - label_width - 1
    if bars < LEAST_BARS:
        label_width, bars = max(min(longest, room), SHORTEST_LABEL), 0
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=label_width, no_wrap=True, overflow="ellipsis")
    if bars:
        table.add_column(width=bars, no_wrap=True)
    table.add_column(width=LONGEST_DURATION, justify="right", no_wrap=True)
    scale = _scale(spans, max(bars, 1))
    for line, label in zip(lines, labels, strict=True):
        bar = [_bar(line, scale, bars)] if bars else []
        length = duration((line.end_ns - line.start_ns) // NS_PER_MS)
        table.add_row(label, *bar, Text(length))
    if bars and scale.shortened:
        table.caption = Text("long pauses are drawn shortened", "dim")
        table.caption_justify = "left"
    return table


def name_of(span: Span) -> str:
    """What a person calls it."""
    attributes = span["attributes"]
    match span["name"]:
        case SpanKind.BUILD:
            slug = span["resource"].get("buildkite.pipeline.slug", "")
            return f"{slug} #{attributes.get('buildkite.build.number', '')}"
        case SpanKind.STAGE:
            return f"stage {attributes.get('buildkite.build.stage', '')}"
        case SpanKind.GROUP:
            return f"group {readable(attributes.get('buildkite.step.group.key', ''))}"
        case _:
            names = ("job.label", "step.label", "step.key", "job.type", "step.type")
            found = (readable(attributes.get(f"buildkite.{one}") or "") for one in names)
            label = next((name for name in found if name), "step")
            return of_all_jobs(label) if span["name"] == SpanKind.STEP else label


def _label(line: Line) -> Text:
    indent = "  " * line.depth
    if line.span is None:
        return Text(f"{indent}{line.folded_words}", style="dim")
    failed = line.span["status"] == "error"
    notes = _notes(line.span)
    text = f"{'✗ ' if failed else ''}{name_of(line.span)}{f' ({notes})' if notes else ''}"
    return Text(indent + text, style=COLOURS["error"] if failed else "")


def _notes(span: Span) -> str:
    """What is worth knowing of a span besides its name, separated by commas."""
    own = {name.removeprefix("buildkite."): value for name, value in span["attributes"].items()}
    if span["name"] == SpanKind.BUILD:
        blocked = own.get("build.blocked_state")
        return f"{own.get('build.state', '')}{', blocked' if blocked else ''}"
    if span["name"] not in {SpanKind.JOB, SpanKind.WAIT}:
        return ""
    index, retries = own.get("job.parallel.index"), own.get("job.retries_count")
    notes = (
        "" if index is None else f"{index + 1}/{own.get('job.parallel.total', '?')}",
        f"attempt {retries + 1}" if retries else "",
        "retried" if own.get("job.retried") else "",
        "soft failed" if own.get("job.soft_failed") else "",
        _ending(own),
        "never started" if own.get("job.started") is False else "",
    )
    return ", ".join(note for note in notes if note)


def _ending(job: dict[str, Any]) -> str:
    """How a job ended, unless it passed: `exit 1`, `timed out`, `agent lost`."""
    if job.get("error.type") == "agent_lost":
        return "agent lost"
    state, exit_status = job.get("job.state"), job.get("job.exit_status")
    if state == "failed":
        return "" if exit_status is None else f"exit {exit_status}"
    return "" if state in {None, "passed", "finished"} else str(state).replace("_", " ")


def _scale(spans: Sequence[Span], columns: int) -> Timescale:
    busy = [
        (_waiting_since(span), span["end_unix_nano"])
        for span in spans
        if span["name"] == SpanKind.JOB and not _is_manual(span)
    ]
    began = min(one["start_unix_nano"] for one in spans)
    ended = max(one["end_unix_nano"] for one in spans)
    inside = [(max(start, began), min(end, ended)) for start, end in busy]
    return Timescale(began, ended, inside, columns=columns)


def _waiting_since(span: Span) -> int:
    wait_ms = span["attributes"].get("buildkite.job.wait_time_ms") or 0
    return int(span["start_unix_nano"]) - wait_ms * NS_PER_MS


def _is_manual(span: Span) -> bool:
    return bool(span["attributes"].get("buildkite.job.type") == "manual")


def _bar(line: Line, scale: Timescale, columns: int) -> Text:
    start = min(scale.column(line.start_ns), columns - 1)
    end = max(scale.column(line.end_ns), start + 1)
    if line.span is None:
        return Text.assemble(" " * start, (FOLDED * (end - start), "dim"))
    attributes = line.span["attributes"]
    colour = COLOURS[line.span["status"]]
    if _is_manual(line.span):
        return Text.assemble(" " * start, (PAUSED * (end - start), PERSON))
    if attributes.get("buildkite.job.started") is False or line.span["name"] == SpanKind.WAIT:
        return Text.assemble(" " * start, (WAITED * (end - start), colour))
    waiting = min(scale.column(_waiting_since(line.span)), start)
    return Text.assemble(
        " " * waiting, (WAITED * (start - waiting), "dim"), (RAN * (end - start), colour)
    )

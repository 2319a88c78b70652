"""A build as a waterfall in the terminal: who waited, who ran, who failed, when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import duration
from bk_pipeline.units import NS_PER_MS
from bk_pipeline.waterfall.outline import Line, outline
from bk_pipeline.waterfall.timescale import Timescale
from bk_pipeline.waterfall.words import is_manual, name_of, notes_of, timescale_of, waiting_since

Span = dict[str, Any]

COLOURS = {"ok": "green", "error": "red", "unset": "yellow"}
PERSON = "blue"
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
    scale = timescale_of(spans, columns=max(bars, 1))
    for line, label in zip(lines, labels, strict=True):
        bar = [_bar(line, scale, bars)] if bars else []
        length = duration((line.end_ns - line.start_ns) // NS_PER_MS)
        table.add_row(label, *bar, Text(length))
    if bars and scale.shortened:
        table.caption = Text("long pauses are drawn shortened", "dim")
        table.caption_justify = "left"
    return table


def _label(line: Line) -> Text:
    indent = "  " * line.depth
    if line.span is None:
        return Text(f"{indent}{line.folded_words}", style="dim")
    failed = line.span["status"] == "error"
    notes = notes_of(line.span)
    text = f"{'✗ ' if failed else ''}{name_of(line.span)}{f' ({notes})' if notes else ''}"
    return Text(indent + text, style=COLOURS["error"] if failed else "")


def _bar(line: Line, scale: Timescale, columns: int) -> Text:
    start = min(scale.column(line.start_ns), columns - 1)
    end = max(scale.column(line.end_ns), start + 1)
    if line.span is None:
        return Text.assemble(" " * start, (FOLDED * (end - start), "dim"))
    attributes = line.span["attributes"]
    colour = COLOURS[line.span["status"]]
    if is_manual(line.span):
        return Text.assemble(" " * start, (PAUSED * (end - start), PERSON))
    if attributes.get("buildkite.job.started") is False or line.span["name"] == SpanKind.WAIT:
        return Text.assemble(" " * start, (WAITED * (end - start), colour))
    waiting = min(scale.column(waiting_since(line.span)), start)
    return Text.assemble(
        " " * waiting, (WAITED * (start - waiting), "dim"), (RAN * (end - start), colour)
    )

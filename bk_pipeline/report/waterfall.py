"""The picture of one build: what waited, ran and failed, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bk_pipeline.report.blocks import Picture
from bk_pipeline.report.style import GRID, INK, QUIET, STATES, WAITED, WIDTH_IN, picture_of, style
from bk_pipeline.text import duration, shortened
from bk_pipeline.trace.labels import INSIDE, is_manual, name_of, notes_of
from bk_pipeline.trace.waterfall import (
    Line,
    Timescale,
    insides_note,
    outline,
    timescale_of,
    waiting_since,
)
from bk_pipeline.units import NS_PER_MS

STATUSES = {"ok": STATES["passed"], "error": STATES["failed"], "unset": STATES["canceled"]}
MOST_LINES = 45
LINE_IN = 0.2
LABEL_CHARACTERS = 46
# Places on the axis: fine enough that steps are invisible.
PLACES = 4_000


def waterfall(spans: Sequence[dict[str, Any]]) -> Picture:
    """Draw one build: what waited, ran and failed, and when. `spans` are rows of `spans.table.rows`."""
    lines = outline(spans, most_lines=MOST_LINES)[: 2 * MOST_LINES]
    scale = timescale_of(spans, columns=PLACES)
    with style():
        figure = Figure((WIDTH_IN, 0.5 + LINE_IN * len(lines)))
        # Labels of a fixed share: measuring would need the reader's fonts.
        height = LINE_IN * len(lines) / (0.5 + LINE_IN * len(lines))
        axes = figure.add_axes((0.36, 0.3 / (0.5 + LINE_IN * len(lines)), 0.55, height))
        for row, line in enumerate(lines):
            _draw(axes, row, line, scale)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(0, PLACES)
        axes.set_axis_off()
        told = "grey: waited for an agent · blue: waited for a person"
        if any(span["name"] in INSIDE for span in spans):
            told += f" · thin: {insides_note(spans, lines) or 'inside of jobs'}"
        told += " · long pauses are drawn shortened" if scale.shortened else ""
        axes.text(0, len(lines) - 0.1, told, color=QUIET, fontsize=8, va="top")
        return picture_of(figure, f"Waterfall of {name_of(spans[0])}")


def _draw(axes: Axes, row: int, line: Line, scale: Timescale) -> None:
    start, end = scale.column(line.start_ns), scale.column(line.end_ns)
    length = duration((line.end_ns - line.start_ns) // NS_PER_MS)
    axes.text(PLACES * 1.01, row, length, va="center", fontsize=8, color=QUIET)
    indent = line.depth * 0.012
    if line.span is None:
        _label(axes, row, indent, line.folded_summary, QUIET)
        axes.barh(row, max(end - start, 8), left=start, height=0.3, color=GRID)
        return
    span = line.span
    failed = span["status"] == "error"
    notes = notes_of(span)
    _label(
        axes,
        row,
        indent,
        f"{'✗ ' if failed else ''}{line.name}{f' ({notes})' if notes else ''}",
        STATES["failed"] if failed else INK,
    )
    colour, height, alpha = STATUSES[span["status"]], 0.6, 1.0
    if span["name"] in INSIDE:
        # Most have no status; that does not mean that they were canceled.
        colour, height, alpha = STATUSES["error" if failed else "ok"], 0.34, 0.6
    elif is_manual(span):
        colour, height = STATES["blocked"], 0.2
    elif span["attributes"].get("buildkite.job.started") is False:
        colour = WAITED
    elif "buildkite.job.id" not in span["attributes"]:
        height, alpha = 0.24, 0.75  # what holds others together
    waiting = min(scale.column(waiting_since(span)), start)
    if waiting < start:
        axes.barh(row, start - waiting, left=waiting, height=height, color=WAITED)
    axes.barh(row, max(end - start, 8), left=start, height=height, color=colour, alpha=alpha)


def _label(axes: Axes, row: int, indent: float, words: str, colour: str) -> None:
    axes.annotate(
        shortened(words, LABEL_CHARACTERS),
        (0, row),
        xytext=(0.01 + indent, row),
        textcoords=("figure fraction", "data"),
        va="center",
        fontsize=8.5,
        color=colour,
    )

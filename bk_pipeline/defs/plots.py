"""Pictures of a day in Dagster's UI: SVG in Markdown. Loads matplotlib, which takes seconds.

A picture stays in Dagster's event log for ever, so none is larger than `LARGEST_BYTES`: what
would not fit is left out of the picture, never cut in the middle of it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from zoneinfo import ZoneInfo

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, HourLocator
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bk_pipeline.display import escape_markdown, picture
from bk_pipeline.text import duration, shortened
from bk_pipeline.trace.waterfall import (
    Line,
    Timescale,
    is_manual,
    name_of,
    notes_of,
    outline,
    readable,
    timescale_of,
    waiting_since,
)
from bk_pipeline.units import NS_PER_MS
from bk_pipeline.window import Window

LARGEST_BYTES = 100_000
STATES = {
    "passed": "#2e9e5b",
    "failed": "#d64545",
    "canceled": "#b08a3c",
    "blocked": "#5b7bd5",
    "other": "#a0a7b1",
}
STATUSES = {"ok": STATES["passed"], "error": STATES["failed"], "unset": STATES["canceled"]}
INK, QUIET, GRID, WAITED = "#252a31", "#6b7480", "#e6e9ed", "#c9d0d8"
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, sharp, and with the reader's emoji
    "svg.hashsalt": "bk_pipeline",  # the same picture has the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": QUIET,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.parse_math": False,  # a dollar in a label is a dollar
}
WIDTH_IN = 9.5
PIPELINES_SHOWN = 15
WATERFALL_LINES = 45
LINE_IN = 0.2
LABEL_CHARACTERS = 46
UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
TIMES = [
    count * unit
    for unit, name in reversed(UNITS)
    for count in ((1, 2, 6, 12) if name == "h" else (1, 2, 5, 10, 30))
]
# Places on a waterfall's axis: fine enough that steps are invisible.
PLACES = 4_000


def builds_over_the_day(builds: pd.DataFrame, window: Window, zone: ZoneInfo) -> str:
    """Draw builds an hour by state, and below how long they waited for their first job."""
    hours = pd.date_range(window.start, window.end, freq="h", inclusive="left")
    # Counted from the day's start: there are days with 23 and 25 hours, and half hours' zones.
    since = (builds["start"] - window.start) // pd.Timedelta(hours=1)
    hour = since.clip(0, len(hours) - 1)
    state = builds["state"].astype(object).where(builds["state"].isin(list(STATES)), "other")
    counts = pd.crosstab(hour, state).reindex(range(len(hours)), columns=list(STATES), fill_value=0)
    waits = builds["queue_s"].groupby(hour)
    typical, long = waits.quantile(0.5), waits.quantile(0.9)
    with _style():
        figure = Figure((WIDTH_IN, 4.2), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=[3, 2])
        bottom = pd.Series(0, index=counts.index)
        for name, colour in STATES.items():
            if counts[name].any():
                above.bar(
                    hours,
                    counts[name],
                    bottom=bottom,
                    width=pd.Timedelta(minutes=50),
                    align="edge",
                    color=colour,
                    label=name,
                )
                bottom = bottom + counts[name]
        above.set_title("Builds created an hour, by state")
        above.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        above.legend(ncols=len(STATES), frameon=False, loc="upper right", bbox_to_anchor=(1, 1.18))
        middles = hours[list(typical.index)] + pd.Timedelta(minutes=25)
        below.plot(middles, long, color=STATES["blocked"], marker=".", label="p90", alpha=0.5)
        below.plot(middles, typical, color=STATES["blocked"], marker=".", label="p50")
        below.set_title("Until the first job started")
        below.set_ylim(bottom=0)
        below.yaxis.set_major_formatter(FuncFormatter(_time))
        below.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 1.5, 3, 6, 10]))
        below.legend(ncols=2, frameon=False, loc="upper right", bbox_to_anchor=(1, 1.26))
        below.set_xlim(window.start, window.end)
        below.xaxis.set_major_locator(HourLocator(interval=3, tz=zone))  # type: ignore[no-untyped-call]
        below.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=zone))  # type: ignore[no-untyped-call]
        for axes in (above, below):
            axes.grid(visible=False, axis="x")
        return _markdown(figure, f"Builds an hour by state, and their queue time, in {zone.key}")


def durations_by_pipeline(pipelines: pd.DataFrame) -> str:
    """Draw how long each pipeline's builds took, from p50 to p99, the busiest pipelines first."""
    timed = pipelines.dropna(subset=["duration_p50_s"])
    rows = timed.nlargest(PIPELINES_SHOWN, "agent_minutes").iloc[::-1]
    if rows.empty:
        return "No build has passed or failed."
    at = range(len(rows))
    p50, p90, p99 = (rows[f"duration_{q}_s"].clip(lower=0.1) for q in ("p50", "p90", "p99"))
    with _style():
        figure = Figure((WIDTH_IN, 0.9 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.hlines(list(at), p50, p99, color=WAITED, linewidth=2)
        axes.hlines(list(at), p50, p90, color=STATES["passed"], linewidth=5, alpha=0.6)
        axes.scatter(p50, at, color=STATES["passed"], s=34, label="p50", zorder=3)
        axes.scatter(p90, at, color=STATES["passed"], marker="|", s=60, label="p90", zorder=3)
        axes.scatter(p99, at, color=QUIET, marker="|", s=60, label="p99", zorder=3)
        axes.set_yticks(
            list(at), [shortened(readable(name), LABEL_CHARACTERS) for name in rows["pipeline"]]
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(TIMES))
        axes.xaxis.set_major_formatter(FuncFormatter(_time))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title("How long passed and failed builds took")
        axes.legend(ncols=3, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
        axes.grid(visible=False, axis="y")
        return _markdown(figure, "Durations by pipeline: p50, p90 and p99")


def waterfall(spans: Sequence[dict[str, Any]]) -> str:
    """Draw one build: what waited, ran and failed, and when. `spans` are rows of `spans.table.rows`."""
    lines = outline(spans, most_lines=WATERFALL_LINES)[: 2 * WATERFALL_LINES]
    scale = timescale_of(spans, columns=PLACES)
    with _style():
        figure = Figure((WIDTH_IN, 0.5 + LINE_IN * len(lines)))
        # Labels of a fixed share: measuring would need the reader's fonts.
        height = LINE_IN * len(lines) / (0.5 + LINE_IN * len(lines))
        axes = figure.add_axes((0.36, 0.3 / (0.5 + LINE_IN * len(lines)), 0.55, height))
        for row, line in enumerate(lines):
            _draw(axes, row, line, scale)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(0, PLACES)
        axes.set_axis_off()
        axes.text(
            0,
            len(lines) - 0.1,
            "grey: waited for an agent · blue: waited for a person"
            + (" · long pauses are drawn shortened" if scale.shortened else ""),
            color=QUIET,
            fontsize=8,
            va="top",
        )
        return _markdown(figure, f"Waterfall of {name_of(spans[0])}")


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
        f"{'✗ ' if failed else ''}{name_of(span)}{f' ({notes})' if notes else ''}",
        STATES["failed"] if failed else INK,
    )
    colour, height, alpha = STATUSES[span["status"]], 0.6, 1.0
    if is_manual(span):
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


def _time(seconds: float, _: int) -> str:
    """Label a tick of a time axis: `30 s`, `5 m`, `1.5 h`."""
    unit, name = next(((one, name) for one, name in UNITS if seconds >= one), (1, "s"))
    return f"{seconds / unit:g} {name}" if seconds else "0"


@contextmanager
def _style() -> Iterator[None]:
    """Apply our style, and ignore warnings on glyphs that matplotlib's font lacks: it draws none."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ", category=UserWarning)
        yield


def _markdown(figure: Figure, words: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    shown = picture(words, re.sub(rb">\s+<", b"><", file.getvalue()))
    if len(shown) > LARGEST_BYTES:
        return f"The picture ({escape_markdown(words)}) would take {len(shown):,} bytes; it is left out."
    return shown

"""The charts of a report. Loads matplotlib, which takes a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import matplotlib.dates as mdates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bk_pipeline.analysis.period import Period, PeriodStats, Row
from bk_pipeline.report.blocks import Picture
from bk_pipeline.report.style import QUIET, STATES, WAITED, WIDTH_IN, picture_of, style
from bk_pipeline.text import shortened
from bk_pipeline.trace.labels import readable

if TYPE_CHECKING:
    from bk_pipeline.analysis.change import Change

BUSIEST, TRENDS, PAID = 15, 6, 5
LABEL_CHARACTERS, UNNAMED = 40, "(unnamed)"
UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
TIMES = [
    count * unit
    for unit, name in reversed(UNITS)
    for count in ((1, 2, 6, 12) if name == "h" else (1, 2, 5, 10, 30))
]
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
HOURS = 24
RUNNING, WAITING, BLOCKED = STATES["passed"], STATES["canceled"], STATES["blocked"]
# For amounts by pipeline: distinct, and no color of a state.
PALETTE = ("#3f8fbf", "#c77d3a", "#7a6fc0", "#4fa58a", "#c06a94", "#9aa0a8")
# Waits this short are not worth a color.
SHORT_WAIT_S, LONG_WAIT_S = 1.0, 600.0
HEAT = LinearSegmentedColormap.from_list("heat", ["#8a8f9655", "#d9b45b", "#d64545"])


def builds_over_time(stats: PeriodStats) -> Picture:
    """Draw builds by state, how long they took, and how long they waited for their first job."""
    period, slots = stats.period, stats.slots
    begins = period.slots
    middles = [begin + _width(period) / 2 for begin in begins]
    with style():
        figure = Figure((WIDTH_IN, 5.4), layout="constrained")
        above, middle, below = figure.subplots(3, sharex=True, height_ratios=[3, 2, 2])
        bottom = np.zeros(len(begins))
        for name, color in STATES.items():
            counts = np.array([slots[n][name] if n in slots else 0 for n in range(len(begins))])
            if counts.any():
                _bars(above, period, counts, bottom, color=color, label=name)
                bottom = bottom + counts
        above.set_title(f"Builds by {period.unit}, by state")
        above.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        _legend(above)
        for axes, column, title in (
            (middle, "duration", "How long passed and failed builds took"),
            (below, "queue", "Time until the first job of a build started"),
        ):
            _quantile_lines(axes, slots, middles, column)
            axes.set_title(title)
        _time_axis(below, period)
        for axes in (above, middle, below):
            axes.grid(visible=False, axis="x")
        words = f"Builds by state, durations and queue times by {period.unit}"
        return picture_of(figure, f"{words}, in {period.zone.key}")


def trends(stats: PeriodStats) -> Picture | None:
    """Draw the daily median duration of pipelines, with marks where a change began.

    The pipelines with changes come first, then the busiest. None if no pipeline has two days.
    """
    changes = _changes_by_pipeline(stats.changes)
    busiest = [row["pipeline"] for row in _busiest(stats.pipelines)]
    ordered = dict.fromkeys([*(name for name in changes if name in busiest), *busiest])
    chosen = [
        name for name in ordered if len(_known(stats.pipeline_slots[name], "duration_p50_s")) > 1
    ][:TRENDS]
    if not chosen or stats.period.unit != "day":
        return None
    middles = [begin + _width(stats.period) / 2 for begin in stats.period.slots]
    rows = -(-len(chosen) // 2)
    with style():
        figure = Figure((WIDTH_IN, 0.5 + 1.45 * rows), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False, sharex=True).flatten()
        for axes, name in zip(grid, chosen, strict=False):
            of_day = stats.pipeline_slots[name]
            _quantile_lines(axes, of_day, middles, "duration", with_legend=axes is grid[0])
            axes.set_title(_label(name))
            _mark(axes, changes.get(name, ()))
            _time_axis(axes, stats.period, narrow=True)
            axes.grid(visible=False, axis="x")
        for axes in grid[len(chosen) :]:
            axes.set_axis_off()
        return picture_of(figure, "Daily durations by pipeline, with changes marked")


def critical_paths(pipelines: Sequence[Row]) -> Picture | None:
    """Draw what an average build spends its time on: running, waiting for agents, for people."""
    rows = [row for row in _busiest(pipelines) if row["paths"]][::-1]
    if not rows:
        return None
    at = range(len(rows))
    running, waiting, blocked = (
        np.array([(row[f"path_{part}_s"] or 0) / row["paths"] for row in rows])
        for part in ("run", "wait", "blocked")
    )
    with style():
        figure = Figure((WIDTH_IN, 0.95 + 0.26 * len(rows)), layout="constrained")
        active, people = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1.4])
        active.barh(at, running, color=RUNNING, height=0.65, label="running")
        active.barh(
            at, waiting, left=running, color=WAITING, height=0.65, label="waiting for agents"
        )
        people.barh(at, blocked, color=BLOCKED, height=0.65, label="waiting for people")
        active.set_yticks(list(at), [_label(row["pipeline"]) for row in rows])
        active.set_title("Mean time of a build on its critical path")
        people.set_title("… waiting for people")
        figure.legend(ncols=3, frameon=False, loc="outside lower right")
        for axes in (active, people):
            axes.set_xlim(0, max(axes.get_xlim()[1], 1e-3))
            axes.xaxis.set_major_locator(_round_times(axes.get_xlim()[1]))
            axes.xaxis.set_major_formatter(FuncFormatter(_time))
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
        return picture_of(
            figure, "Critical path by pipeline: running, waiting for agents and people"
        )


def heat_map(waits: Sequence[Row], zone: str) -> Picture | None:
    """Draw how long jobs waited for agents, by weekday and hour; None without waits."""
    if not waits:
        return None
    cells = np.full((len(WEEKDAYS), HOURS), np.nan)
    for row in waits:
        cells[row["weekday"] - 1, row["hour"]] = row["wait_p90_s"]
    with style():
        figure = Figure((WIDTH_IN, 2.9), layout="constrained")
        axes = figure.subplots()
        norm = LogNorm(SHORT_WAIT_S, max(LONG_WAIT_S, float(np.nanmax(cells))), clip=True)
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(np.maximum(cells, SHORT_WAIT_S)), cmap=HEAT, norm=norm
        )
        axes.set_title(
            f"Time until an agent took 90% of jobs, by the hour they began to wait ({zone}; blank: none)"
        )
        axes.set_yticks(np.arange(len(WEEKDAYS)) + 0.5, WEEKDAYS)
        axes.set_xticks(np.arange(0, HOURS, 3), [f"{hour:02}:00" for hour in range(0, HOURS, 3)])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)
        scale = figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.01)
        scale.ax.yaxis.set_major_locator(FixedLocator([1, 10, 60, 600, 3_600, 36_000, 360_000]))
        scale.ax.yaxis.set_minor_locator(NullLocator())
        scale.ax.yaxis.set_major_formatter(FuncFormatter(_time))
        scale.outline.set_visible(False)
        return picture_of(figure, "Waits for agents by weekday and hour")


def costs_over_time(stats: PeriodStats) -> Picture | None:
    """Draw what builds cost over time, by the most expensive pipelines; None without prices."""
    priced = sorted(
        (row for row in stats.pipelines if row["cost"]), key=lambda row: -float(row["cost"])
    )
    if not priced:
        return None
    begins = stats.period.slots
    names = [row["pipeline"] for row in priced]
    groups = {name: (name,) for name in names[:PAID]} | {"others": tuple(names[PAID:])}
    with style():
        figure = Figure((WIDTH_IN, 2.8), layout="constrained")
        axes = figure.subplots()
        bottom = np.zeros(len(begins))
        for (label, members), color in zip(groups.items(), PALETTE, strict=False):
            costs = np.array(
                [
                    sum(stats.pipeline_slots[one].get(n, {}).get("cost") or 0 for one in members)
                    for n in range(len(begins))
                ]
            )
            if costs.any():
                _bars(axes, stats.period, costs, bottom, color=color, label=_label(label))
                bottom = bottom + costs
        axes.set_title(f"Cost by {stats.period.unit}, {stats.currency or ''}".rstrip(", "))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        _legend(axes)
        _time_axis(axes, stats.period)
        axes.grid(visible=False, axis="x")
        return picture_of(figure, f"Cost by {stats.period.unit} and pipeline")


def durations_by_pipeline(pipelines: Sequence[Row]) -> Picture | None:
    """Draw how long each pipeline's builds took, from p50 to p99, the busiest pipelines first."""
    rows = [row for row in _busiest(pipelines) if row["duration_p50_s"] is not None][::-1]
    if not rows:
        return None
    at = list(range(len(rows)))
    p50, p90, p99 = (
        [max(row[f"duration_{q}_s"], 0.1) for row in rows] for q in ("p50", "p90", "p99")
    )
    with style():
        figure = Figure((WIDTH_IN, 0.9 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.hlines(at, p50, p99, color=WAITED, linewidth=2)
        axes.hlines(at, p50, p90, color=STATES["passed"], linewidth=5, alpha=0.6)
        axes.scatter(p50, at, color=STATES["passed"], s=34, label="p50", zorder=3)
        axes.scatter(p90, at, color=STATES["passed"], marker="|", s=60, label="p90", zorder=3)
        axes.scatter(p99, at, color=QUIET, marker="|", s=60, label="p99", zorder=3)
        axes.set_yticks(at, [_label(row["pipeline"]) for row in rows])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(TIMES))
        axes.xaxis.set_major_formatter(FuncFormatter(_time))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title("How long passed and failed builds took")
        axes.legend(ncols=3, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
        axes.grid(visible=False, axis="y")
        return picture_of(figure, "Durations by pipeline: p50, p90 and p99")


def _busiest(pipelines: Sequence[Row]) -> list[Row]:
    return sorted(pipelines, key=lambda row: -float(row.get("agent_minutes") or 0))[:BUSIEST]


def _label(name: str) -> str:
    label = shortened(readable(name), LABEL_CHARACTERS) or UNNAMED
    # matplotlib leaves labels out of legends that begin with an underscore.
    return f" {label}" if label.startswith("_") else label


def _changes_by_pipeline(changes: Sequence[Change]) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for one in changes:
        if one.measure == "duration_s":
            found.setdefault(one.pipeline, []).append(one)
    return found


def _mark(axes: Axes, changes: Sequence[Change]) -> None:
    """Mark where each change began, for the worse in red."""
    shown = {(one.began_at.date(), one.worse): one for one in reversed(changes)}
    for change in shown.values():
        color = STATES["failed" if change.worse else "passed"]
        axes.axvline(_number(change.began_at), color=color, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.annotate(
            shortened(f"{change.step or 'builds'} {change.change:+.0%}", LABEL_CHARACTERS // 2),
            (_number(change.began_at), 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=color,
        )


def _known(slots: Mapping[int, Row], column: str) -> list[tuple[int, float]]:
    return [(n, row[column]) for n, row in sorted(slots.items()) if row[column] is not None]


def _quantile_lines(
    axes: Axes,
    slots: Mapping[int, Row],
    middles: Sequence[datetime],
    column: str,
    *,
    with_legend: bool = True,
) -> None:
    for quantile, line in (("p90", (0, (3, 1.5))), ("p50", "-")):
        known = _known(slots, f"{column}_{quantile}_s")
        axes.plot(
            [_number(middles[n]) for n, _ in known],
            [value for _, value in known],
            color=BLOCKED,
            marker=".",
            label=quantile,
            linestyle=line,
            linewidth=1.2 if quantile == "p90" else 1.8,
        )
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-3))
    axes.yaxis.set_major_locator(_round_times(axes.get_ylim()[1], most=4))
    axes.yaxis.set_major_formatter(FuncFormatter(_time))
    if with_legend:
        _legend(axes)


def _bars(axes: Axes, period: Period, heights: Any, bottom: Any, *, color: str, label: str) -> None:
    width = _width(period)
    axes.bar(
        [_number(begin + width * 0.08) for begin in period.slots],
        heights,
        bottom=bottom,
        width=width / timedelta(days=1) * 0.84,
        align="edge",
        color=color,
        label=label,
    )


def _legend(axes: Axes) -> None:
    axes.legend(
        ncols=6, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98), borderaxespad=0
    )


def _width(period: Period) -> timedelta:
    return timedelta(hours=1) if period.unit == "hour" else timedelta(days=1)


def _number(moment: datetime) -> float:
    return float(mdates.date2num(moment.astimezone(UTC)))  # type: ignore[no-untyped-call]


def _time_axis(axes: Axes, period: Period, *, narrow: bool = False) -> None:
    """Label hours of a day, or days of a longer period, in the period's zone."""
    axes.set_xlim(_number(period.start), _number(period.end))
    if period.unit == "hour":
        shown = [at for at in period.slots if at.astimezone(period.zone).hour % 3 == 0]
        labels = [f"{at.astimezone(period.zone):%H:%M}" for at in shown]
    else:
        every = 1 if period.days <= len(WEEKDAYS) else 7
        shown = [
            at
            for n, at in enumerate(period.slots)
            if every == 1 or at.astimezone(period.zone).weekday() == 0
        ]
        form = "%d %b" if every > 1 else "%a" if narrow else "%a %d %b"
        labels = [f"{at.astimezone(period.zone):{form}}" for at in shown]
    axes.set_xticks(
        [_number(at) for at in shown], labels, ha="left" if period.unit == "day" else "center"
    )


def _round_times(most_s: float, *, most: int = 6) -> FixedLocator:
    """Return ticks at round times from 0 on: 10 s, 5 m, 2 h."""
    steps = [*TIMES, *(count * 86_400 for count in (100, 365, 1_000, 3_650))]
    step = next((one for one in steps if most_s / one <= most), steps[-1])
    return FixedLocator([n * step for n in range(int(most_s / step) + 1)][: most + 1])


def _time(seconds: float, _: int) -> str:
    """Label a tick of a time axis: `30 s`, `5 m`, `1.5 h`."""
    unit, name = next(((one, name) for one, name in UNITS if seconds >= one), (1, "s"))
    return f"{seconds / unit:g} {name}" if seconds else "0"

"""The series in which changes are looked for, and their blocks. Pure; loads pandas.

A series has the observations of one measure of a pipeline's step. What the hour, the weekend and
the branch explain is subtracted, and builds of the same hours become one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bk_pipeline.units import NS_PER_S

Array = np.ndarray[Any, Any]

HOUR_NS = 3_600 * NS_PER_S
DAY_NS = 24 * HOUR_NS
WEEK_NS = 7 * DAY_NS
HOURS = 24
PART_HOURS = 4
SATURDAY = 5

# Builds of one block are treated as one observation: builds of an hour have much in common. A
# block lasts this long, or until it has `Measure.block_builds`.
BLOCK_NS = 4 * HOUR_NS
# A series needs as many blocks: those of two changes that are too short.
LEAST_SERIES_BLOCKS = 12
# Of the hours' and branches' effects, as many builds count for "no effect".
PRIOR_BUILDS = 10
# How often the effects are estimated, each time without the others.
ROUNDS = 3
# A branch has an effect of its own if it has this share of the builds, on this share of the days.
BRANCH_SHARE, BRANCH_DAYS = 0.05, 0.5


@dataclass(frozen=True, slots=True)
class Measure:
    """What is observed.

    Attributes:
        name: As in `Change.measure`.
        column: The column of the observations.
        block_builds: The least number of builds in a block.
        floor: The least difference that is reported, in the measure's unit.
        relative_floor: The least difference as a share of the value before.
        is_rate: Whether the observations are 0 or 1.
    """

    name: str
    column: str
    block_builds: int
    floor: float
    relative_floor: float
    is_rate: bool = False


# No one acts on less: five seconds are below what people notice of a build, and 10 % is about what
# the hours and days of a busy agent differ by anyway.
MEASURES = (
    Measure("duration_s", "duration_s", 1, 5.0, 0.08),
    Measure("queue_s", "queue_s", 1, 5.0, 0.1),
    Measure("failure_rate", "failed", 5, 0.05, 0.0, is_rate=True),
    Measure("cost", "cost", 1, 0.0, 0.1),
)


@dataclass(frozen=True, slots=True)
class Series:
    """The observations of one measure of a step, sorted by creation."""

    measure: Measure
    rows: Array
    times: Array
    observed: Array
    hours: Array
    branches: Array


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a series: where each begins and their adjusted values."""

    begins: Array
    levels: Array
    adjusted: Array
    scale: float

    def edge(self, at: int) -> int:
        """Return the index of the first observation of block `at`; the end, after the last block."""
        return int(self.begins[at]) if at < len(self.begins) else len(self.adjusted)


def series_of(observations: pa.Table, zone: tzinfo) -> Iterator[Series]:
    """Yield every series with enough observations."""
    if not observations.num_rows:
        return
    groups = _codes(observations["pipeline"]) * (1 + observations.num_rows) + _codes(
        observations["step"]
    )
    created = pd.DatetimeIndex(observations["created_at"].to_pandas()).as_unit("ns")
    times = created.asi8
    hours = _hours(created, zone)
    branches = _codes(observations["branch"])
    columns = {
        one.column: observations[one.column].to_numpy(zero_copy_only=False).astype(float)
        for one in MEASURES
    }
    edges = np.flatnonzero(np.diff(groups)) + 1
    for begin, end in zip([0, *edges], [*edges, len(groups)], strict=True):
        for measure in MEASURES:
            if end - begin < LEAST_SERIES_BLOCKS * measure.block_builds:
                continue
            values = columns[measure.column][begin:end]
            rows = begin + np.flatnonzero(np.isfinite(values))
            if len(rows) >= LEAST_SERIES_BLOCKS * measure.block_builds:
                yield Series(
                    measure,
                    rows,
                    times[rows],
                    columns[measure.column][rows],
                    hours[rows],
                    branches[rows],
                )


def _codes(texts: pa.ChunkedArray) -> Array:
    """Return a number for each distinct text; 0 for null."""
    numbers: Array = pd.factorize(texts.to_pandas(), use_na_sentinel=True)[0].astype(np.int64)
    return numbers + 1


def _hours(created: pd.DatetimeIndex, zone: tzinfo) -> Array:
    """Return the hour of the day, plus 24 on weekends."""
    local = created.tz_convert(zone)
    return np.asarray(local.hour + HOURS * (local.day_of_week >= SATURDAY))


def blocks_of(series: Series, edges: Sequence[int] = ()) -> Blocks:
    """Return the blocks of a series.

    Args:
        series: The series.
        edges: The observations at which its level is known to change, so that what is due to the
            change is not taken for the effect of an hour or branch.
    """
    measure, values = series.measure, series.observed
    scale = 0.0
    if not measure.is_rate:
        scale = measure.floor or 0.1 * float(np.median(values)) or 1.0
        values = np.log(np.maximum(values, 0.0) + scale)
    average = _group_means if measure.is_rate else _group_medians
    adjusted = values - _effects(values, series, edges)
    begins = _begins(series.times, measure.block_builds)
    by_block = average(_numbered(begins, len(values)), adjusted, len(begins))
    return Blocks(begins, by_block, adjusted, scale)


def _numbered(begins: Array, length: int) -> Array:
    """Return the number of the block or segment of each observation."""
    return np.repeat(np.arange(len(begins)), np.diff([*begins, length]))


def _begins(times: Array, builds: int) -> Array:
    """Return the index of each block's first observation."""
    slots = times // BLOCK_NS
    begins, first = [0], 0
    for at in (np.flatnonzero(np.diff(slots)) + 1).tolist():
        if at - first >= builds:
            first = int(at)
            begins.append(first)
    if len(begins) > 1 and len(times) - begins[-1] < builds:
        begins.pop()
    return np.array(begins)


def _effects(values: Array, series: Series, edges: Sequence[int]) -> Array:
    """Return what the branch and the hour add to each value; on average, nothing.

    Builds are compared with those of the same week, so that what came with time is not taken for
    the effect of a branch that was built more often then. Coarse groups come first: a group with
    few builds is taken to be like those around it.
    """
    average = _group_means if series.measure.is_rate else _group_medians
    segments = _segments(series, edges)
    weekend, hour = np.divmod(series.hours, HOURS)
    part = weekend * HOURS + hour // PART_HOURS
    rest, effects = values.copy(), np.zeros(len(values))
    for groups in (
        segments,
        _branch_groups(series),
        segments,
        weekend,
        part,
        series.hours,
    ) * ROUNDS:
        size = int(groups.max()) + 1
        found = average(groups, rest, size)
        if groups is not segments:
            counts = np.bincount(groups, minlength=size)
            found *= counts / (counts + PRIOR_BUILDS)
            found -= np.average(found, weights=counts)
            effects += found[groups]
        rest -= found[groups]
    return effects


def _segments(series: Series, edges: Sequence[int]) -> Array:
    """Return the number of each observation's week; a week is divided at `edges`."""
    weeks = (series.times - series.times[0]) // WEEK_NS
    begins = np.union1d(np.flatnonzero(np.diff(weeks)) + 1, [0, *edges]).astype(np.int64)
    return _numbered(begins, len(weeks))


def _branch_groups(series: Series) -> Array:
    """Return a number for each of the branches that are built all along; 0 for all others."""
    codes, groups = np.unique(series.branches, return_inverse=True)
    days = (series.times - series.times[0]) // DAY_NS
    pairs = np.unique(groups * (int(days[-1]) + 1) + days)
    on_days = np.bincount(pairs // (int(days[-1]) + 1), minlength=len(codes))
    share = np.bincount(groups) / len(groups)
    frequent = (share >= BRANCH_SHARE) & (on_days >= BRANCH_DAYS * len(np.unique(days)))
    return np.where(frequent, np.cumsum(frequent), 0)[groups]


def _group_medians(groups: Array, values: Array, size: int) -> Array:
    """Return the median of each group; 0 for one without values."""
    order = np.lexsort((values, groups))
    ends = np.searchsorted(groups[order], np.arange(size + 1))
    begins, ends = ends[:-1], ends[1:]
    ordered = np.append(values[order], 0.0)
    low, high = (begins + ends - 1) // 2, (begins + ends) // 2
    return np.where(ends > begins, (ordered[low] + ordered[np.minimum(high, len(values))]) / 2, 0.0)


def _group_means(groups: Array, values: Array, size: int) -> Array:
    """Return the mean of each group; 0 for one without values."""
    counts = np.bincount(groups, minlength=size)
    return np.bincount(groups, weights=values, minlength=size) / np.maximum(counts, 1)

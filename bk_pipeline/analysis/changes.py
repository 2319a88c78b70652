"""Finds when durations, queue times, failure rates and costs changed, by pipeline and step. Pure.

For each series: subtract what the hour, the weekend and the branch explain; take medians of blocks
of builds; find change points (PELT, by ruptures, on ranks); keep those that a rank test of scipy
confirms and that are large enough to matter; then find the first build within its block. Loads
pandas, scipy and ruptures, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import pairwise

import numpy as np
import pyarrow as pa
import ruptures
from scipy import stats

from bk_pipeline.analysis.change import Change
from bk_pipeline.analysis.change_series import (
    HOUR_NS,
    Array,
    Blocks,
    Measure,
    Series,
    blocks_of,
    series_of,
)
from bk_pipeline.units import NS_PER_S

# A change is reported when it has lasted for this long, in blocks and in time.
LEAST_BLOCKS = 6
LEAST_NS = 36 * HOUR_NS
# The penalty of PELT for a change, in multiples of the logarithm of the number of blocks.
PENALTY = 2.0
# How often the effects of hours and branches are estimated with the changes found so far.
MOST_PASSES = 2
# The greatest share of false alarms among the changes (Benjamini-Hochberg).
FALSE_DISCOVERY_RATE = 0.003
# What a sudden change shows within these blocks around it, as a share of its whole size; a slow
# trend shows less.
LOCAL_BLOCKS, LOCAL_SHARE = 16, 0.75
# The blocks around a change in which its first build is looked for, and the most builds.
AROUND, MOST_AROUND = 4, 600


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A change point in a series, with the blocks that it separates."""

    series: Series
    blocks: Blocks
    begin: int
    at: int
    end: int
    p: float
    before: float
    after: float
    test: str


def changes_in(observations: pa.Table, *, zone: tzinfo = UTC) -> list[Change]:
    """Return the changes, those for the worse and the largest first.

    Args:
        observations: The rows of `queries/changes.sql`: sorted
            by pipeline, step, `created_at` and number, with null steps for whole builds.
        zone: In which hours and weekdays are meant.
    """
    candidates: list[_Candidate] = []
    tested = 0
    for series in series_of(observations, zone):
        found = _candidates(series)
        candidates += found
        tested += max(1, len(found))
    if not candidates:
        return []
    # A series without a candidate was tested too.
    p_values = [one.p for one in candidates] + [1.0] * (tested - len(candidates))
    adjusted = stats.false_discovery_control(p_values, method="bh")[: len(candidates)]
    kept = [
        (one, float(p))
        for one, p in zip(candidates, adjusted, strict=True)
        if p <= FALSE_DISCOVERY_RATE
    ]
    return sorted(_described(kept, observations), key=_order)


def _order(change: Change) -> tuple[bool, float, str, str, str]:
    return (
        not change.worse,
        -abs(change.change),
        change.pipeline,
        change.step or "",
        change.measure,
    )


def _candidates(series: Series) -> list[_Candidate]:
    """Return the change points of a series that pass all but the correction for many tests."""
    blocks = blocks_of(series)
    if len(blocks.begins) < 2 * LEAST_BLOCKS:
        return []
    edges = _change_points(blocks.levels)
    for _ in range(MOST_PASSES):
        known, blocks = edges, blocks_of(series, [blocks.edge(one) for one in edges])
        edges = _change_points(blocks.levels)
        if edges == known:
            break
    while edges:
        bounds = [0, *edges, len(blocks.begins)]
        inflation = _inflation(blocks.levels, bounds)
        tested = [
            _tested(series, blocks, bounds[at - 1 : at + 2], inflation)
            for at in range(1, len(bounds) - 1)
        ]
        worst = max(range(len(tested)), key=lambda at: tested[at].p)
        if tested[worst].p < FALSE_DISCOVERY_RATE:
            return tested
        # Without it, the neighbors' segments are longer, and their tests better.
        del edges[worst]
    return []


def _change_points(values: Array) -> list[int]:
    """Return the indexes of the blocks that begin a new segment."""
    scores = stats.norm.ppf(stats.rankdata(values) / (len(values) + 1))
    found = ruptures.KernelCPD(kernel="linear", min_size=LEAST_BLOCKS).fit(scores.reshape(-1, 1))
    return [int(one) for one in found.predict(pen=PENALTY * np.log(len(values)))[:-1]]


def _inflation(values: Array, bounds: Sequence[int]) -> float:
    """Return by how much autocorrelation of the blocks makes test statistics too large.

    The square root of (1 + r) / (1 - r), with the autocorrelation r from one block to the next,
    which has a bias of about -1/n in each segment.
    """
    products, squares, segments = 0.0, 0.0, len(bounds) - 1
    for begin, end in pairwise(bounds):
        ranks = stats.rankdata(values[begin:end])
        rest = (ranks - ranks.mean()) / len(ranks)
        products += float(rest[1:] @ rest[:-1])
        squares += float(rest @ rest)
    if not squares:
        return 1.0
    correlation = min(max(products / squares + segments / len(values), 0.0), 0.9)
    return float(np.sqrt((1 + correlation) / (1 - correlation)))


def _tested(series: Series, blocks: Blocks, bounds: Sequence[int], inflation: float) -> _Candidate:
    """Test the change between two neighboring segments. Its p-value is 1 if it is too small."""
    begin, at, end = bounds
    test, p = "Mann-Whitney U", 1.0
    before, after = (_level(series, blocks, *one) for one in ((begin, at), (at, end)))
    if _matters(series.measure, before, after) and _lasts(series, blocks, begin, at, end):
        values = blocks.levels
        p = float(stats.mannwhitneyu(values[begin:at], values[at:end]).pvalue)
        if series.measure.is_rate:
            # Both must agree: ranks alone know no counts, counts alone are carried by one streak.
            test = "Mann-Whitney U and Fisher's exact"
            p = max(p, _fisher(blocks, bounds, (before, after)))
        z = stats.norm.isf(max(p, 1e-300) / 2) / inflation
        # PELT chose the place among as many as there are blocks.
        p = min(1.0, 2 * float(stats.norm.sf(z)) * (end - begin))
        if p < FALSE_DISCOVERY_RATE and not _is_sudden(values, begin, at, end):
            p = 1.0
    return _Candidate(series, blocks, begin, at, end, p, before, after, test)


def _level(series: Series, blocks: Blocks, begin: int, end: int) -> float:
    """Return the median, or the rate, of the blocks, in the measure's unit."""
    adjusted = blocks.adjusted[blocks.edge(begin) : blocks.edge(end)]
    if series.measure.is_rate:
        return min(max(float(adjusted.mean()), 0.0), 1.0)
    return max(float(np.exp(np.median(adjusted))) - blocks.scale, 0.0)


def _matters(measure: Measure, before: float, after: float) -> bool:
    """Whether the difference is as large as the measure's floors."""
    difference = abs(after - before)
    return difference >= max(measure.floor, measure.relative_floor * before) and difference > 0


def _lasts(series: Series, blocks: Blocks, begin: int, at: int, end: int) -> bool:
    """Whether both sides last long enough."""
    times = series.times
    edges = [blocks.edge(one) for one in (begin, at, end)]
    return all(times[after - 1] - times[before] >= LEAST_NS for before, after in pairwise(edges))


def _fisher(blocks: Blocks, bounds: Sequence[int], rates: tuple[float, float]) -> float:
    """Return the p-value of two rates, corrected for failures that come in streaks.

    The variance between blocks of the same side, as a multiple of what independent builds would
    have, makes the statistic smaller.
    """
    begin, at, end = bounds
    sizes = np.diff([*blocks.begins, len(blocks.adjusted)])
    sides = (slice(begin, at), slice(at, end))
    counts = [int(sizes[one].sum()) for one in sides]
    failures = [round(rate * count) for rate, count in zip(rates, counts, strict=True)]
    table = [[failed, count - failed] for failed, count in zip(failures, counts, strict=True)]
    p = float(stats.fisher_exact(table).pvalue)
    chi_square = 0.0
    for side, rate in zip(sides, rates, strict=True):
        variance = max(rate * (1 - rate), 1 / max(counts)) / sizes[side]
        chi_square += float(np.sum((blocks.levels[side] - rate) ** 2 / variance))
    dispersion = max(1.0, chi_square / (end - begin - 2))
    z = stats.norm.isf(max(p, 1e-300) / 2) / np.sqrt(dispersion)
    return 2 * float(stats.norm.sf(z))


def _is_sudden(values: Array, begin: int, at: int, end: int) -> bool:
    """Whether the blocks next to the change show most of it, unlike those of a slow trend."""
    whole = np.median(values[at:end]) - np.median(values[begin:at])
    near = np.median(values[at : min(at + LOCAL_BLOCKS, end)]) - np.median(
        values[max(at - LOCAL_BLOCKS, begin) : at]
    )
    return bool(near * np.sign(whole) >= LOCAL_SHARE * abs(whole))


def _first_build(one: _Candidate) -> int:
    """Return the index of the first observation on the new side, searched build by build."""
    begin = one.blocks.edge(max(one.at - AROUND, one.begin))
    end = one.blocks.edge(min(one.at + AROUND, one.end))
    middle = one.blocks.edge(one.at)
    begin, end = max(begin, middle - MOST_AROUND // 2), min(end, middle + MOST_AROUND // 2)
    values = one.blocks.adjusted[begin:end]
    if not one.series.measure.is_rate:
        # What is beyond the levels of the two sides counts as no more than they do.
        levels = np.log(np.array(sorted((one.before, one.after))) + one.blocks.scale)
        values = np.clip(values, *levels)
    found = ruptures.KernelCPD(kernel="linear", min_size=2).fit(values.reshape(-1, 1))
    return begin + int(found.predict(n_bkps=1)[0])


def _described(
    kept: Iterable[tuple[_Candidate, float]], observations: pa.Table
) -> Iterator[Change]:
    """Yield the changes of candidates with their corrected p-values."""
    by_series: dict[int, list[tuple[_Candidate, float]]] = {}
    for one, p in kept:
        by_series.setdefault(id(one.series), []).append((one, p))
    for found in by_series.values():
        firsts = [_first_build(one) for one, _ in found]
        ends = [*firsts[1:], len(found[0][0].series.rows)]
        starts = [0, *firsts[:-1]]
        for at, (one, p) in enumerate(found):
            back = next(
                (
                    later
                    for later in range(at + 1, len(found))
                    if abs(found[later][0].after - one.before)
                    < abs(found[later][0].after - one.after)
                ),
                None,
            )
            until = None if back is None else _time(one.series.times[firsts[back]])
            counts = firsts[at] - starts[at], ends[at] - firsts[at]
            yield _change(one, p, firsts[at], counts=counts, until=until, observations=observations)


def _change(
    one: _Candidate,
    p: float,
    first: int,
    *,
    counts: tuple[int, int],
    until: datetime | None,
    observations: pa.Table,
) -> Change:
    measure, before, after = one.series.measure, one.before, one.after
    row = observations.slice(int(one.series.rows[first]), 1).to_pylist()[0]
    relative = after - before if measure.is_rate else after / before - 1 if before else np.inf
    return Change(
        pipeline=row["pipeline"],
        step=row["step"],
        measure=measure.name,
        before=before,
        after=after,
        change=float(relative),
        confidence=1 - p,
        number=row["number"],
        commit=row["commit"],
        branch=row["branch"],
        build_id=row["build_id"],
        url=row["url"],
        began_at=_time(one.series.times[first]),
        builds_before=counts[0],
        builds_after=counts[1],
        recovered_at=until,
        decided_by=f"PELT on ranks of {len(one.blocks.begins)} blocks; {one.test}, corrected for "
        f"autocorrelation and the number of tests: p = {p:.1g}",
    )


def _time(ns: int) -> datetime:
    """Return nanoseconds as a time in UTC, to the microsecond."""
    return datetime.fromtimestamp(int(ns) // NS_PER_S, UTC).replace(
        microsecond=int(ns) % NS_PER_S // 1_000
    )

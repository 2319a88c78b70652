"""Places points of a log in time, within the job.

Some points have a time, which may be wrong; the order of all is known.
"""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from bk_pipeline.sources.model import JobTimes
from bk_pipeline.units import NS_PER_S

# The agent's and Buildkite's clocks differ by a little; times within this are clamped only.
_TOLERANCE_NS = NS_PER_S


class Point(msgspec.Struct):
    """A place in a log. `time_ns` is None if unknown; `guessed` if it is, or is made, uncertain."""

    offset: int
    time_ns: int | None
    guessed: bool = False


def resolve(points: list[Point], job: JobTimes, size: int) -> None:
    """Give each point a time within the job; later points never have an earlier one.

    Times that contradict the order of the others are dropped. If all are outside of the job but
    would fit into it, they are shifted: the clock of the machine was wrong. Points without a time
    are placed between their neighbors, by their offset in the log.

    Args:
        points: In the order of their offsets.
        job: The job.
        size: Of the log, in bytes.
    """
    known = _rising(points)
    for index, point in enumerate(points):
        if index not in known:
            point.time_ns = None
    _shift([points[index] for index in sorted(known)], job)
    for index in known:
        point = points[index]
        clamped = min(max(point.time_ns or 0, job.start_ns), job.end_ns)
        point.guessed |= clamped != point.time_ns
        point.time_ns = clamped
    _interpolate(points, job, size)


def _rising(points: list[Point]) -> set[int]:
    """Return the indices of the longest sequence of times that never decrease."""
    tails: list[int] = []
    times: list[int] = []
    previous: dict[int, int | None] = {}
    for index, point in enumerate(points):
        if point.time_ns is None:
            continue
        at = bisect_right(times, point.time_ns)
        previous[index] = tails[at - 1] if at else None
        tails[at : at + 1] = [index]
        times[at : at + 1] = [point.time_ns]
    kept = set()
    index_or_none = tails[-1] if tails else None
    while index_or_none is not None:
        kept.add(index_or_none)
        index_or_none = previous[index_or_none]
    return kept


def _shift(known: list[Point], job: JobTimes) -> None:
    """Move times into the job if none is inside, and all would be."""
    times = [point.time_ns or 0 for point in known]
    if not times or times[-1] - times[0] > job.end_ns - job.start_ns:
        return
    if times[-1] < job.start_ns - _TOLERANCE_NS:
        shift = job.start_ns - times[0]
    elif times[0] > job.end_ns + _TOLERANCE_NS:
        shift = job.end_ns - times[-1]
    else:
        return
    for point in known:
        point.time_ns = (point.time_ns or 0) + shift
        point.guessed = True


def _interpolate(points: list[Point], job: JobTimes, size: int) -> None:
    """Place points without a time between those that have one."""
    before = (0, job.start_ns)
    waiting: list[Point] = []
    for point in [*points, Point(max(size, 0), job.end_ns)]:
        if point.time_ns is None:
            waiting.append(point)
            continue
        length = point.offset - before[0]
        for one in waiting:
            share = (one.offset - before[0]) / length if length > 0 else 0.0
            one.time_ns = before[1] + int((point.time_ns - before[1]) * share)
            one.guessed = True
        before, waiting = (point.offset, point.time_ns), []

"""Moments to columns of a line. Where nothing happens for long, time is shortened.

A build that waits for a person over night would else be two specks at the ends of a line.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

# A pause longer than all that happened is drawn as long as this share of it.
SHORTENED = 0.3


class Timescale:
    """From `began` to `ended` on `columns` columns.

    Args:
        began: First moment, in nanoseconds as all others.
        ended: Last moment.
        busy: When something happened: from, to; in any order, overlapping or not.
        columns: At least one.
    """

    def __init__(
        self, began: int, ended: int, busy: Iterable[tuple[int, int]], *, columns: int
    ) -> None:
        self._columns = columns
        happened = _merged(busy)
        total = sum(end - start for start, end in happened)
        edges = [(began, began), *happened, (max(ended, began + 1),) * 2]
        self._moments, self._places = [began], [0.0]
        self.shortened = False
        for (_, pause), (start, end) in pairwise(edges):
            length = float(max(start - pause, 0))
            if total and length > total:
                length, self.shortened = SHORTENED * total, True
            for moment, place in ((start, length), (end, float(end - start))):
                self._moments.append(moment)
                self._places.append(self._places[-1] + place)

    def column(self, moment: int) -> int:
        """The column that `moment` falls into, from 0 to `columns`."""
        at = bisect_right(self._moments, moment)
        if at == 0:
            return 0
        if at == len(self._moments):
            return self._columns
        first, last = self._moments[at - 1], self._moments[at]
        share = (moment - first) / max(last - first, 1)
        place = self._places[at - 1] + share * (self._places[at] - self._places[at - 1])
        return int(place / self._places[-1] * self._columns)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same moments as spans in order that do not touch."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged

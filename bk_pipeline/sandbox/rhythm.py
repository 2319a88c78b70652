"""When builds are started: office hours in Europe and America, quiet nights, slow weekends."""

from __future__ import annotations

from datetime import date
from itertools import accumulate
from random import Random

from bk_pipeline.sandbox.moments import HOUR

# Builds started in each UTC hour of a working day, relative to one another.
_HOURS = (2, 1, 1, 1, 1, 2, 5, 12, 20, 24, 22, 17, 15, 24, 28, 26, 22, 17, 13, 10, 8, 6, 4, 3)
_CUMULATED = tuple(accumulate(_HOURS))
_WEEKEND_SHARE = 0.3
_SATURDAY = 5


def builds_on(day: date, builds_per_day: int) -> int:
    """How many builds a day gets: `builds_per_day` from Monday to Friday, fewer at weekends."""
    if day.weekday() < _SATURDAY:
        return builds_per_day
    return round(builds_per_day * _WEEKEND_SHARE)


def time_of_day(rng: Random) -> int:
    """Milliseconds since midnight, UTC, for one build started by people."""
    hour = rng.choices(range(24), cum_weights=_CUMULATED)[0]
    return hour * HOUR + rng.randrange(HOUR)


def load_at(moment: int) -> float:
    """How much longer jobs wait for an agent than at night: from 1 to about 4."""
    return 1 + 3 * _HOURS[moment // HOUR % 24] / max(_HOURS)

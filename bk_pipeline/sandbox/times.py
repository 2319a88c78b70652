"""The sandbox's times: integers in milliseconds since 1970 (UTC), and load by time of day.

Milliseconds are the precision of Buildkite's own responses. The durations
`SECOND`, `MINUTE`, `HOUR` and `DAY` are in milliseconds too.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from random import Random

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH_DAY = date(1970, 1, 1)
# Builds started in each UTC hour of a working day, as relative weights.
_HOUR_WEIGHTS = (
    2,
    1,
    1,
    1,
    1,
    2,
    5,
    12,
    20,
    24,
    22,
    17,
    15,
    24,
    28,
    26,
    22,
    17,
    13,
    10,
    8,
    6,
    4,
    3,
)
# The share of a working day's builds that start in its busiest hour.
PEAK_HOUR_SHARE = max(_HOUR_WEIGHTS) / sum(_HOUR_WEIGHTS)
_CUMULATIVE_WEIGHTS = tuple(accumulate(_HOUR_WEIGHTS))
_WEEKEND_SHARE = 0.3
_SATURDAY = 5


def day_start(day: date) -> int:
    """Midnight (UTC) at the beginning of `day`, in milliseconds."""
    return (day - _EPOCH_DAY).days * DAY


def day_of(at_ms: int) -> date:
    """The UTC day of a time in milliseconds."""
    return _EPOCH_DAY + timedelta(days=at_ms // DAY)


@lru_cache(maxsize=1024)
def _day_text(day_number: int) -> str:
    return (_EPOCH_DAY + timedelta(days=day_number)).isoformat()


def format_time(at_ms: int) -> str:
    """The time in the format of Buildkite's responses: `2026-08-01T09:08:07.006Z`."""
    day_number, rest = divmod(at_ms, DAY)
    seconds, milliseconds = divmod(rest, SECOND)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{_day_text(day_number)}T{hours:02d}:{minutes:02d}:{seconds:02d}.{milliseconds:03d}Z"


def format_optional_time(at_ms: int | None) -> str | None:
    """The time in the format of Buildkite's responses; None stays None."""
    return None if at_ms is None else format_time(at_ms)


def parse_time(text: str) -> int:
    """Milliseconds since 1970 for an ISO 8601 time or date; without an offset, UTC is assumed.

    The format of older records, `2015-04-23 16:55:52 UTC`, is accepted too.

    Raises:
        ValueError: `text` is not a time.
    """
    parsed = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def build_count_on(day: date, builds_per_day: int) -> int:
    """The number of builds on a day: `builds_per_day` from Monday to Friday, fewer at weekends."""
    if day.weekday() < _SATURDAY:
        return builds_per_day
    return round(builds_per_day * _WEEKEND_SHARE)


def random_time_of_day(rng: Random) -> int:
    """A random time for a build started by people, in milliseconds since midnight UTC."""
    hour = rng.choices(range(24), cum_weights=_CUMULATIVE_WEIGHTS)[0]
    return hour * HOUR + rng.randrange(HOUR)


def agent_wait_factor(at_ms: int) -> float:
    """How much longer than at night jobs wait for an agent: from 1 to 4."""
    return 1 + 3 * _HOUR_WEIGHTS[at_ms // HOUR % 24] / max(_HOUR_WEIGHTS)

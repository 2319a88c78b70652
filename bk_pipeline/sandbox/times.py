"""Times as the sandbox keeps them: whole milliseconds since 1970, UTC.

Integers compare and subtract without surprises, and milliseconds are what
Buildkite's own answers carry.
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


def day_start(day: date) -> int:
    return (day - _EPOCH_DAY).days * DAY


def day_of(moment: int) -> date:
    return _EPOCH_DAY + timedelta(days=moment // DAY)


@lru_cache(maxsize=1024)
def _day_text(day_number: int) -> str:
    return (_EPOCH_DAY + timedelta(days=day_number)).isoformat()


def format_time(moment: int) -> str:
    """`2026-08-01T09:08:07.006Z`, the one format in which Buildkite writes times today."""
    day_number, rest = divmod(moment, DAY)
    seconds, milliseconds = divmod(rest, SECOND)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{_day_text(day_number)}T{hours:02d}:{minutes:02d}:{seconds:02d}.{milliseconds:03d}Z"


def format_optional_time(moment: int | None) -> str | None:
    return None if moment is None else format_time(moment)


def parse_time(text: str) -> int:
    """Milliseconds for an ISO 8601 time or date; without an offset it is taken as UTC.

    Also reads the `2015-04-23 16:55:52 UTC` of older records.

    Raises:
        ValueError: `text` is no time.
    """
    parsed = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


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

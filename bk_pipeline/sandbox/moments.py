"""Times as the sandbox keeps them: whole milliseconds since 1970, UTC.

Integers compare and subtract without surprises, and milliseconds are what
Buildkite's own answers carry.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

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


def text_of(moment: int) -> str:
    """`2026-08-01T09:08:07.006Z`, the one format in which Buildkite writes times today."""
    day_number, rest = divmod(moment, DAY)
    seconds, milliseconds = divmod(rest, SECOND)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{_day_text(day_number)}T{hours:02d}:{minutes:02d}:{seconds:02d}.{milliseconds:03d}Z"


def text_or_none(moment: int | None) -> str | None:
    return None if moment is None else text_of(moment)


def parse(text: str) -> int:
    """Milliseconds for an ISO 8601 time or date; without an offset it is taken as UTC.

    Also reads the `2015-04-23 16:55:52 UTC` of older records.

    Raises:
        ValueError: `text` is no time.
    """
    parsed = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)

"""When a service says to come back. The only place that reads a wait, and that bounds it.

Whatever a service asks for, nobody here waits for longer than `LONGEST_WAIT_S` because of it:
a run that sleeps holds a process and a slot of Dagster's pool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Five of Buildkite's windows. A service that needs longer is asked again by the next run.
LONGEST_WAIT_S = 300.0


def wait_s(value: object, now: datetime) -> float | None:
    """Seconds from `now` on, from 0 to `LONGEST_WAIT_S`; None if `value` cannot be read.

    Args:
        value: A number of seconds or an HTTP date, from a header or a body.
        now: The moment, aware.

    Source: RFC 9110, section 10.2.3.
    """
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return LONGEST_WAIT_S if isinstance(value, int) and value > 0 else 0.0
    except ValueError:
        moment = http_date(str(value).strip())
        if moment is None:
            return None
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_S) if math.isfinite(seconds) else None


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """What the header Retry-After asks for; see `wait_s`."""
    return wait_s(headers.get("Retry-After"), now)


def http_date(text: str) -> datetime | None:
    """The moment of an HTTP date, aware; None if `text` is none."""
    try:
        moment = parsedate_to_datetime(text)
        moment = moment.replace(tzinfo=moment.tzinfo or UTC)
        return moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

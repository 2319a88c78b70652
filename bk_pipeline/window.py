"""Half-open UTC windows `[start, end)`, and the days that partitions are named after.

Buildkite's filters are half-open too: `created_from` means "on or after", `created_to` means
"before". So adjacent windows have no build in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from bk_pipeline.errors import ListingTooDeep

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The half-open interval from `start` to `end`, both aware, in UTC, and start < end."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for moment in (self.start, self.end):
            if moment.utcoffset() != timedelta(0):
                raise ValueError(f"not a UTC time: {moment!r}")
        if self.start >= self.end:
            raise ValueError(f"empty window: {self.start} to {self.end}")

    @property
    def length_s(self) -> float:
        """The length in seconds."""
        return (self.end - self.start).total_seconds()

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ} to {self.end:%Y-%m-%dT%H:%M:%SZ}"


def halve(window: Window, *, floor_s: int = 1) -> tuple[Window, Window]:
    """Split `window` into two adjacent windows, earlier one first.

    The split is a whole number of seconds after the start, the resolution of our requests.

    Args:
        window: The window to split.
        floor_s: Minimum length of each half, in seconds.

    Raises:
        ListingTooDeep: `window` is shorter than `2 * floor_s`. List fewer pipelines;
            retrying does not help.

    Source: Buildkite REST API, "List all builds", query parameters.
    """
    if window.length_s < 2 * floor_s:
        raise ListingTooDeep(
            f"The builds created from {window} still exceed what Buildkite lists; a window cannot "
            f"be shorter than {floor_s} s. Set BK_PIPELINE_PIPELINES to fewer pipelines."
        )
    middle = window.start + timedelta(seconds=int(window.length_s // 2))
    return Window(window.start, middle), Window(middle, window.end)


def day_window(key: str, zone: ZoneInfo) -> Window:
    """Return the window of the day `key` ("YYYY-MM-DD") in `zone`: 23, 24 or 25 hours.

    Raises:
        ValueError: `key` is not a date in that form.
    """
    day = date.fromisoformat(key)
    if day.isoformat() != key:
        raise ValueError(f"not a date like 2026-01-31: {key!r}")

    def midnight(of: date) -> datetime:
        return datetime.combine(of, time.min, tzinfo=zone).astimezone(UTC)

    return Window(midnight(day), midnight(day + timedelta(days=1)))


def day_key(moment: datetime, zone: ZoneInfo) -> str:
    """Return the key of the day in `zone` that contains `moment` (aware)."""
    return moment.astimezone(zone).date().isoformat()


def day_keys(first: date, last: date) -> list[str]:
    """Return the keys from `first` to `last`, inclusive; empty if last < first."""
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]

"""Half-open UTC windows `[start, end)`, and the days that partitions are named after.

Half-open as Buildkite's own filters are: `created_from` is "on or after", `created_to`
is "before". Windows that share an edge share no build.
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
    """All moments from `start` on and before `end`; both aware and in UTC, start < end."""

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
        return (self.end - self.start).total_seconds()

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ} to {self.end:%Y-%m-%dT%H:%M:%SZ}"


def halve(window: Window, *, floor_s: int = 1) -> tuple[Window, Window]:
    """Two windows that together are exactly `window`, earlier first.

    Pure. Cut on a whole second after the start, the finest step we ask Buildkite for.

    Args:
        window: What to cut.
        floor_s: Shortest allowed half, in seconds.

    Raises:
        ListingTooDeep: `window` is shorter than 2 * `floor_s`. Naming fewer pipelines
            helps; asking again does not.

    Source: Buildkite REST API, "List all builds", query parameters.
    """
    if window.length_s < 2 * floor_s:
        raise ListingTooDeep(
            f"Builds created {window} still overflow Buildkite's listing, and a window cannot "
            f"be cut below {floor_s} s. Set BK_PIPELINE_PIPELINES to fewer pipelines."
        )
    middle = window.start + timedelta(seconds=int(window.length_s // 2))
    return Window(window.start, middle), Window(middle, window.end)


def day_window(key: str, zone: ZoneInfo) -> Window:
    """The day named `key` ("YYYY-MM-DD") in `zone`: 23, 24 or 25 hours long.

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
    """The key of the day in `zone` that `moment` (aware) falls into."""
    return moment.astimezone(zone).date().isoformat()


def day_keys(first: date, last: date) -> list[str]:
    """The keys from `first` to `last`, both included, in order; empty if last < first."""
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]

"""Half-open windows, and the days that partitions are named after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.errors import ListingTooDeep
from bk_pipeline.window import Window, day_key, day_keys, day_window, halve

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")

moments = st.integers(1_420_000_000, 1_893_000_000).map(lambda s: datetime.fromtimestamp(s, UTC))


@given(start=moments, length_s=st.integers(2, 400 * 86_400))
def test_halves_cover_the_window_without_overlap(start, length_s):
    window = Window(start, start + timedelta(seconds=length_s))
    earlier, later = halve(window)
    assert (earlier.start, later.end) == (window.start, window.end)
    assert earlier.end == later.start
    assert (earlier.end - earlier.start) % timedelta(seconds=1) == timedelta(0)


def test_halving_stops_at_one_second():
    with pytest.raises(ListingTooDeep, match="BK_PIPELINE_PIPELINES"):
        halve(Window(NOON, NOON + timedelta(seconds=1)))


def test_window_includes_its_start_but_not_its_end():
    window = Window(NOON, NOON + timedelta(hours=1))
    assert window.start in window
    assert window.end not in window


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(NOON, NOON, id="empty"),
        pytest.param(NOON, NOON - timedelta(seconds=1), id="reversed"),
        pytest.param(NOON.replace(tzinfo=None), NOON.replace(tzinfo=None), id="naive"),
        pytest.param(NOON.astimezone(BERLIN), NOON + timedelta(1), id="not UTC"),
    ],
)
def test_invalid_window_is_refused(start, end):
    with pytest.raises(ValueError, match=r"window|UTC"):
        Window(start, end)


@pytest.mark.parametrize(
    ("key", "hours"),
    [("2026-03-29", 23), ("2026-07-01", 24), ("2026-10-25", 25)],
    ids=["spring forward", "ordinary", "fall back"],
)
def test_day_length_follows_the_time_zone(key, hours):
    assert day_window(key, BERLIN).length_s == hours * 3_600


@given(
    moment=moments,
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
)
def test_moment_is_in_the_day_of_its_key(moment, zone):
    assert moment in day_window(day_key(moment, ZoneInfo(zone)), ZoneInfo(zone))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_days_match_dagster_partitions(zone):
    partitions = dg.DailyPartitionsDefinition("2026-03-01", end_date="2026-12-01", timezone=zone)
    for key in partitions.get_partition_keys():
        dagsters = partitions.time_window_for_partition_key(key)
        ours = day_window(key, ZoneInfo(zone))
        assert (ours.start, ours.end) == (dagsters.start, dagsters.end)


@pytest.mark.parametrize("key", ["2026-1-1", "20260101", "2026-02-30", "yesterday", ""])
def test_malformed_day_key_is_refused(key):
    with pytest.raises(ValueError, match=r"."):
        day_window(key, BERLIN)


def test_day_keys_include_both_ends():
    first = NOON.date()
    assert day_keys(first, first + timedelta(2)) == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert day_keys(first, first - timedelta(1)) == []

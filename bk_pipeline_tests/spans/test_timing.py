"""Parsing of times to nanoseconds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.spans.timing import EARLIEST_NS, LATEST_NS, Times, from_ns, parse_ns, to_ns
from bk_pipeline_tests.spans.wholeness import PATIENT

NOON = 1_769_860_800


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-01-31T12:00:00.123Z", NOON * 10**9 + 123_000_000),
        ("2026-01-31T12:00:00Z", NOON * 10**9),
        ("2026-01-31T12:00:00.123456Z", NOON * 10**9 + 123_456_000),
        ("2026-01-31T12:00:00.123456789Z", NOON * 10**9 + 123_456_000),
        ("2026-01-31T13:00:00.5+01:00", NOON * 10**9 + 500_000_000),
        ("2026-01-31 12:00:00 UTC", NOON * 10**9),
        ("2026-01-31 12:00:00", NOON * 10**9),
        ("2015-04-23 16:55:52 UTC", 1_429_808_152 * 10**9),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_every_time_format_of_buildkite_is_parsed(text, ns):
    assert parse_ns(text) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0001-01-01T00:00:00Z", EARLIEST_NS),
        ("0001-01-01T00:00:00+14:00", EARLIEST_NS),
        ("1969-12-31T23:59:59.999Z", EARLIEST_NS),
        ("2262-04-11T23:47:17Z", LATEST_NS),
        ("9999-12-31T23:59:59.999-14:00", LATEST_NS),
    ],
)
def test_times_out_of_range_are_clamped(text, ns):
    assert parse_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["", " UTC", "UTC", "soon", "1769860800", "2026-02-30T00:00:00Z", "\0", "\ufffd"]
)
def test_an_invalid_time_is_an_error(text):
    with pytest.raises(ValueError):  # noqa: PT011  # the text is datetime's own
        parse_ns(text)


@PATIENT
@given(st.integers(0, 253_402_300_799_999))
def test_milliseconds_are_exact(ms):
    moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    text = f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"
    assert parse_ns(text) == to_ns(moment) == min(ms * 1_000_000, LATEST_NS)
    if ms * 1_000_000 < LATEST_NS:
        assert from_ns(ms * 1_000_000) == moment


WRITTEN = st.builds(
    "{:%Y-%m-%d}{}{:%H:%M}{}{}{}".format,
    st.dates(),
    st.sampled_from("T t"),
    st.times(),
    st.sampled_from(["", ":07", ":59", ":60", ":7"]),
    st.sampled_from(["", ".1", ".12", ".123", ".123456", ".1234567", ",5", "."]),
    st.sampled_from(["Z", "z", "", "+01:00", "-0330", "+14", " UTC", " Z"]),
)


@PATIENT
@given(st.lists(WRITTEN | st.text(max_size=30) | st.none(), max_size=3))
def test_preloaded_times_equal_times_parsed_one_by_one(texts):
    together, alone = Times(), Times()
    together.preload(texts)
    for text in texts:
        assert time_or_error(together, text) == time_or_error(alone, text)


def time_or_error(times, text):
    try:
        return times[text]
    except (ValueError, OverflowError):
        return "no time"


@pytest.mark.parametrize(
    "odd", ["0000-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z", "2262-04-11T23:47:17Z", "soon", ""]
)
def test_an_unusual_time_is_parsed_on_lookup(odd):
    usual = "2026-01-31T12:00:00.123Z"
    times = Times()
    times.preload([usual, odd, None])
    assert times == {None: None, "": None}
    assert times[usual] == parse_ns(usual)


def test_preloading_no_times_is_allowed():
    times = Times()
    times.preload([])
    times.preload([None, None])
    assert times == {None: None, "": None}

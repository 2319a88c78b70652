from __future__ import annotations

import pytest

from bk_pipeline.honeycomb.client import Pace
from bk_pipeline.http.retry import LONGEST_WAIT_S


@pytest.fixture
def pace(clock):
    return Pace(clock, print)


@pytest.mark.parametrize(
    ("header", "slept"),
    [
        ("limit=100, remaining=50, reset=60", []),
        ("limit=100, remaining=6, reset=60", []),
        ("limit=100, remaining=5, reset=42", [42]),
        ("limit=100, remaining=0, reset=9999999", [LONGEST_WAIT_S]),
        ("limit=100, remaining=0, reset=0", []),
        ("limit=5, remaining=1, reset=42", []),
        ("limit=5, remaining=0, reset=42", [42]),
        ("nonsense", []),
        ("", []),
    ],
    ids=["plenty", "enough", "the reserve", "absurd", "over", "small", "none of a few", "odd", "no"],
)  # fmt: skip
def test_the_next_call_waits_for_the_window_if_only_the_reserve_is_left(pace, clock, header, slept):
    pace.note({"RateLimit": header})
    pace.wait()
    pace.wait()

    assert clock.slept == slept

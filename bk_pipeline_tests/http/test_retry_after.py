from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pytest

from bk_pipeline.buildkite.answers import reset_in_s
from bk_pipeline.defs.daily_asset import RETRY_PAUSE_S, as_dagster_failures
from bk_pipeline.errors import QuotaSpent
from bk_pipeline.http.retry import LONGEST_WAIT_S, RetryPolicy, retry_after_s, wait_s
from bk_pipeline.http.session import Response

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("42", 42),
        (" 1.5 ", 1.5),
        ("0", 0),
        ("-3", 0),
        ("315360000", LONGEST_WAIT_S),
        ("1e300", LONGEST_WAIT_S),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30),
        ("Fri, 20 Nov 2026 12:00:30 -0000", 30),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0),
        ("Fri, 20 Nov 2036 11:00:00 GMT", LONGEST_WAIT_S),
        ("Fri, 20 Nov 99999999999999999999 11:00:00 GMT", None),
        ("Fri, 20 Nov 2026 11:00:00 +99999999", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_seconds_and_dates_are_clamped_and_malformed_values_are_none(text, seconds):
    assert retry_after_s({"Retry-After": text}, NOW) == seconds


def test_missing_header_is_none():
    assert retry_after_s({}, NOW) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(7, 7), (10**400, LONGEST_WAIT_S), (-(10**400), 0), (True, None), ([], None), (None, None)],
)
def test_value_in_a_body_is_parsed_the_same_way(value, seconds):
    assert wait_s(value, NOW) == seconds


@pytest.mark.parametrize("reset", [b"315360000", b'"315360000"', b"1" + b"0" * 5000])
def test_reset_in_a_body_is_capped(reset):
    response = Response(429, {}, b'{"reset":' + reset + b"}", "GET x", "x")
    assert reset_in_s(response, NOW) <= LONGEST_WAIT_S


def test_pauses_of_retries_and_runs_are_capped():
    error = QuotaSpent("spent", retry_in_s=315_360_000.0)
    assert RetryPolicy().pause_s(1, error) == LONGEST_WAIT_S
    with pytest.raises(dg.RetryRequested) as caught, as_dagster_failures(retries=2):
        raise error
    assert caught.value.seconds_to_wait == LONGEST_WAIT_S
    with pytest.raises(dg.RetryRequested) as caught, as_dagster_failures(retries=2):
        raise QuotaSpent("spent", retry_in_s=0.0)
    assert caught.value.seconds_to_wait == RETRY_PAUSE_S

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.errors import AccessDenied, QuotaSpent, ServiceUnavailable
from bk_pipeline.http.retry import LONGEST_WAIT_S, RetryPolicy, retry

FULL = RetryPolicy(deadline_s=100, first_pause_s=1, longest_pause_s=8, jitter=lambda: 1.0)


class Flaky:
    """Raises the given errors one after the other, then returns the number of calls."""

    def __init__(self, *errors, takes_s=0.0, clock=None):
        self.errors = list(errors)
        self.calls = 0
        self.takes_s = takes_s
        self.clock = clock

    def __call__(self):
        self.calls += 1
        if self.clock:
            self.clock.moment += timedelta(seconds=self.takes_s)
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def down(retry_in_s=None):
    return ServiceUnavailable("Down.", retry_in_s=retry_in_s)


def test_first_success_is_returned_without_a_pause(clock):
    assert retry(Flaky(), policy=FULL, clock=clock) == 1
    assert clock.slept == []


def test_pauses_double_up_to_the_longest(clock):
    assert retry(Flaky(*[down() for _ in range(6)]), policy=FULL, clock=clock) == 7
    assert clock.slept == [1, 2, 4, 8, 8, 8]


def test_jitter_scales_the_pause(clock):
    policy = RetryPolicy(first_pause_s=8, jitter=lambda: 0.25)
    retry(Flaky(down(), down()), policy=policy, clock=clock)
    assert clock.slept == [2, 4]


@pytest.mark.parametrize(
    ("retry_in_s", "paused"),
    [(42, 42), (0.1, 1), (0, 1), (-5, 1), (math.nan, 1)],
    ids=["longer", "shorter", "none", "negative", "nan"],
)
def test_pause_requested_by_the_service_is_the_minimum(clock, retry_in_s, paused):
    retry(Flaky(QuotaSpent("Spent.", retry_in_s=retry_in_s)), policy=FULL, clock=clock)
    assert clock.slept == [paused]


def test_other_errors_are_raised_at_once(clock):
    refused = AccessDenied("No.")
    with pytest.raises(AccessDenied) as caught:
        retry(Flaky(down(), refused), policy=FULL, clock=clock)
    assert caught.value is refused
    assert str(refused) == "No."
    assert clock.slept == [1]


def test_deadline_includes_attempts_and_pauses(clock):
    flaky = Flaky(*[down() for _ in range(9)], takes_s=30, clock=clock)

    with pytest.raises(ServiceUnavailable) as caught:
        retry(flaky, policy=FULL, clock=clock)

    assert str(caught.value) == "Down. Gave up after 4 attempts in 127 s."
    assert clock.slept == [1, 2, 4]


@pytest.mark.parametrize("retry_in_s", [101, 1e12, math.inf])
def test_pause_beyond_the_deadline_is_not_started(clock, retry_in_s):
    with pytest.raises(QuotaSpent) as caught:
        retry(Flaky(QuotaSpent("Spent.", retry_in_s=retry_in_s)), policy=FULL, clock=clock)

    assert str(caught.value) == "Spent. Gave up after 1 attempt in 0 s."
    assert caught.value.retry_in_s == retry_in_s
    assert clock.slept == []


def test_each_pause_is_reported_before_it_begins(clock):
    pauses = []
    began = clock.now()
    errors = [down(), down(30)]

    retry(Flaky(*errors), policy=FULL, clock=clock, on_pause=pauses.append)

    assert [(p.attempt, p.seconds, p.error) for p in pauses] == [
        (1, 1, errors[0]),
        (2, 30, errors[1]),
    ]
    assert [p.until - began for p in pauses] == [timedelta(seconds=1), timedelta(seconds=31)]


def test_interruption_is_not_retried(clock):
    with pytest.raises(KeyboardInterrupt):
        retry(Flaky(KeyboardInterrupt()), policy=FULL, clock=clock)
    assert clock.slept == []


@given(
    attempt=st.integers(1, 10_000),
    retry_in_s=st.none() | st.floats(),
    share=st.floats(0, 1),
    first=st.floats(0, 1e3),
    longest=st.floats(0, 1e3),
)
def test_pause_is_never_negative_or_below_the_requested_one(
    attempt, retry_in_s, share, first, longest
):
    policy = RetryPolicy(first_pause_s=first, longest_pause_s=longest, jitter=lambda: share)

    pause = policy.pause_s(attempt, down(retry_in_s))

    assert pause >= 0
    if retry_in_s is None or math.isnan(retry_in_s):
        assert pause <= longest
    else:
        assert pause >= min(retry_in_s, LONGEST_WAIT_S)

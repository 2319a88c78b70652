from __future__ import annotations

import pytest

from bk_pipeline.errors import DeliveryThrottled
from bk_pipeline.http.retry import LONGEST_WAIT_S, RateLimiter, RetryPolicy, limiter_of

POLICY = RetryPolicy(first_pause_s=1, longest_pause_s=60, jitter=lambda: 1.0)


@pytest.fixture
def limiter():
    return RateLimiter()


@pytest.fixture
def enter(limiter, clock):
    return lambda: limiter.enter(clock, stopped=lambda: False)


@pytest.fixture
def refuse(limiter, clock):
    def refuse(permit, retry_in_s=None):
        error = DeliveryThrottled("slow down", retry_in_s=retry_in_s)
        return limiter.refused(permit, error, policy=POLICY, clock=clock)

    return refuse


def test_open_limiter_permits_requests_at_once(enter, clock):
    enter()
    enter()

    assert clock.slept == []


def test_all_requests_wait_after_one_was_throttled(enter, refuse, clock):
    one = enter()

    refuse(one)
    enter()

    assert clock.slept == [1.0]


def test_pauses_grow_until_a_request_succeeds(enter, refuse):
    assert [refuse(enter()) for _ in range(4)] == [1.0, 2.0, 4.0, 8.0]


def test_throttling_of_concurrent_requests_counts_once(enter, refuse):
    one, two, three = enter(), enter(), enter()

    assert [refuse(one), refuse(two), refuse(three)] == [1.0, 1.0, 1.0]


def test_success_resets_the_pauses(limiter, enter, refuse):
    refuse(enter())
    refuse(enter())

    limiter.passed(enter())

    assert refuse(enter()) == 1.0


def test_success_of_a_request_sent_before_the_throttling_resets_nothing(limiter, enter, refuse):
    early, late = enter(), enter()
    refuse(late)

    limiter.passed(early)

    assert refuse(enter()) == 2.0


def test_longer_pause_requested_by_the_service_is_respected(enter, refuse, clock):
    assert refuse(enter(), retry_in_s=90.0) == 90.0
    enter()
    assert sum(clock.slept) == 90.0


def test_stopped_caller_does_not_wait(limiter, enter, refuse, clock):
    refuse(enter())

    limiter.enter(clock, stopped=lambda: True)

    assert clock.slept == []


def test_destination_has_one_limiter_per_process():
    assert limiter_of("a destination") is limiter_of("a destination")
    assert limiter_of("a destination") is not limiter_of("another")


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
    ids=["plenty", "enough", "reserve", "absurd", "over", "small", "small spent", "odd", "none"],
)  # fmt: skip
def test_next_request_waits_for_the_reset_if_only_the_reserve_remains(
    limiter, enter, clock, header, slept
):
    limiter.learn({"RateLimit": header}, clock=clock)
    enter()
    enter()

    assert clock.slept == slept

from __future__ import annotations

import pytest

from bk_pipeline.errors import DeliveryThrottled
from bk_pipeline.http.limiter import RateLimiter, limiter_of
from bk_pipeline.http.retry import LONGEST_WAIT_S, RetryPolicy

POLICY = RetryPolicy(first_pause_s=1, longest_pause_s=60, draw=lambda: 1.0)


@pytest.fixture
def limiter():
    return RateLimiter()


@pytest.fixture
def enter(limiter, clock):
    return lambda: limiter.enter(clock, stopped=lambda: False)


@pytest.fixture
def refuse(limiter, clock):
    def refuse(permit, asked_s=None):
        error = DeliveryThrottled("slow down", retry_in_s=asked_s)
        return limiter.refused(permit, error, policy=POLICY, clock=clock)

    return refuse


def test_an_open_limiter_lets_everybody_through_at_once(enter, clock):
    enter()
    enter()

    assert clock.slept == []


def test_everybody_waits_after_one_was_refused(enter, refuse, clock):
    one = enter()

    refuse(one)
    enter()

    assert clock.slept == [1.0]


def test_pauses_grow_while_nothing_gets_through(enter, refuse):
    assert [refuse(enter()) for _ in range(4)] == [1.0, 2.0, 4.0, 8.0]


def test_refusals_of_requests_under_way_together_count_as_one(enter, refuse):
    one, two, three = enter(), enter(), enter()

    assert [refuse(one), refuse(two), refuse(three)] == [1.0, 1.0, 1.0]


def test_a_success_makes_the_next_pause_short_again(limiter, enter, refuse):
    refuse(enter())
    refuse(enter())

    limiter.passed(enter())

    assert refuse(enter()) == 1.0


def test_a_success_of_a_request_sent_before_the_refusal_says_nothing(limiter, enter, refuse):
    early, late = enter(), enter()
    refuse(late)

    limiter.passed(early)

    assert refuse(enter()) == 2.0


def test_a_longer_pause_that_the_service_asks_for_is_kept(enter, refuse, clock):
    assert refuse(enter(), asked_s=90.0) == 90.0
    enter()
    assert sum(clock.slept) == 90.0


def test_who_is_told_to_stop_does_not_wait(limiter, enter, refuse, clock):
    refuse(enter())

    limiter.enter(clock, stopped=lambda: True)

    assert clock.slept == []


def test_a_destination_has_one_limiter_in_the_whole_process():
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
    ids=["plenty", "enough", "the reserve", "absurd", "over", "small", "none of a few", "odd", "no"],
)  # fmt: skip
def test_the_next_call_waits_for_the_window_if_only_the_reserve_is_left(
    limiter, enter, clock, header, slept
):
    limiter.learn({"RateLimit": header}, clock=clock)
    enter()
    enter()

    assert clock.slept == slept

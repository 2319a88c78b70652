from __future__ import annotations

import pytest

from bk_pipeline.deliver.batching import Pace, pace_of
from bk_pipeline.errors import DeliveryThrottled
from bk_pipeline.http.retry import RetryPolicy

POLICY = RetryPolicy(first_pause_s=1, longest_pause_s=60, draw=lambda: 1.0)


@pytest.fixture
def pace():
    return Pace()


@pytest.fixture
def enter(pace, clock):
    return lambda: pace.enter(clock, stopped=lambda: False)


@pytest.fixture
def refuse(pace, clock):
    def refuse(ticket, asked_s=None):
        error = DeliveryThrottled("slow down", retry_in_s=asked_s)
        return pace.refused(ticket, error, policy=POLICY, clock=clock)

    return refuse


def test_an_open_gate_lets_everybody_through_at_once(enter, clock):
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


def test_a_success_makes_the_next_pause_short_again(pace, enter, refuse):
    refuse(enter())
    refuse(enter())

    pace.passed(enter())

    assert refuse(enter()) == 1.0


def test_a_success_of_a_request_sent_before_the_refusal_says_nothing(pace, enter, refuse):
    early, late = enter(), enter()
    refuse(late)

    pace.passed(early)

    assert refuse(enter()) == 2.0


def test_a_longer_pause_that_the_service_asks_for_is_kept(enter, refuse, clock):
    assert refuse(enter(), asked_s=90.0) == 90.0
    enter()
    assert sum(clock.slept) == 90.0


def test_who_is_told_to_stop_does_not_wait(pace, enter, refuse, clock):
    refuse(enter())

    pace.enter(clock, stopped=lambda: True)

    assert clock.slept == []


def test_a_destination_has_one_pace_in_the_whole_process():
    assert pace_of("a destination") is pace_of("a destination")
    assert pace_of("a destination") is not pace_of("another")

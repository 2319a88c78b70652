from __future__ import annotations

import math
from itertools import accumulate
from random import Random
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bk_pipeline.analysis.replay import NONE, Release, Trace, replay

S = 1_000_000_000
# Student's t for 19 degrees of freedom and a confidence of 99.9 %.
BATCHES, T_999 = 20, 3.883


def independent(arrivals, runs, *, priority=None, latency=None):
    """A trace of jobs of one queue that do not depend on each other, each a build of its own."""
    count = len(arrivals)
    return Trace(
        queue=[0] * count,
        priority=priority or [0] * count,
        latency=latency or [0] * count,
        run=runs,
        build=list(range(count)),
        release=[Release.AT] * count,
        on=[NONE] * count,
        gap=arrivals,
        by_end=list(range(count)),
        first=list(range(count + 1)),
        until={},
    )


def dependent(*jobs, until=None):
    """A trace of one build: (queue, run, release, on, gap) for each job, in order of their ends."""
    queue, run, release, on, gap = (list(column) for column in zip(*jobs, strict=True))
    count = len(jobs)
    nothing = [0] * count
    return Trace(
        queue,
        nothing,
        nothing,
        run,
        nothing,
        release,
        on,
        gap,
        range(count),
        [0, count],
        until or {},
    )


def waits_of(trace, agents):
    done = replay(trace, [[(0, agents)]])
    return [start - ready for start, ready in zip(done.start, done.ready, strict=True)]


def erlang_c_wait(arrival_rate, service_rate, agents):
    """The mean wait of an M/M/c queue: Erlang's C formula by the spare rate of service."""
    load = arrival_rate / service_rate
    last = load**agents / math.factorial(agents) * agents / (agents - load)
    others = sum(load**n / math.factorial(n) for n in range(agents))
    return last / (others + last) / (agents * service_rate - arrival_rate)


@pytest.mark.parametrize(("agents", "utilization"), [(1, 0.5), (1, 0.7), (3, 0.8), (12, 0.85)])
def test_mean_wait_of_mmc_is_within_its_confidence_interval(agents, utilization):
    rng = Random(f"{agents} {utilization}")
    count, warm_up = 120_000, 20_000
    service_rate = 1 / 60
    arrival_rate = utilization * agents * service_rate
    arrivals = list(accumulate(int(rng.expovariate(arrival_rate) * S) for _ in range(count)))
    runs = [int(rng.expovariate(service_rate) * S) for _ in range(count)]
    waits = waits_of(independent(arrivals, runs), agents)[warm_up:]
    size = len(waits) // BATCHES
    means = [mean(waits[n * size : (n + 1) * size]) / S for n in range(BATCHES)]
    expected = erlang_c_wait(arrival_rate, service_rate, agents)
    half_width = T_999 * stdev(means) / math.sqrt(BATCHES)
    assert half_width < 0.35 * expected
    assert abs(mean(means) - expected) < half_width


def test_with_an_agent_for_every_job_none_waits():
    rng = Random(1)
    arrivals = sorted(rng.randrange(1000) for _ in range(300))
    trace = independent(arrivals, [rng.randrange(5000) for _ in range(300)])
    assert not any(waits_of(trace, 300))


def test_waits_of_regular_jobs_grow_as_computed_by_hand():
    # A job each 10 s that takes 25 s: two agents fall back by 5 s every second job.
    trace = independent([10 * n for n in range(100)], [25] * 100)
    assert waits_of(trace, 2) == [5 * (n // 2) for n in range(100)]
    assert not any(waits_of(trace, 3))


JOBS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 60), st.integers(-2, 2), st.integers(0, 5)),
    min_size=1,
    max_size=40,
)
LEVELS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 5)), max_size=5).map(
    lambda some: [(0, 1), *sorted(dict(some).items()), (400, 1)]
)


def held_at(trace, done, moment):
    return sum(
        start - latency <= moment < end
        for start, end, latency in zip(done.start, done.end, trace.latency, strict=True)
    )


@settings(max_examples=200, deadline=None)
@given(JOBS, LEVELS)
def test_each_job_runs_once_in_order_and_never_more_than_there_are_agents(jobs, levels):
    jobs = sorted(jobs)
    arrivals, runs, priority, latency = (list(column) for column in zip(*jobs, strict=True))
    trace = independent(arrivals, runs, priority=priority, latency=latency)
    done = replay(trace, [levels])
    assigned = [start - late for start, late in zip(done.start, latency, strict=True)]
    assert done.ready == arrivals
    assert [end - start for start, end in zip(done.start, done.end, strict=True)] == runs
    assert all(at >= ready for at, ready in zip(assigned, arrivals, strict=True))
    level_at = {at: max(level for when, level in levels if when == at) for at, level in levels}
    for moment in set(assigned):
        level = level_at[max(at for at in level_at if at <= moment)]
        assert held_at(trace, done, moment) <= level
    for n, at in enumerate(assigned):
        for m, other in enumerate(assigned):
            if arrivals[m] <= at < other:  # m waited when n was assigned
                assert (-priority[n], arrivals[n]) <= (-priority[m], arrivals[m])


@settings(max_examples=100, deadline=None)
@given(JOBS, st.integers(1, 5))
def test_no_agent_is_idle_while_a_job_waits(jobs, agents):
    arrivals, runs, _, latency = (list(column) for column in zip(*sorted(jobs), strict=True))
    trace = independent(arrivals, runs, latency=latency)
    done = replay(trace, [[(0, agents)]])
    for ready, start, late in zip(done.ready, done.start, latency, strict=True):
        if start - late > ready:
            assert held_at(trace, done, start - late - 1) == agents


@settings(max_examples=100, deadline=None)
@given(JOBS, st.integers(1, 5))
def test_one_more_agent_lengthens_no_wait_of_independent_jobs(jobs, agents):
    arrivals, runs, _, latency = (list(column) for column in zip(*sorted(jobs), strict=True))
    trace = independent(arrivals, runs, latency=latency)
    before, after = waits_of(trace, agents), waits_of(trace, agents + 1)
    assert all(one <= other for one, other in zip(after, before, strict=True))


def test_jobs_of_higher_priority_go_first():
    trace = independent([0, 1, 2], [10, 10, 10], priority=[0, 0, 7])
    assert replay(trace, [[(0, 1)]]).start == [0, 20, 10]


def test_jobs_that_run_when_agents_leave_run_to_their_ends():
    trace = independent([0, 0, 5, 5], [10, 30, 10, 10])
    done = replay(trace, [[(0, 2), (5, 1), (100, 2)]])
    assert done.start == [0, 0, 30, 40]


def test_before_the_first_agent_there_is_none():
    assert replay(independent([0], [10]), [[(7, 1)]]).start == [7]


def test_a_job_follows_all_jobs_that_it_waited_for():
    trace = dependent(
        (0, 5, Release.AT, NONE, 0),
        (0, 9, Release.AT, NONE, 0),
        (0, 1, Release.AFTER_ALL, 2, 3),
    )
    # Alone, the agent runs the second job after the first; two run them at the same time.
    assert replay(trace, [[(0, 1)]]).ready == [0, 0, 17]
    assert replay(trace, [[(0, 2)]]).ready == [0, 0, 12]
    assert replay(trace, [[(0, 1)]]).cause == [NONE, NONE, 1]


def test_an_uploaded_job_follows_the_start_and_a_retry_the_end():
    trace = dependent(
        (0, 10, Release.AT, NONE, 100),
        (NONE, 2, Release.AFTER_START, 0, 4),
        (NONE, 2, Release.AFTER_END, 0, 1),
    )
    assert replay(trace, [[(0, 1)]]).ready == [100, 104, 111]


def test_a_trigger_job_runs_until_its_build_has_ended():
    child = (0, 10, Release.AFTER_START, 1, 2)
    later = (0, 99, Release.AT, NONE, 500)
    trigger = (NONE, 0, Release.AT, NONE, 20)
    trace = Trace(
        queue=[0, NONE, 0],
        priority=[0] * 3,
        latency=[0] * 3,
        run=[child[1], trigger[1], later[1]],
        build=[0, 1, 0],
        release=[child[2], trigger[2], later[2]],
        on=[child[3], trigger[3], later[3]],
        gap=[child[4], trigger[4], later[4]],
        by_end=[0, 2, 1],
        first=[0, 2, 3],
        until={1: (1, 7)},
    )
    done = replay(trace, [[(0, 1)]])
    assert (done.start[0], done.end[0], done.end[1]) == (22, 32, 39)
    # If no agent is there for the triggered build, the trigger job takes longer.
    assert replay(trace, [[(200, 1)]]).end[1] == 217


def test_agents_must_remain_at_the_end():
    with pytest.raises(ValueError, match="positive"):
        replay(independent([0], [1]), [[(0, 1), (9, 0)]])


def test_jobs_that_wait_for_each_other_are_refused():
    trace = dependent((0, 1, Release.AFTER_END, 1, 0), (0, 1, Release.AFTER_END, 0, 0))
    with pytest.raises(ValueError, match="waits for itself"):
        replay(trace, [[(0, 1)]])


def test_queues_do_not_share_agents():
    trace = dependent((0, 9, Release.AT, NONE, 0), (1, 9, Release.AT, NONE, 1))
    assert replay(trace, [[(0, 1)], [(0, 1)]]).start == [0, 1]

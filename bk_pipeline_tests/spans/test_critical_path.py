"""The critical path: what holds in each situation, and in any schedule."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.spans.critical_path import set_path_shares
from bk_pipeline.spans.fields import CRITICAL_PATH, fields_left_out
from bk_pipeline.spans.jobs import TimedJob
from bk_pipeline.spans.model import PathShare, SpanKind, SpanOptions, Stage
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.records import Job
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline.units import NS_PER_MS, NS_PER_S
from bk_pipeline_tests.builders import (
    at,
    make_block,
    make_build,
    make_job,
    make_retry,
    make_trace,
    make_trigger,
)
from bk_pipeline_tests.spans.timelines import timelines
from bk_pipeline_tests.spans.wholeness import PATIENT, assert_whole

MAX_CPU_S = 30


def shares_of(jobs: list[dict[str, Any]], **fields: Any) -> dict[str, tuple]:
    """Return (on the path, share in s, slack in s) of each job by its name or label."""
    spans = make_trace(make_build(jobs, **fields)).spans
    return {
        span.job.name or span.job.label or "": (
            span.path.critical,
            span.path.ms / 1000,
            None if span.path.slack_ms is None else span.path.slack_ms / 1000,
        )
        for span in spans
        if span.kind is SpanKind.JOB and span.job and span.path
    }


def root_of(jobs: list[dict[str, Any]], **fields: Any) -> tuple[float, float, float]:
    """Return the build's seconds of running, waiting, and being blocked."""
    path = make_trace(make_build(jobs, **fields)).path
    assert path is not None
    return path.run_ms / 1000, path.wait_ms / 1000, path.blocked_ms / 1000


def test_path_leads_through_the_longest_job_of_each_phase():
    jobs = [
        make_job("lint", run_s=5),
        make_job("build", run_s=20),
        make_job("test 1", runnable_s=23.1, run_s=100),
        make_job("test 2", runnable_s=23.1, wait_s=30, run_s=80),
        make_job("deploy", runnable_s=133.2, run_s=10),
    ]
    assert shares_of(jobs) == {
        "lint": (False, 0, 15),
        "build": (True, 23, 0),
        "test 1": (False, 0, 8),
        "test 2": (True, 110.1, 0),
        "deploy": (True, 12.1, 0),
    }
    assert root_of(jobs) == (110, 35.4, 0)


def test_uploaded_job_follows_the_upload_and_not_an_earlier_end():
    jobs = [
        make_job("lint", run_s=5),
        make_job("upload", run_s=20),
        make_job("test", created_s=15, runnable_s=15, run_s=60),
    ]
    assert shares_of(jobs) == {
        "lint": (False, 0, 7),
        "upload": (True, 15, 0),
        "test": (True, 62, 0),
    }


def test_of_several_running_jobs_the_first_to_end_uploaded():
    jobs = [
        make_job("slow", run_s=40),
        make_job("upload", run_s=20),
        make_job("test", created_s=15, runnable_s=15, run_s=60),
    ]
    assert [name for name, share in shares_of(jobs).items() if share[0]] == ["upload", "test"]


def test_uploaded_job_that_waited_for_another_follows_that_one():
    jobs = [
        make_job("upload", run_s=20),
        make_job("build", created_s=15, runnable_s=15, run_s=60),
        make_job("test", created_s=15, runnable_s=77.1, run_s=10),
    ]
    assert [name for name, share in shares_of(jobs).items() if share[0]] == [
        "upload",
        "build",
        "test",
    ]


def test_automatic_retry_follows_its_attempt_and_depends_on_nothing_else():
    flaky = make_job("flaky", run_s=20, state="failed")
    # Ends between the attempt and its retry, and did not cause it.
    other = make_job("other", run_s=20.02)
    again = make_retry(flaky, made_s=23.05, kind="automatic", run_s=50)
    again["name"] = "again"
    assert shares_of([flaky, again, other]) == {
        "flaky": (True, 23, 0),
        "again": (True, 52.13, 0),
        "other": (False, 0, 52.11),
    }


def test_time_until_a_manual_retry_is_blocked():
    first = make_job("flaky", run_s=20, state="failed")
    slow = make_job("slow", run_s=100)
    again = make_retry(first, made_s=60, run_s=90)
    again["name"] = "again"
    assert shares_of([first, again, slow])["again"] == (True, pytest.approx(129.08), 0)
    assert root_of([first, again, slow])[2] == 60 - 23


def test_retry_after_the_end_has_a_path_of_its_own():
    first = make_job("flaky", run_s=20, state="failed")
    again = make_retry(first, made_s=600, run_s=20)
    again["name"] = "again"
    assert shares_of([first, again]) == {"flaky": (True, 23, 0), "again": (True, 22.08, 0)}
    assert root_of([first, again]) == (40, 5.28, 577)


def test_parallel_jobs_and_groups_have_the_share_and_the_least_slack_of_their_jobs():
    same = {"step": {"id": "s"}, "step_key": "t", "group_key": "g", "parallel_group_total": 2}
    jobs = [make_job(f"t {n}", run_s=10 + n, parallel_group_index=n, **same) for n in (0, 1)]
    spans = make_trace(make_build([*jobs, make_job("lint", run_s=1, group_key="h")])).spans
    found = {
        span.step.identity: span.path
        for span in spans
        if span.kind in {SpanKind.STEP, SpanKind.GROUP} and span.step
    }
    assert found["s"] == found["g"] == PathShare(0, critical=True, ms=14_000)
    assert found["h"] == PathShare(10_000, critical=False, ms=0)


def test_trigger_that_waits_counts_as_running_and_an_async_one_is_short():
    waits = make_trigger("deploy", runnable_s=13.1, run_s=300)
    assert root_of([make_job(), waits]) == (310, 3.4, 0)
    asynchronous = make_trigger("deploy", runnable_s=13.1, run_s=0) | {"async": True}
    assert shares_of([make_job(), asynchronous, make_job("b", runnable_s=13.5, run_s=5)])["b"][0]
    assert root_of([make_job(), asynchronous]) == (10, 3.4, 0)


def test_trigger_does_not_upload():
    jobs = [
        make_job("upload", run_s=10),
        make_trigger("deploy", runnable_s=0.5, run_s=8),
        make_job("test", created_s=5, runnable_s=5, run_s=60),
    ]
    assert shares_of(jobs)["upload"][0]


@pytest.mark.parametrize("fields", [{"soft_failed": True}, {}])
def test_failures_are_on_the_path_like_other_jobs(fields):
    jobs = [make_job("a", state="failed", **fields), make_job("b", runnable_s=13.1)]
    assert shares_of(jobs)["a"] == (True, 13, 0)


def test_block_step_between_stages_has_the_pause():
    jobs = [make_job("a"), make_block(unblocked_s=60), make_job("b", runnable_s=61)]
    assert shares_of(jobs) == {"a": (True, 13, 0), "Release?": (True, 47, 0), "b": (True, 13, 0)}
    assert root_of(jobs) == (20, 6.2, 47)


def test_block_steps_share_a_pause_in_the_order_in_which_they_were_unblocked():
    blocks = [make_block("One?", unblocked_s=300), make_block("Two?", unblocked_s=100)]
    jobs = [make_job("a"), *blocks, make_job("b", runnable_s=301)]
    found = shares_of(jobs)
    assert (found["Two?"], found["One?"]) == ((True, 87, 0), (True, 200, 0))
    assert root_of(jobs)[2] == 287


def test_block_step_unblocked_while_others_ran_is_on_the_path_of_the_job_that_it_released():
    jobs = [
        make_job("a"),
        make_block(unblocked_s=60),
        make_job("b", runnable_s=60.1, run_s=100),
        make_job("slow", run_s=120),
    ]
    assert shares_of(jobs) == {
        "a": (True, 13, 0),
        "Release?": (True, 47, 0),
        "b": (True, 102.1, 0),
        "slow": (False, 0, pytest.approx(39.1)),
    }
    assert root_of(jobs)[2] == 47


def test_job_that_never_started_is_a_wait():
    expired = make_job("b", runnable_s=13.1, run_s=None, state="expired", expired_at=at(900))
    assert shares_of([make_job("a"), expired]) == {"a": (True, 13, 0), "b": (True, 887, 0)}
    assert root_of([make_job("a"), expired]) == (10, 890.2, 0)


def test_job_canceled_before_it_could_run_is_not_on_the_path():
    gone = make_job("b", runnable_s=None, run_s=None, state="canceled", finished_at=at(12))
    assert shares_of([make_job("a"), gone]) == {"a": (True, 13, 0), "b": (False, 0, None)}


def test_canceled_build_has_the_path_to_the_last_job_that_was_canceled():
    jobs = [make_job("a", run_s=5, state="canceled"), make_job("b", run_s=6, state="canceled")]
    assert shares_of(jobs, state="canceled") == {"a": (False, 0, 1), "b": (True, 9, 0)}


def test_build_without_jobs_only_waited():
    assert root_of([], finished_at=at(5)) == (0, 5, 0)


def test_job_without_runnable_at_follows_what_ended_before_its_start():
    late = make_job("b", runnable_s=20) | {"runnable_at": None}
    assert shares_of([make_job("a"), late])["b"] == (True, 19, 0)


@pytest.mark.parametrize("early_s", [0.001, 0.9])
def test_job_may_seem_runnable_a_second_before_its_predecessor_ended(early_s):
    jobs = [
        make_job("short", run_s=1),
        make_job("a", run_s=50),
        make_job("b", runnable_s=53 - early_s),
    ]
    assert shares_of(jobs)["a"][0]
    assert not shares_of(jobs)["short"][0]


def test_wait_spans_are_on_the_path_of_their_jobs():
    jobs = [make_job("a", wait_s=7), make_job("b", wait_s=2, run_s=3)]
    spans = make_trace(make_build(jobs), waits=True).spans
    waits = [span.path for span in spans if span.kind is SpanKind.WAIT]
    assert waits == [
        PathShare(None, critical=True, ms=7_000),
        PathShare(None, critical=False, ms=0),
    ]


def test_setting_and_privacy_leave_the_columns_out():
    options = SpanOptions(critical_path=False)
    off = make_trace(make_build(), critical_path=False)
    assert off.path is None
    assert not any(span.path for span in off.spans)
    assert fields_left_out(options) == CRITICAL_PATH
    dropped = Privacy(drop=("bk_pipeline.critical_path*", "bk_pipeline.slack_ms"))
    for table in (
        table_of([off], without=CRITICAL_PATH),
        dropped.apply(table_of([make_trace(make_build())])),
    ):
        assert not any(CRITICAL_PATH.intersection(row["attributes"]) for row in rows(table))


# Whole seconds that are two apart: clocks never seem to disagree.
SCHEDULES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(0, 8)), min_size=1, max_size=9
)


def scheduled(schedule: list[tuple[int, int, int]]) -> tuple[list[TimedJob], int]:
    """Return jobs with a `ready`, a wait, and a run of twice so many seconds; and the last end."""
    jobs = []
    for n, (ready, wait, run) in enumerate(schedule):
        runnable = 2 * ready * NS_PER_S
        start = runnable + 2 * wait * NS_PER_S
        end = start + 2 * run * NS_PER_S
        jobs.append(
            TimedJob(
                Job(id=f"job {n}"),
                None,
                has_span=True,
                start_ns=start,
                end_ns=end,
                runnable_ns=runnable,
                active_ns=runnable,
            )
        )
    end_ns = max(job.end_ns for job in jobs)
    set_path_shares(Stage(1, 0, end_ns), jobs, origin_ns=0)
    return jobs, end_ns


def end_if(jobs: list[TimedJob], changed: TimedJob, by_ns: int) -> int:
    """Return the end of the schedule if a job had ended later or earlier.

    A job depends on all that had ended when it became ready, and is ready as long after the last
    of them as it was.
    """
    ends: dict[int, int] = {}
    for job in sorted(jobs, key=lambda one: one.runnable_ns or 0):
        ready = job.runnable_ns or 0
        awaited = [one for one in jobs if one.end_ns <= ready and (one.runnable_ns or 0) < ready]
        lag = ready - max((one.end_ns for one in awaited), default=0)
        now_ready = lag + max((ends[id(one)] for one in awaited), default=0)
        length = job.end_ns - ready + (by_ns if job is changed else 0)
        ends[id(job)] = now_ready + max(length, 0)
    return max(ends.values())


@PATIENT
@given(SCHEDULES)
def test_job_may_end_later_by_its_slack_and_no_more(schedule):
    jobs, end = scheduled(schedule)
    for job in jobs:
        assert job.path is not None
        assert job.path.slack_ms is not None
        slack_ns = job.path.slack_ms * NS_PER_MS
        assert end_if(jobs, job, slack_ns) == end
        assert end_if(jobs, job, slack_ns + 1) == end + 1
        if job.path.critical:
            assert slack_ns == 0


@PATIENT
@given(SCHEDULES, st.integers(1, 30))
def test_shortening_a_job_off_the_path_does_not_shorten_the_build(schedule, seconds):
    jobs, end = scheduled(schedule)
    for job in jobs:
        assert job.path is not None
        if not job.path.critical:
            assert end_if(jobs, job, -seconds * NS_PER_S) == end


@PATIENT
@given(SCHEDULES)
def test_shares_of_a_schedule_add_up(schedule):
    jobs, end = scheduled(schedule)
    assert sum(job.path.ms for job in jobs if job.path) * NS_PER_MS == end


@PATIENT
@given(timelines())
def test_shares_of_a_build_add_up(timeline):
    trace = make_trace(timeline.payload())
    assert_whole(trace)
    jobs = sum(span.path.ms for span in trace.spans if span.kind is SpanKind.JOB and span.path)
    assert trace.path is not None
    total = trace.path.run_ms + trace.path.wait_ms + trace.path.blocked_ms
    # Not part of any job: the time after the last one, and pauses that a retry ended.
    assert jobs <= total


@pytest.mark.parametrize("overlapping", [False, True])
def test_large_builds_take_time_in_proportion(overlapping):
    """40,000 jobs; comparing each with each would take more than 1,000,000,000 steps."""
    jobs = [
        TimedJob(
            Job(id=f"job {n}"),
            n * NS_PER_MS + 1,
            has_span=True,
            start_ns=n * NS_PER_MS,
            end_ns=(80_000 if overlapping else n + 2) * NS_PER_MS + n,
            runnable_ns=n * NS_PER_MS,
            active_ns=n * NS_PER_MS,
        )
        for n in range(40_000)
    ]
    began = time.process_time()
    set_path_shares(Stage(1, 0, jobs[-1].end_ns), jobs, origin_ns=0)
    assert time.process_time() - began < MAX_CPU_S

"""Stages: told from the payload alone, and never told otherwise by a later payload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.spans.model import Span, SpanKind, Stage, Trace
from bk_pipeline_tests.builders import (
    DAY_S,
    at,
    make_block,
    make_build,
    make_job,
    make_retry,
    make_trace,
    ns_at,
    uid,
)
from bk_pipeline_tests.spans.timelines import Timeline, timelines
from bk_pipeline_tests.spans.wholeness import PATIENT


def what_is_settled(span: Span) -> tuple:
    """What of a span that was sent may not be told otherwise later."""
    return (
        span.kind,
        span.parent_id,
        span.stage.number if span.stage else None,
        span.start_ns,
        span.end_ns,
    )


def stage_of_jobs(trace: Trace) -> dict[str, int]:
    return {
        span.job.id: span.stage.number
        for span in trace.spans
        if span.kind is SpanKind.JOB and span.job and span.stage
    }


@PATIENT
@given(timelines())
def test_each_job_is_in_the_stage_where_it_ran(timeline: Timeline):
    trace = make_trace(timeline.payload())
    assert stage_of_jobs(trace) == {timeline.job_id(one): one.stage for one in timeline.lives}


@PATIENT
@given(timelines(), st.data())
def test_a_later_payload_says_the_same_of_what_had_ended(timeline: Timeline, data):
    pause = data.draw(st.sampled_from(timeline.pauses))
    until = pause.until or pause.finished + 1_000
    moment = data.draw(st.integers(pause.finished, until - 1))
    earlier = make_trace(timeline.payload(moment), waits=True)
    later = make_trace(timeline.payload(), waits=True)
    settled = {span.span_id: what_is_settled(span) for span in later.spans[1:]}
    assert earlier.trace_id == later.trace_id
    assert earlier.spans[0].span_id == later.spans[0].span_id
    assert earlier.spans[0].start_ns == later.spans[0].start_ns
    for span in earlier.spans[1:]:
        assert settled[span.span_id] == what_is_settled(span)


def stages_of(jobs: list, **fields) -> list[Stage]:
    spans = make_trace(make_build(jobs, **fields)).spans
    return [span.stage for span in spans if span.kind is SpanKind.STAGE and span.stage]


def periods(jobs: list, **fields) -> list[tuple[float, float]]:
    return [
        ((stage.start_ns - ns_at(0)) / 1e9, (stage.end_ns - ns_at(0)) / 1e9)
        for stage in stages_of(jobs, **fields)
    ]


def gates_of(jobs: list) -> list[tuple[int, float, float, bool]]:
    """Stage, start, end and adjusted of each block step's span."""
    return [
        (
            span.stage.number,
            (span.start_ns - ns_at(0)) / 1e9,
            (span.end_ns - ns_at(0)) / 1e9,
            span.adjusted,
        )
        for span in make_trace(make_build(jobs)).spans
        if span.job and span.job.type == "manual" and span.stage
    ]


@pytest.mark.parametrize("pause_s", [0.001, 1, 3_600, 9 * DAY_S])
def test_a_stage_begins_with_an_unblocking_after_any_pause(pause_s):
    jobs = [
        make_job("a"),
        make_block(unblocked_s=13 + pause_s),
        make_job("b", runnable_s=14 + pause_s),
    ]
    assert periods(jobs) == [(0.0, 13.0), (13 + pause_s, 26 + pause_s)]
    assert gates_of(jobs) == [(1, 13.0, 13 + pause_s, False)]


def test_a_stage_begins_with_a_manual_retry_and_not_with_an_automatic_one():
    for kind, count in (("manual", 2), ("automatic", 1)):
        first = make_job(state="failed")
        assert len(stages_of([first, make_retry(first, made_s=999, kind=kind)])) == count


def test_waiting_for_an_agent_is_no_pause():
    jobs = [
        make_job("a", wait_s=0),
        make_block(unblocked_s=50),
        make_job("b", runnable_s=2, wait_s=DAY_S),
    ]
    assert len(stages_of(jobs)) == 1


def test_a_long_time_without_anything_is_no_new_stage_if_nobody_resumed_the_build():
    assert periods([make_job("a"), make_job("b", runnable_s=DAY_S)]) == [(0.0, DAY_S + 12)]


def test_an_unblocking_that_nothing_followed_opens_no_stage():
    assert periods([make_job("a"), make_block(unblocked_s=999)]) == [(0.0, 13.0)]


def test_gates_in_a_row_wait_one_after_another():
    gates = [make_block("One?", unblocked_s=100), make_block("Two?", unblocked_s=300)]
    jobs = [make_job("a"), *gates, make_job("b", runnable_s=301)]
    assert gates_of(jobs) == [(1, 13.0, 100.0, False), (1, 100.0, 300.0, False)]
    assert [start for start, _ in periods(jobs)] == [0.0, 300.0]


def test_gates_side_by_side_both_wait_since_the_stage_before():
    gates = [make_block("One?", unblocked_s=300), make_block("Two?", unblocked_s=100)]
    assert gates_of([make_job("a"), *gates]) == [(1, 13.0, 300.0, False), (1, 13.0, 100.0, False)]


def test_a_gate_that_was_passed_while_others_ran_has_waited_for_what_stands_before_it():
    jobs = [make_job("a"), make_block(unblocked_s=60), make_job("slow", run_s=600)]
    assert gates_of(jobs) == [(1, 13.0, 60.0, True)]


def test_a_build_that_begins_with_a_gate_has_an_empty_first_stage():
    jobs = [make_block(unblocked_s=DAY_S), make_job(runnable_s=DAY_S + 1)]
    assert periods(jobs) == [(0.0, 0.0), (DAY_S, DAY_S + 13)]
    assert gates_of(jobs) == [(1, 0.0, DAY_S, False)]
    still_blocked = [make_block(), make_job(runnable_s=None, state="waiting")]
    assert periods(still_blocked, finished_at=at(0.3), blocked=True) == [(0.0, 0.0)]


def test_a_build_without_jobs_is_one_stage():
    assert periods([], finished_at=at(4)) == [(0.0, 4.0)]


def test_a_build_that_was_canceled_before_anything_could_run_is_one_stage():
    jobs = [make_job(state="canceled", runnable_s=None, finished_at=at(30))]
    assert periods(jobs, state="canceled") == [(0.0, 30.0)]


def test_a_cancellation_during_a_pause_makes_the_stage_before_no_longer():
    jobs = [
        make_job("a"),
        make_block(),
        make_job("b", runnable_s=None, state="canceled", finished_at=at(DAY_S)),
    ]
    assert periods(jobs, state="canceled") == [(0.0, 13.0)]


def test_old_payloads_say_only_in_the_old_attempt_who_followed():
    old = make_job(state="failed", retried_in_job_id=uid("job new"))
    new = make_job("new", step_key="test", created_s=900, runnable_s=901)
    assert [start for start, _ in periods([old, new])] == [0.0, 900.0]


def test_whole_seconds_before_an_unblocking_belong_to_what_follows_it():
    later = make_job("b", runnable_s=60, wait_s=0, run_s=10.5)
    jobs = [make_job("a"), make_block(unblocked_s=60.4), later]
    assert periods(jobs) == [(0.0, 13.0), (60.4, 70.5)]
    assert gates_of(jobs) == [(1, 13.0, 60.4, False)]


def test_a_stage_has_the_state_to_which_the_build_had_come():
    test = make_job("test", state="failed")
    again = make_retry(test, made_s=100, state="canceled")
    last = make_retry(again, made_s=200)
    lint = make_job("lint", state="failed")
    lint_again = make_retry(lint, made_s=300)
    states = [stage.state for stage in stages_of([test, again, last, lint, lint_again])]
    assert states == ["failed", "failed", "failed", "passed"]
    states = [stage.state for stage in stages_of([test, again, last])]
    assert states == ["failed", "canceled", "passed"]


def test_a_stage_that_ended_at_a_gate_says_so():
    jobs = [make_job("a"), make_block(unblocked_s=60), make_job("b", runnable_s=61)]
    assert [stage.blocked_state for stage in stages_of(jobs)] == ["passed", None]
    fields = {"blocked": True, "blocked_state": "failed"}
    assert [stage.blocked_state for stage in stages_of(jobs, **fields)] == ["passed", "failed"]
    assert stages_of(jobs[:1], blocked=True, blocked_state=None)[0].blocked_state == "passed"

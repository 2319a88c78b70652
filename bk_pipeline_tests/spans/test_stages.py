"""Stages follow from the payload alone, and later payloads do not change them."""

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


def immutable_parts(span: Span) -> tuple:
    """Return the parts of a span that must not change once it was sent."""
    return (
        span.kind,
        span.parent_id,
        span.stage.number if span.stage else None,
        span.start_ns,
        span.end_ns,
        span.path,
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
def test_a_later_payload_does_not_change_spans_that_had_ended(timeline: Timeline, data):
    pause = data.draw(st.sampled_from(timeline.pauses))
    until = pause.until or pause.finished + 1_000
    moment = data.draw(st.integers(pause.finished, until - 1))
    earlier = make_trace(timeline.payload(moment), waits=True)
    later = make_trace(timeline.payload(), waits=True)
    settled = {span.span_id: immutable_parts(span) for span in later.spans[1:]}
    assert earlier.trace_id == later.trace_id
    assert earlier.spans[0].span_id == later.spans[0].span_id
    assert earlier.spans[0].start_ns == later.spans[0].start_ns
    for span in earlier.spans[1:]:
        assert settled[span.span_id] == immutable_parts(span)


def stages_of(jobs: list, **fields) -> list[Stage]:
    spans = make_trace(make_build(jobs, **fields)).spans
    return [span.stage for span in spans if span.kind is SpanKind.STAGE and span.stage]


def periods(jobs: list, **fields) -> list[tuple[float, float]]:
    return [
        ((stage.start_ns - ns_at(0)) / 1e9, (stage.end_ns - ns_at(0)) / 1e9)
        for stage in stages_of(jobs, **fields)
    ]


def block_spans_of(jobs: list) -> list[tuple[int, float, float, bool]]:
    """Return stage, start, end and `adjusted` of each block step's span."""
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
def test_unblocking_after_a_pause_starts_a_stage(pause_s):
    jobs = [
        make_job("a"),
        make_block(unblocked_s=13 + pause_s),
        make_job("b", runnable_s=14 + pause_s),
    ]
    assert periods(jobs) == [(0.0, 13.0), (13 + pause_s, 26 + pause_s)]
    assert block_spans_of(jobs) == [(1, 13.0, 13 + pause_s, False)]


def test_a_manual_retry_starts_a_stage_and_an_automatic_one_does_not():
    for kind, count in (("manual", 2), ("automatic", 1)):
        first = make_job(state="failed")
        assert len(stages_of([first, make_retry(first, made_s=999, kind=kind)])) == count


def test_waiting_for_an_agent_is_not_a_pause():
    jobs = [
        make_job("a", wait_s=0),
        make_block(unblocked_s=50),
        make_job("b", runnable_s=2, wait_s=DAY_S),
    ]
    assert len(stages_of(jobs)) == 1


def test_a_long_idle_time_does_not_start_a_stage_unless_the_build_was_resumed():
    assert periods([make_job("a"), make_job("b", runnable_s=DAY_S)]) == [(0.0, DAY_S + 12)]


def test_unblocking_without_further_jobs_starts_no_stage():
    assert periods([make_job("a"), make_block(unblocked_s=999)]) == [(0.0, 13.0)]


def test_consecutive_block_steps_wait_one_after_another():
    block_steps = [make_block("One?", unblocked_s=100), make_block("Two?", unblocked_s=300)]
    jobs = [make_job("a"), *block_steps, make_job("b", runnable_s=301)]
    assert block_spans_of(jobs) == [(1, 13.0, 100.0, False), (1, 100.0, 300.0, False)]
    assert [start for start, _ in periods(jobs)] == [0.0, 300.0]


def test_parallel_block_steps_both_wait_from_the_end_of_the_stage():
    block_steps = [make_block("One?", unblocked_s=300), make_block("Two?", unblocked_s=100)]
    assert block_spans_of([make_job("a"), *block_steps]) == [
        (1, 13.0, 300.0, False),
        (1, 13.0, 100.0, False),
    ]


def test_a_block_step_unblocked_while_jobs_ran_starts_after_the_job_before_it():
    jobs = [make_job("a"), make_block(unblocked_s=60), make_job("slow", run_s=600)]
    assert block_spans_of(jobs) == [(1, 13.0, 60.0, True)]


def test_a_build_that_starts_with_a_block_step_has_an_empty_first_stage():
    jobs = [make_block(unblocked_s=DAY_S), make_job(runnable_s=DAY_S + 1)]
    assert periods(jobs) == [(0.0, 0.0), (DAY_S, DAY_S + 13)]
    assert block_spans_of(jobs) == [(1, 0.0, DAY_S, False)]
    still_blocked = [make_block(), make_job(runnable_s=None, state="waiting")]
    assert periods(still_blocked, finished_at=at(0.3), blocked=True) == [(0.0, 0.0)]


def test_a_build_without_jobs_is_one_stage():
    assert periods([], finished_at=at(4)) == [(0.0, 4.0)]


def test_a_build_that_was_canceled_before_anything_could_run_is_one_stage():
    jobs = [make_job(state="canceled", runnable_s=None, finished_at=at(30))]
    assert periods(jobs, state="canceled") == [(0.0, 30.0)]


def test_a_cancellation_during_a_pause_does_not_extend_the_stage():
    jobs = [
        make_job("a"),
        make_block(),
        make_job("b", runnable_s=None, state="canceled", finished_at=at(DAY_S)),
    ]
    assert periods(jobs, state="canceled") == [(0.0, 13.0)]


def test_a_retry_named_only_by_the_earlier_attempt_starts_a_stage():
    old = make_job(state="failed", retried_in_job_id=uid("job new"))
    new = make_job("new", step_key="test", created_s=900, runnable_s=901)
    assert [start for start, _ in periods([old, new])] == [0.0, 900.0]


def test_times_rounded_down_to_the_second_of_an_unblocking_belong_to_the_next_stage():
    later = make_job("b", runnable_s=60, wait_s=0, run_s=10.5)
    jobs = [make_job("a"), make_block(unblocked_s=60.4), later]
    assert periods(jobs) == [(0.0, 13.0), (60.4, 70.5)]
    assert block_spans_of(jobs) == [(1, 13.0, 60.4, False)]


def test_a_stage_has_the_state_of_the_build_at_its_end():
    test = make_job("test", state="failed")
    again = make_retry(test, made_s=100, state="canceled")
    last = make_retry(again, made_s=200)
    lint = make_job("lint", state="failed")
    lint_again = make_retry(lint, made_s=300)
    states = [stage.state for stage in stages_of([test, again, last, lint, lint_again])]
    assert states == ["failed", "failed", "failed", "passed"]
    states = [stage.state for stage in stages_of([test, again, last])]
    assert states == ["failed", "canceled", "passed"]


def test_a_stage_that_ended_at_a_block_step_has_a_blocked_state():
    jobs = [make_job("a"), make_block(unblocked_s=60), make_job("b", runnable_s=61)]
    assert [stage.blocked_state for stage in stages_of(jobs)] == ["passed", None]
    fields = {"blocked": True, "blocked_state": "failed"}
    assert [stage.blocked_state for stage in stages_of(jobs, **fields)] == ["passed", "failed"]
    assert stages_of(jobs[:1], blocked=True, blocked_state=None)[0].blocked_state == "passed"

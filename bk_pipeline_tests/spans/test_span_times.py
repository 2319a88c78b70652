"""Start and end of spans, also with missing or impossible times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.spans.model import SpanKind
from bk_pipeline_tests.builders import (
    DAY_S,
    at,
    make_block,
    make_build,
    make_job,
    make_trace,
    make_trigger,
    ns_at,
    uid,
)
from bk_pipeline_tests.spans.found import only, seconds, spans_of
from bk_pipeline_tests.spans.wholeness import PATIENT


@PATIENT
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_job_times_are_exact_to_the_millisecond(runnable, wait, run):
    job = only(
        make_build([make_job(runnable_s=runnable / 1000, wait_s=wait / 1000, run_s=run / 1000)])
    )
    assert job.start_ns == ns_at((runnable + wait) / 1000)
    assert job.end_ns - job.start_ns == run * 1_000_000
    assert job.wait_ms == wait
    assert not job.adjusted


def test_a_build_starts_with_its_first_job_and_ends_with_its_last():
    jobs = [make_job("a", created_s=-0.105), make_job("b", runnable_s=1, run_s=170)]
    root = only(make_build(jobs, finished_at=at(30)), SpanKind.BUILD)
    assert seconds(root) == (-0.105, 173.0)
    assert not root.adjusted


def test_a_build_starts_with_a_job_that_has_not_ended():
    jobs = [make_job("a"), make_job("b", created_s=-0.105, runnable_s=None, state="waiting")]
    assert seconds(only(make_build(jobs), SpanKind.BUILD))[0] == -0.105


@pytest.mark.parametrize(
    "times",
    [
        {"finished_at": "2199-01-01T00:00:00.000Z"},
        {"finished_at": "9999-12-31T00:00:00.000Z"},
        {"finished_at": at(14 + 601)},
        {"started_at": "1970-01-01T00:00:00.000Z"},
        {"started_at": "0001-01-01T00:00:00.000Z"},
        {"started_at": at(-601)},
    ],
    ids=str,
)
def test_a_job_far_outside_its_build_is_clamped_and_marked(times):
    payload = make_build([make_job("a"), make_job("b", **times)], finished_at=at(14))
    root = only(payload, SpanKind.BUILD)
    assert seconds(root) == (0.0, 14.0)
    good, bad = sorted(spans_of(payload, SpanKind.JOB), key=lambda span: span.adjusted)
    assert (good.adjusted, bad.adjusted) == (False, True)


@pytest.mark.parametrize("s", [-599, -0.1])
def test_a_job_created_shortly_before_the_build_extends_it(s):
    assert seconds(only(make_build([make_job(created_s=s)]), SpanKind.BUILD))[0] == s


@pytest.mark.parametrize("s", [-601, -DAY_S])
def test_a_job_created_long_before_the_build_does_not_extend_it(s):
    assert seconds(only(make_build([make_job(created_s=s)]), SpanKind.BUILD))[0] == 0.0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"finished_at": at(1)}, (3.0, 3.0)),
        ({"finished_at": None, "state": "failed"}, (3.0, 3.0)),
        ({"started_at": None}, (1.0, 13.0)),
        ({"started_at": None, "runnable_at": None}, (0.0, 13.0)),
        ({"started_at": None, "runnable_at": None, "created_at": None}, (13.0, 13.0)),
        ({"finished_at": None, "expired_at": at(9)}, (3.0, 9.0)),
    ],
    ids=["reversed", "no end", "no start", "only created", "only finished", "expired_at"],
)
def test_missing_and_reversed_times_are_filled_in(fields, expected):
    job = only(make_build([make_job(**fields)], finished_at=at(20)))
    assert seconds(job) == expected
    assert job.adjusted == ("expired_at" not in fields)


def test_a_build_that_ended_before_it_started_is_marked():
    root = only(make_build([], finished_at=at(-5)), SpanKind.BUILD)
    assert seconds(root) == (0.0, 0.0)
    assert root.adjusted


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "expired", "run_s": None, "finished_at": at(7201)}, (1.0, 7201.0)),
        ({"state": "expired", "run_s": None, "expired_at": at(7201)}, (1.0, 7201.0)),
        ({"state": "canceled", "run_s": None, "finished_at": at(30)}, (1.0, 30.0)),
        ({"state": "canceled", "runnable_s": None, "finished_at": at(30)}, (0.0, 30.0)),
        ({"state": "timed_out", "run_s": None, "finished_at": at(30)}, (1.0, 30.0)),
        ({"state": "canceled", "run_s": None, "finished_at": at(1)}, (1.0, 1.0)),
    ],
    ids=["expired", "expired_at", "canceled", "before its turn", "timed out waiting", "at once"],
)
def test_a_job_that_never_started_spans_its_wait(fields, expected):
    job = only(make_build([make_job(**fields)]))
    assert seconds(job) == expected
    assert not job.started
    assert not job.adjusted
    assert job.wait_ms is None


def test_a_trigger_job_without_a_start_counts_as_started():
    job = only(
        make_build([make_trigger(triggered={"id": uid("x")}, state="failed", started_at=None)])
    )
    assert job.started
    assert not job.adjusted


def test_a_step_starts_with_its_earliest_wait():
    jobs = [
        make_job("a", step_key="s", runnable_s=4),
        make_job("b", step_key="s", runnable_s=3, wait_s=9),
    ]
    assert seconds(only(make_build(jobs), SpanKind.STEP)) == (3.0, 22.0)


def test_queue_and_run_times_are_on_the_build():
    trace = make_trace(
        make_build([make_job("a"), make_block(unblocked_s=500), make_job("b", runnable_s=501)])
    )
    assert trace.queue_ms == 3_000
    assert trace.run_ms == 13_000 + 13_000
    assert make_trace(make_build([])).queue_ms is None

"""Status and `error.type` of spans."""

from __future__ import annotations

import pytest

from bk_pipeline.spans.model import SpanKind
from bk_pipeline_tests.builders import make_build, make_job, make_retry
from bk_pipeline_tests.spans.found import only, spans_of


@pytest.mark.parametrize(
    ("fields", "status", "error_type"),
    [
        ({"state": "passed"}, "ok", None),
        ({"state": "failed"}, "error", "failed"),
        ({"state": "failed", "soft_failed": True}, "unset", None),
        ({"state": "failed", "exit_status": -1}, "error", "agent_lost"),
        (
            {"state": "failed", "exit_status": -1, "signal_reason": "agent_stop"},
            "error",
            "agent_lost",
        ),
        (
            {"state": "failed", "exit_status": 255, "signal_reason": "agent_stop"},
            "error",
            "agent_lost",
        ),
        ({"state": "failed", "exit_status": -1, "soft_failed": True}, "unset", None),
        (
            {"state": "failed", "exit_status": -1, "signal_reason": "agent_refused"},
            "error",
            "failed",
        ),
        ({"state": "failed", "signal": "SIGKILL", "exit_status": 137}, "error", "failed"),
        ({"state": "timed_out", "exit_status": -1}, "error", "timed_out"),
        ({"state": "expired"}, "error", "expired"),
        ({"state": "canceled", "exit_status": -1}, "unset", None),
        ({"state": "finished", "exit_status": 0}, "ok", None),
        ({"state": "finished", "exit_status": 2}, "error", "failed"),
        ({"state": "finished", "exit_status": None}, "unset", None),
        ({"state": None}, "unset", None),
    ],
    ids=str,
)
def test_a_job_has_status_error_if_it_failed_hard(fields, status, error_type):
    job = only(make_build([make_job(**fields)]))
    assert (job.status, job.error_type) == (status, error_type)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["passed", "passed"], "ok"),
        (["passed", "failed"], "error"),
        (["passed", "canceled"], "unset"),
        (["canceled", "timed_out"], "error"),
    ],
    ids=str,
)
def test_steps_and_groups_have_the_combined_status_of_their_jobs(states, status):
    jobs = [
        make_job(f"j{n}", step_key="s", group_key="g", state=state)
        for n, state in enumerate(states)
    ]
    payload = make_build(jobs)
    assert only(payload, SpanKind.STEP).status == status
    assert only(payload, SpanKind.GROUP).status == status


def test_a_failure_retried_in_its_stage_does_not_fail_the_step():
    first = make_job(state="failed")
    payload = make_build([first, make_retry(first, made_s=14, kind="automatic")])
    assert only(payload, SpanKind.STEP).status == "ok"
    assert [job.status for job in spans_of(payload, SpanKind.JOB)] == ["error", "ok"]


def test_a_failure_retried_in_a_later_stage_fails_the_step_of_its_stage():
    first = make_job(state="failed")
    payload = make_build([first, make_retry(first, made_s=999)])
    assert [step.status for step in spans_of(payload, SpanKind.STEP)] == ["error", "ok"]
    assert [stage.state for stage in spans_of(payload, SpanKind.STAGE)] == ["failed", "passed"]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("passed", "ok"),
        ("failed", "error"),
        ("canceled", "unset"),
        ("not_run", "unset"),
        (None, "unset"),
    ],
)
def test_a_build_has_status_error_if_it_failed(state, status):
    root = only(make_build([make_job()], state=state), SpanKind.BUILD)
    assert (root.status, root.error_type) == (status, "failed" if status == "error" else None)

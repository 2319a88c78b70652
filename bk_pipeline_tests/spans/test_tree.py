"""The span tree of a build: which spans exist, their parents and their links."""

from __future__ import annotations

import msgspec
import pytest

from bk_pipeline.spans.ids import root_span_id, trace_id
from bk_pipeline.spans.model import Link, SpanKind
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline_tests.builders import (
    at,
    make_block,
    make_build,
    make_job,
    make_retry,
    make_trace,
    make_trigger,
    make_waiter,
    uid,
)
from bk_pipeline_tests.spans.found import only, seconds, spans_of
from bk_pipeline_tests.spans.wholeness import assert_whole


@pytest.mark.parametrize("finished", [None, ""])
def test_an_unfinished_build_has_no_trace(finished):
    payload = make_build(state="running", finished_at=finished)
    assert spans_for_build(decode_build(msgspec.json.encode(payload))) is None


@pytest.mark.parametrize(
    "job",
    [
        make_waiter(),
        make_job(state="broken", runnable_s=None),
        make_job(state="skipped", runnable_s=None),
        make_job(state="broken", finished_at=at(3)),
        make_job(state="waiting", finished_at=None, runnable_s=None),
        make_job(state="waiting", finished_at=at(3)),
        make_job(state="waiting_failed", runnable_s=None),
        make_job(state="waiting_failed", finished_at=at(3), started_at=None),
        make_job(state="running", finished_at=None),
        make_block(),
        make_block(state="broken", unblocked_s=4),
    ],
    ids=lambda job: f"{job['type']} {job.get('state')}",
)
def test_jobs_that_never_ran_or_have_not_ended_have_no_span(job):
    trace = make_trace(make_build([job], finished_at=at(10)))
    assert_whole(trace)
    assert [span.kind for span in trace.spans] == [SpanKind.BUILD, SpanKind.STAGE]


def test_a_jobs_ancestors_are_its_step_group_and_stage():
    trace = make_trace(make_build([make_job(group_key="checks")]))
    by_id = {span.span_id: span for span in trace.spans}
    path = [trace.spans[-1]]
    while path[-1].parent_id:
        path.append(by_id[path[-1].parent_id])
    assert [span.kind.name for span in path] == ["JOB", "STEP", "GROUP", "STAGE", "BUILD"]


def test_one_group_key_is_one_group_in_each_stage():
    first = make_job("lint", group_key="checks", state="failed")
    again = make_retry(first, made_s=600)
    payload = make_build([first, again, make_job("types", group_key="checks")])
    groups = spans_of(payload, SpanKind.GROUP)
    assert [group.stage.number for group in groups if group.stage] == [1, 2]


def test_parallel_and_matrix_jobs_and_automatic_attempts_are_one_step():
    first = make_job("a", step_key="unit", state="failed")
    jobs = [first, make_retry(first, made_s=14, kind="automatic"), make_job("b", step_key="unit")]
    step = only(make_build(jobs), SpanKind.STEP)
    assert seconds(step) == (1.0, 26.08)


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"step": {"id": uid("s")}, "step_key": None}, 1),
        ({"step": None, "step_key": "unit"}, 1),
        ({"step": {"key": "unit"}, "step_key": None}, 1),
        ({"step": None, "step_key": None, "name": "unit", "parallel_group_total": 2}, 1),
        ({"step": None, "step_key": None, "name": "unit"}, 2),
    ],
    ids=["id", "key", "key in step", "name of parallel jobs", "nothing in common"],
)
def test_a_step_is_identified_by_its_id_key_or_first_attempt(fields, count):
    jobs = [make_job(name) | fields for name in ("a", "b")]
    assert len(spans_of(make_build(jobs), SpanKind.STEP)) == count


def test_a_step_whose_jobs_have_different_labels_is_labeled_by_its_key():
    jobs = [make_job(f"unit {n}", step_key="unit") for n in (1, 2)]
    step = only(make_build(jobs), SpanKind.STEP)
    assert step.step
    assert step.step.label == "unit"


def test_wait_spans_are_created_if_enabled():
    payload = make_build(
        [
            make_job("a", wait_s=5),
            make_job("b", wait_s=0),
            make_job("c", run_s=None, state="expired", finished_at=at(99)),
        ]
    )
    assert spans_of(payload, SpanKind.WAIT) == []
    (wait,) = spans_of(payload, SpanKind.WAIT, waits=True)
    assert seconds(wait) == (1.0, 6.0)
    assert wait.wait_ms == 5_000
    assert wait.parent_id == make_trace(payload).spans[2].span_id


def test_a_retry_links_to_the_attempt_it_retries():
    first = make_job(state="failed")
    payload = make_build([first, make_retry(first, made_s=14, kind="automatic")])
    old, new = spans_of(payload, SpanKind.JOB)
    assert old.links == ()
    assert new.links == (Link(make_trace(payload).trace_id, old.span_id),)


def test_a_trigger_job_links_to_the_root_of_the_triggered_build():
    other = uid("other")
    job = only(make_build([make_trigger(triggered={"id": other, "number": 5})]))
    assert job.links == (Link(trace_id(other), root_span_id(other)),)


@pytest.mark.parametrize(
    "fields",
    [{"triggered_from": {"build_id": uid("o")}}, {"rebuilt_from": {"id": uid("o")}}],
    ids=str,
)
def test_a_build_links_to_the_build_it_came_from(fields):
    root = only(make_build(**fields), SpanKind.BUILD)
    assert root.links == (Link(trace_id(uid("o")), root_span_id(uid("o"))),)


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text", [TRACEPARENT, f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-what-comes-later"]
)
def test_a_build_links_to_the_span_of_its_traceparent(text):
    env = {"SECRET": "never-exported", "TRACEPARENT": text}
    assert only(make_build(env=env), SpanKind.BUILD).links == (Link(TRACE, SPAN),)


@pytest.mark.parametrize(
    "env",
    [
        None,
        {},
        [],
        "TRACEPARENT",
        7,
        ["TRACEPARENT"],
        {"TRACEPARENT": None},
        {"TRACEPARENT": 7},
        {"TRACEPARENT": {"TRACEPARENT": TRACEPARENT}},
        {"TRACEPARENT": ""},
        {"TRACEPARENT": TRACEPARENT.upper()},
        {"TRACEPARENT": f"{TRACEPARENT}\n"},
        {"TRACEPARENT": f"{TRACEPARENT}-more"},
        {"TRACEPARENT": f"ff-{TRACE}-{SPAN}-01"},
        {"TRACEPARENT": f"00-{'0' * 32}-{SPAN}-01"},
        {"TRACEPARENT": f"00-{TRACE}-{'0' * 16}-01"},
        {"TRACEPARENT": f"00-{TRACE[1:]}-{SPAN}-01"},
        {"TRACEPARENT": f"00-{TRACE}-{SPAN}-1"},
        {"MY_TRACEPARENT": TRACEPARENT},
    ],
    ids=str,
)
def test_an_invalid_traceparent_is_ignored(env):
    assert only(make_build(env=env), SpanKind.BUILD).links == ()


def test_a_traceparent_of_the_builds_own_trace_is_no_link():
    own = f"00-{trace_id(make_build()['id'])}-{SPAN}-01"
    assert only(make_build(env={"TRACEPARENT": own}), SpanKind.BUILD).links == ()


def test_a_build_links_to_the_same_span_once():
    other = uid("o")
    env = {"TRACEPARENT": f"00-{trace_id(other)}-{root_span_id(other)}-01"}
    build = make_build(rebuilt_from={"id": other}, triggered_from={"build_id": other}, env=env)
    root = only(build, SpanKind.BUILD)
    assert root.links == (Link(trace_id(other), root_span_id(other)),)


def test_links_can_be_turned_off():
    first = make_job(state="failed")
    jobs = [first, make_retry(first, made_s=14), make_trigger(triggered={"id": uid("x")})]
    build = make_build(jobs, rebuilt_from={"id": uid("o")}, env={"TRACEPARENT": TRACEPARENT})
    trace = make_trace(build, links=False)
    assert {span.links for span in trace.spans} == {()}

"""Ids are stable: users compute the same ones in their jobs."""

from __future__ import annotations

import subprocess
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.spans.ids import SpanIds, derived_span_id, root_span_id, trace_id, uuid_span_id
from bk_pipeline_tests.builders import make_build, make_job, make_trace
from bk_pipeline_tests.spans.wholeness import PATIENT

BUILD = "01908131-7d9f-495e-a17b-80ed31276810"
JOB = "01908132-2f1c-4c0a-9a3e-5b7d0c4e8f21"
TRACEPARENT = "00-019081317d9f495ea17b80ed31276810-9a3e5b7d0c4e8f21-01"
NIL = "00000000-0000-0000-0000-000000000000"


def test_known_uuids_give_known_ids():
    assert trace_id(BUILD) == "019081317d9f495ea17b80ed31276810"
    assert root_span_id(BUILD) == "a17b80ed31276810"
    assert uuid_span_id("buildkite.job", JOB) == "9a3e5b7d0c4e8f21"
    assert f"00-{trace_id(BUILD)}-{uuid_span_id('buildkite.job', JOB)}-01" == TRACEPARENT


def test_a_line_of_shell_gives_the_same_ids():
    script = """
        job=${BUILDKITE_JOB_ID//-/}
        echo "00-${BUILDKITE_BUILD_ID//-/}-${job: -16}-01"
    """
    environment = {"BUILDKITE_BUILD_ID": BUILD, "BUILDKITE_JOB_ID": JOB}
    printed = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == TRACEPARENT


def test_spans_of_a_build_have_the_documented_ids():
    trace = make_trace(make_build([make_job(id=JOB)], id=BUILD))
    (job,) = [span for span in trace.spans if span.job]
    assert f"00-{trace.trace_id}-{job.span_id}-01" == TRACEPARENT
    assert trace.spans[0].span_id == "a17b80ed31276810"


def test_derived_ids_are_the_hash_of_kind_trace_and_parts():
    digits = sha256(b"buildkite.build.stage\x00019081317d9f495ea17b80ed31276810\x001").hexdigest()
    assert digits[:16] == "4dcfbb6330074fbe"
    job = make_job(id=JOB, group_key="checks", step={"id": "093f1cf6-38cd-5101-9b33-0ae4ba65f560"})
    trace = make_trace(make_build([job], id=BUILD), waits=True)
    assert {span.kind: span.span_id for span in trace.spans} == {
        "buildkite.build": "a17b80ed31276810",
        "buildkite.build.stage": "4dcfbb6330074fbe",
        "buildkite.step.group": "61958b47c373a564",
        "buildkite.step": "d1f17589fd88860b",
        "buildkite.job.wait": "add6906c302987b6",
        "buildkite.job": "9a3e5b7d0c4e8f21",
    }


def test_case_does_not_matter_in_a_uuid():
    assert trace_id(BUILD.upper()) == trace_id(BUILD)
    assert uuid_span_id("buildkite.job", JOB.upper()) == uuid_span_id("buildkite.job", JOB)


def test_the_separator_keeps_parts_distinct():
    assert derived_span_id("kind", "12", "3") != derived_span_id("kind", "1", "23")


@pytest.mark.parametrize("odd", ["build-1", "", NIL, BUILD + "0", "0" * 36, "ü"])
def test_an_id_that_is_not_a_uuid_is_hashed(odd):
    assert len(trace_id(odd)) == 32
    assert trace_id(odd) == trace_id(odd) != "0" * 32
    assert uuid_span_id("buildkite.job", odd) != uuid_span_id("buildkite.build", odd)


@PATIENT
@given(st.lists(st.uuids().map(str), unique=True, max_size=20))
def test_different_jobs_have_different_ids(jobs):
    ids = SpanIds(BUILD, dict.fromkeys(jobs, 0))
    given_out = [ids.root, *map(ids.job, jobs), *(ids.derived("step", job) for job in jobs)]
    assert len(set(given_out)) == len(given_out)


def test_a_derived_id_never_equals_a_jobs_id():
    stage = derived_span_id("buildkite.build.stage", trace_id(BUILD), "1")
    job = f"01908132-2f1c-4c0a-{stage[:4]}-{stage[4:]}"
    ids = SpanIds(BUILD, {job: 0})
    assert ids.job(job) == stage
    assert ids.derived("buildkite.build.stage", "1") != stage


def test_a_job_outside_the_payload_has_its_usual_id():
    assert SpanIds(BUILD, {}).job(JOB) == "9a3e5b7d0c4e8f21"

"""Invalid payloads give a consistent trace or a RecordError."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.records import decode_build
from bk_pipeline_tests.builders import make_build, make_job, make_retry, make_spans, make_trace, uid
from bk_pipeline_tests.spans.hostile import CHANGES, PLACES, TIMES, everything, put
from bk_pipeline_tests.spans.wholeness import PATIENT, assert_whole, assert_whole_or_refused


@PATIENT
@given(CHANGES)
def test_a_damaged_payload_gives_a_consistent_trace_or_a_record_error(changes):
    payload = everything()
    for path, value, gone in changes:
        put(payload, path, value, gone=gone)
    assert_whole_or_refused(json.dumps(payload).encode())


@PATIENT
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted({p[-1] for p in PLACES if str(p[-1]).endswith("_at")})),
            st.integers(0, 9),
            TIMES,
        ),
        max_size=20,
    )
)
def test_arbitrary_times_give_a_consistent_trace_or_a_record_error(changes):
    payload = everything()
    for name, job, time in changes:
        payload["jobs"][job][name] = time
        if name in {"created_at", "finished_at"} and job == 0:
            payload[name] = time
    assert_whole_or_refused(json.dumps(payload).encode())


@PATIENT
@given(st.binary(max_size=8), st.integers(0, 10_000), st.integers(0, 8))
def test_damaged_bytes_give_a_consistent_trace_or_a_record_error(junk, place, cut):
    text = json.dumps(everything(), ensure_ascii=False).encode()
    place %= len(text)
    assert_whole_or_refused(text[:place] + junk + text[place + cut :])


@PATIENT
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"), st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")
        ),
        max_size=12,
    )
)
def test_retries_may_form_cycles(triples):
    jobs = [
        make_job(
            name,
            runnable_s=n,
            step=None,
            step_key=None,
            retry_source={"job_id": uid(f"job {old}"), "retry_type": "manual"},
            retried_in_job_id=uid(f"job {new}"),
        )
        for n, (name, old, new) in enumerate(triples)
    ]
    assert_whole(make_trace(make_build(jobs)))


def test_four_thousand_jobs_have_four_thousand_spans():
    jobs = [make_job(f"j{n}", runnable_s=n, step_key="one") for n in range(4_000)]
    trace = make_trace(make_build(jobs))
    assert_whole(trace)
    assert sum(span.kind == "buildkite.job" for span in trace.spans) == 4_000


def test_four_thousand_attempts_at_one_job_are_one_step():
    jobs = [make_job("a", step=None, step_key=None)]
    for n in range(1, 4_000):
        jobs.append(make_retry(jobs[-1], made_s=20 * n, kind="automatic"))
    trace = make_trace(make_build(jobs))
    assert_whole(trace)
    assert sum(span.kind == "buildkite.step" for span in trace.spans) == 1


def test_the_last_of_several_jobs_with_one_id_wins():
    jobs = [make_job("a", run_s=1), make_job("a", run_s=5)]
    trace = make_trace(make_build(jobs))
    assert [one.end_ns - one.start_ns for one in trace.spans if one.job] == [5_000_000_000]


def test_the_earlier_of_two_jobs_with_colliding_ids_keeps_the_id():
    tail = uid("job a")[8:]
    early, late = make_job("a"), make_job("b", id="ffffffff" + tail, runnable_s=50)
    for jobs in ([early, late], [late, early]):
        trace = make_trace(make_build(jobs))
        assert_whole(trace)
        ids = {span.job.id: span.span_id for span in trace.spans if span.job}
        assert ids[early["id"]] == tail[11:15] + tail[16:]
        assert ids[late["id"]] != ids[early["id"]]


def test_the_build_keeps_its_id_if_a_job_has_the_same_digits():
    root = make_build()["id"]
    trace = make_trace(make_build([make_job("a", id="ffffffff" + root[8:])]))
    assert_whole(trace)
    assert trace.spans[0].span_id == uuid.UUID(root).hex[16:]


def test_a_long_command_is_truncated_and_marked():
    (job,) = [
        span
        for span in make_spans(make_build([make_job(command="é" * 500_000)]))
        if span["name"] == "buildkite.job"
    ]
    command = job["attributes"]["buildkite.job.command"]
    assert len(command.encode()) <= 65_535
    assert command.endswith("é… [cut]")


@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
def test_deep_nesting_is_accepted_or_a_record_error(depth):
    deep = "[" * depth + "]" * depth
    for place in ("env", "meta_data", "matrix"):
        text = json.dumps(everything()).replace('"DEEP"', deep)
        payload = everything()
        if place == "matrix":
            payload["jobs"][0]["matrix"] = {"a": "DEEP"}
        else:
            payload[place] = {"a": "DEEP"}
        text = json.dumps(payload).replace('"DEEP"', deep)
        assert_whole_or_refused(text.encode())


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("number",), "seven", "$.number"),
        (("number",), 2**63, "$.number"),
        (("number",), 7.5, "$.number"),
        (("created_at",), None, "$.created_at"),
        (("created_at",), "soon", "$.created_at"),
        (("finished_at",), "soon", "$.finished_at"),
        (("jobs", 1, "id"), 5, "$.jobs[1].id"),
        (("jobs", 2, "finished_at"), "soon", "$.jobs[2].finished_at"),
        (("jobs", 2, "exit_status"), 1.5, "$.jobs[2].exit_status"),
        (("jobs", 7, "unblocked_at"), "x", "$.jobs[7].unblocked_at"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_record_error_has_the_build_id_and_the_path(path, value, where):
    payload = everything()
    put(payload, path, value)
    with pytest.raises(RecordError) as caught:
        make_trace(payload)
    assert caught.value.record_id == payload["id"]
    assert where in caught.value.reason
    assert "soon" not in str(caught.value)


def test_a_payload_that_is_not_an_object_is_a_record_error():
    for payload in (b"", b"[]", b"null", b'"x"', b"{}", b'{"id": 7}', b"\xff\xfe"):
        with pytest.raises(RecordError):
            decode_build(payload)

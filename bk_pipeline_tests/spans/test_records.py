"""Decoding of payloads."""

from __future__ import annotations

import json

import msgspec
import pytest

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.records import Build, Person, decode_build, never_runs
from bk_pipeline_tests.builders import make_agent, make_build, make_job, make_spans, make_waiter


def decoded(**fields) -> Build:
    return decode_build(json.dumps(make_build(**fields)).encode())


def test_unknown_fields_are_ignored():
    build = decoded(jobs=[make_job(brand_new={"a": [1]})], something_else=[None])
    assert build.number == 7


def test_env_is_never_read():
    assert "never-exported" not in repr(msgspec.to_builtins(decoded()))


def test_a_null_object_equals_an_empty_one():
    def spans(nothing):
        fields = ("creator", "pull_request", "rebuilt_from", "triggered_from")
        job = make_job(agent=nothing, step=nothing, priority=nothing, retry_source=nothing)
        return make_spans(
            make_build([job], author=None, pipeline=None, **dict.fromkeys(fields, nothing))
        )

    assert spans(None) == spans({})


def test_jobs_with_the_same_agent_share_one_object():
    jobs = [make_job(name, agent=make_agent(host)) for name, host in zip("abc", "xyx", strict=True)]
    one, other, again = decoded(jobs=jobs).jobs
    assert one.agent is again.agent
    assert (one.agent.name, other.agent.name) == ("x", "y")
    assert one.agent_query_rules is other.agent_query_rules


def test_a_waiter_needs_only_id_and_type():
    (waiter,) = decoded(jobs=[make_waiter()]).jobs
    assert (waiter.type, waiter.state) == ("waiter", None)


def test_a_build_without_jobs_has_none():
    assert decoded(jobs=[]).jobs == []
    assert decode_build(json.dumps(make_build() | {"jobs": None}).encode()).jobs == []


@pytest.mark.parametrize(
    ("author", "name", "email"),
    [
        ("Tomas Reyes", "Tomas Reyes", None),
        ("tomas@acme.example", None, "tomas@acme.example"),
        ({"name": "T", "email": "t@x"}, "T", "t@x"),
        (None, None, None),
    ],
)
def test_an_author_may_be_a_string(author, name, email):
    found = decoded(author=author).author or Person()
    assert (found.name, found.email) == (name, email)


def test_values_of_maps_become_strings():
    build = decoded(meta_data={"a": "1", "b": 2, "c": [True, None], "d": 10**30})
    assert build.meta_data == {"a": "1", "b": "2", "c": "[true,null]", "d": str(10**30)}


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (rb"cut \ud83d", "cut \ufffd"),
        (rb"\udc00 alone", "\ufffd alone"),
        (rb"\ud83d\ud83d\ude00", "\ufffd😀"),
        (rb"\uD800\u0041", "\ufffdA"),
        (rb"\\ud83d is a text", r"\ud83d is a text"),
        (rb"\\\ud83d", "\\\ufffd"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (rb"\u0000", "\0"),
    ],
)
def test_invalid_characters_are_replaced_and_the_build_is_kept(sent, read):
    payload = json.dumps(make_build(message="MESSAGE")).encode().replace(b"MESSAGE", sent)
    assert decode_build(payload).message == read


@pytest.mark.parametrize("sent", [rb"cut \ud83d", b"cut \xff"])
def test_invalid_characters_are_replaced_in_shared_objects(sent):
    payload = json.dumps(make_build([make_job(agent=make_agent("NAME"))])).encode()
    (job,) = decode_build(payload.replace(b"NAME", sent)).jobs
    assert job.agent.name == "cut \ufffd"


def test_a_raw_value_of_a_page_can_be_decoded():
    page = json.dumps([make_build(), make_build()]).encode()
    assert [decode_build(one).number for one in msgspec.json.decode(page, type=list[msgspec.Raw])]


def test_a_record_error_has_the_path_and_not_the_value():
    with pytest.raises(RecordError) as caught:
        decoded(jobs=[make_job(), make_job(command=["s3cret"])])
    assert caught.value.record_id == make_build()["id"]
    assert caught.value.reason == "Expected `str | null`, got `array` - at `$.jobs[1].command`"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"agent": {"name": 5}}, "agent.name"),
        ({"agent_query_rules": [5]}, "agent_query_rules[0]"),
    ],
    ids=["agent", "rules"],
)
def test_a_record_error_has_the_path_inside_shared_objects(fields, where):
    with pytest.raises(RecordError) as caught:
        decoded(jobs=[make_job(), make_job(**fields)])
    assert caught.value.reason.endswith(f", got `int` - at `{where}` - at `$.jobs[1]`")


def test_a_truncated_payload_is_a_record_error():
    payload = json.dumps(make_build()).encode()
    with pytest.raises(RecordError):
        decode_build(payload[:-1])


@pytest.mark.parametrize("state", ["skipped", "not_run", "running"])
@pytest.mark.parametrize("message", [rb'"ok"', rb'"\ud83d"', b'"\xff"', b'"a\nb"'])
def test_skipped_build_is_known_as_such_even_if_its_payload_had_to_be_repaired(state, message):
    payload = json.dumps(make_build(state=state, finished_at=None, message="@")).encode()
    assert never_runs(payload.replace(b'"@"', message)) == (state != "running")

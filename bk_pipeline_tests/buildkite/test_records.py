from __future__ import annotations

import json

import pytest

from bk_pipeline.buildkite.records import read_build
from bk_pipeline.errors import RecordError
from bk_pipeline_tests.buildkite.listed import build


def read(**fields):
    return read_build(json.dumps({**build(7), **fields}).encode())


def test_keys_are_read_and_the_payload_is_unchanged():
    payload = b'{ "number":7,"id":"a", "created_at":"2026-11-19T00:00:00.5Z",\n"x":1e2,"pipeline":{"slug":"web","y":[]} }'

    record = read_build(payload)

    assert record.payload == payload
    assert (record.id, record.number, record.pipeline) == ("a", 7, "web")
    assert (record.state, record.blocked, record.finished_ns) == ("unknown", False, None)
    assert record.created_ns == 1_795_046_400_500_000_000


def test_finished_build_has_its_finish_time():
    record = read(state="failed", blocked=True)
    assert record.finished_ns - record.created_ns == 60_000_000_000
    assert (record.state, record.blocked) == ("failed", True)


@pytest.mark.parametrize("pipeline", [None, "absent"])
def test_pipeline_is_taken_from_the_url_if_the_object_is_missing(pipeline):
    whole = {**build(7, pipeline="web"), "pipeline": None}
    if pipeline == "absent":
        del whole["pipeline"]
    assert read_build(json.dumps(whole).encode()).pipeline == "web"


UNUSABLE = {
    "id absent": ({"id": None}, "$.id"),
    "id empty": ({"id": ""}, "$.id"),
    "number is text": ({"number": "7"}, "$.number"),
    "number is zero": ({"number": 0}, "$.number"),
    "number beyond 64 bits": ({"number": 2**63}, "$.number"),
    "number is true": ({"number": True}, "$.number"),
    "created_at null": ({"created_at": None}, "$.created_at"),
    "created_at no time": ({"created_at": "s3cret payload"}, "$.created_at"),
    "finished_at no time": ({"finished_at": "s3cret payload"}, "$.finished_at"),
    "no pipeline at all": ({"pipeline": None, "url": "https://x/y"}, "pipeline.slug"),
    "url malformed": ({"pipeline": None, "url": "http://[x/pipelines/w/builds/1"}, "pipeline.slug"),
    "slug empty": ({"pipeline": {"slug": ""}}, "$.pipeline.slug"),
}


@pytest.mark.parametrize(("fields", "path"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_build_is_a_record_error_with_the_path(fields, path):
    with pytest.raises(RecordError) as caught:
        read(**fields)

    assert path in caught.value.reason
    assert caught.value.record_id == (build(7)["id"] if fields.get("id", "x") else fields["id"])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("payload", [b"1", b"null", b'"x"', b"[]", b"{}"])
def test_payload_that_is_not_a_build_is_a_record_error_without_an_id(payload):
    with pytest.raises(RecordError, match="record without an id"):
        read_build(payload)


def test_repr_does_not_show_the_payload():
    assert "s3cret" not in repr(read(env={"KEY": "s3cret"}))

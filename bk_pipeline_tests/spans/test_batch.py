"""Many payloads at once give the same traces as one after another."""

from __future__ import annotations

import json

import pytest

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.model import Trace
from bk_pipeline.spans.table import table_of, traces_of
from bk_pipeline_tests.builders import make_build, make_job, make_trace, uid
from bk_pipeline_tests.spans.test_fields import PAYLOADS


def text(**fields) -> bytes:
    return json.dumps(make_build(**fields)).encode()


def test_each_payload_gives_a_trace_an_error_or_none_in_order():
    bad_time = make_job(runnable_at="soon")
    payloads = [
        text(id=uid("a")),
        text(finished_at=None),
        text(id=uid("b"), jobs=[bad_time]),
        b"{}",
        text(id=uid("c")),
    ]
    first, unfinished, wrong, refused, last = traces_of(payloads)
    assert isinstance(first, Trace)
    assert isinstance(last, Trace)
    assert (first.build.id, last.build.id) == (uid("a"), uid("c"))
    assert unfinished is None
    assert isinstance(wrong, RecordError)
    assert wrong.record_id == uid("b")
    assert "$.jobs[0].runnable_at" in wrong.reason
    assert isinstance(refused, RecordError)


@pytest.mark.parametrize("odd", ["2015-04-23 16:55:52 UTC", "soon"])
def test_an_unusual_time_in_one_build_does_not_affect_others(odd):
    texts = [path.read_bytes() for path in PAYLOADS]
    plain = [make_trace(one) for one in texts]
    found = [*traces_of([*texts, text(jobs=[make_job(created_at=odd)])])]
    assert table_of(found[:-1]).equals(table_of(plain))

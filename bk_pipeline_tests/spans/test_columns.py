"""A column holds what each span's own objects say, however many are read as one."""

from __future__ import annotations

import json
from operator import attrgetter

from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.fields import FIELDS, FieldType
from bk_pipeline.spans.model import Trace
from bk_pipeline.spans.table import SCHEMA, table_of, traces_of
from bk_pipeline.text import truncate
from bk_pipeline_tests.builders import make_trace, uid
from bk_pipeline_tests.spans.hostile import CHANGES, everything, put
from bk_pipeline_tests.spans.test_fields import PAYLOADS
from bk_pipeline_tests.spans.wholeness import PATIENT


def plain_value(field, trace, span):
    """The field's value on one span: what `Columns` gives, without anything shared."""
    if span.kind not in field.kinds:
        return None
    owner = span
    for name in field.owner.split("."):
        if name == "trace":
            owner = trace
        elif name == "build":
            owner = trace.build
        elif name != "span" and owner is not None:
            owner = getattr(owner, name)
    value = None if owner is None else field.getter(owner)
    return truncate(value) if field.type in {FieldType.STRING, FieldType.JSON} and value else value


def assert_plain(traces):
    table = table_of(traces)
    assert table.schema == SCHEMA
    spans = [(trace, span) for trace in traces for span in trace.spans]
    for field in FIELDS:
        wanted = [plain_value(field, trace, span) for trace, span in spans]
        assert table[field.name].to_pylist() == wanted, field.name
    for name, attribute in {"name": "kind", "status": "status", "span_id": "span_id"}.items():
        wanted = list(map(attrgetter(attribute), (span for _, span in spans)))
        assert table[name].to_pylist() == wanted


def test_recorded_builds_have_their_own_values_beside_each_other():
    assert_plain([make_trace(path.read_bytes()) for path in PAYLOADS])


def test_wait_spans_have_the_values_of_their_jobs():
    assert_plain([make_trace(path.read_bytes(), waits=True) for path in PAYLOADS])


@PATIENT
@given(st.lists(CHANGES, min_size=2, max_size=4))
def test_builds_that_differ_in_little_keep_their_differences(variants):
    payloads = []
    for number, changes in enumerate(variants):
        payload = everything()
        payload["id"] = uid(f"build {number}")
        for path, value, gone in changes:
            put(payload, path, value, gone=gone)
        payloads.append(json.dumps(payload).encode())
    found = list(traces_of(payloads))
    assert all(one is None or isinstance(one, Trace | RecordError) for one in found)
    assert_plain([one for one in found if isinstance(one, Trace)])

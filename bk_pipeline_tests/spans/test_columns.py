"""A column holds the values of each span's own objects, although equal ones are read once."""

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


def expected_value(field, trace, span):
    """Return the field's value on one span, read from the span's own objects."""
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


def assert_expected_columns(traces):
    table = table_of(traces)
    assert table.schema == SCHEMA
    spans = [(trace, span) for trace in traces for span in trace.spans]
    for field in FIELDS:
        expected = [expected_value(field, trace, span) for trace, span in spans]
        assert table[field.name].to_pylist() == expected, field.name
    for name, attribute in {"name": "kind", "status": "status", "span_id": "span_id"}.items():
        expected = list(map(attrgetter(attribute), (span for _, span in spans)))
        assert table[name].to_pylist() == expected


def test_columns_of_several_builds_hold_each_builds_values():
    assert_expected_columns([make_trace(path.read_bytes()) for path in PAYLOADS])


def test_wait_spans_have_the_values_of_their_jobs():
    assert_expected_columns([make_trace(path.read_bytes(), waits=True) for path in PAYLOADS])


@PATIENT
@given(st.lists(CHANGES, min_size=2, max_size=4))
def test_values_of_nearly_identical_builds_are_not_mixed_up(variants):
    payloads = []
    for number, changes in enumerate(variants):
        payload = everything()
        payload["id"] = uid(f"build {number}")
        for path, value, gone in changes:
            put(payload, path, value, gone=gone)
        payloads.append(json.dumps(payload).encode())
    found = list(traces_of(payloads))
    assert all(one is None or isinstance(one, Trace | RecordError) for one in found)
    assert_expected_columns([one for one in found if isinstance(one, Trace)])

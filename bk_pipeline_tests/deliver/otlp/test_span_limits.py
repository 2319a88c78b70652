"""The specification's limits of attributes and links: nothing that is sent exceeds them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.otlp import plain
from bk_pipeline.deliver.otlp.endpoint import BATCH_SPANS, Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.shape import body_of
from bk_pipeline.deliver.otlp.span_limits import within_limits
from bk_pipeline.deliver.otlp.variables import SpanLimits
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import ConfigError
from bk_pipeline_tests.deliver.honeycomb.odd_tables import tables as odd_tables
from bk_pipeline_tests.deliver.tables import payload, table
from bk_pipeline_tests.worlds import span_table

ENDPOINT = "http://127.0.0.1:4318"
SERVICE = {"service.name": "buildkite"}


def connected(**variables: str) -> Otlp:
    variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = ENDPOINT
    found = OtlpSettings.from_environment(variables)
    assert found is not None
    return Otlp(found, clock=SystemClock())


def sent(one: pa.Table, **variables: str) -> dict[bytes, Span]:
    """The spans that a destination with these variables would send, by span id."""
    body = body_of(connected(**variables).encode(SpanRows.from_table(one)))
    request = ExportTraceServiceRequest.FromString(body)
    return {
        span.span_id: span
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def values(span: Span) -> dict[str, Any]:
    """The string values of a span's attributes, lists included."""
    return {
        pair.key: [one.string_value for one in pair.value.array_value.values]
        if pair.value.HasField("array_value")
        else pair.value.string_value
        for pair in span.attributes
        if pair.value.HasField("array_value") or pair.value.HasField("string_value")
    }


def test_without_limits_rows_stay_as_they_are():
    rows = SpanRows.from_table(table(payload()))
    assert within_limits(rows, SpanLimits()) is rows


@pytest.mark.parametrize(
    "variable", ["OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"]
)
def test_string_values_are_truncated_also_in_lists_and_meta_data(variable):
    one = span_table(seed=2, builds=40)
    before, after = sent(one), sent(one, **{variable: "7"})

    assert before.keys() == after.keys()
    for span_id, span in after.items():
        whole = values(before[span_id])
        assert values(span) == {
            key: [one[:7] for one in value] if isinstance(value, list) else value[:7]
            for key, value in whole.items()
        }
        others = [pair for pair in span.attributes if pair.key not in whole]
        assert others == [pair for pair in before[span_id].attributes if pair.key not in whole]


@pytest.mark.parametrize("limit", [0, 1, 12, 10_000])
def test_surplus_attributes_are_dropped_keys_of_maps_first(limit):
    meta_data = {f"key {number}": "x" for number in range(20)}
    one = table(payload(meta_data=meta_data))
    before, after = sent(one), sent(one, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=str(limit))

    for span_id, span in after.items():
        whole = {pair.key: pair for pair in before[span_id].attributes}
        assert len(span.attributes) == min(limit, len(whole))
        assert all(whole[pair.key] == pair for pair in span.attributes)
        kept = {pair.key for pair in span.attributes}
        if any(".meta_data." in key for key in kept):
            assert {key for key in whole if ".meta_data." not in key} <= kept


def test_surplus_links_are_dropped():
    one = span_table(seed=3, builds=150)
    before, after = sent(one), sent(one, OTEL_SPAN_LINK_COUNT_LIMIT="0")

    assert any(span.links for span in before.values())
    assert not any(span.links for span in after.values())
    assert before.keys() == after.keys()


def test_resource_attributes_are_exempt():
    variables = {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1", "OTEL_ATTRIBUTE_COUNT_LIMIT": "1"}
    one = table(payload())
    body = body_of(connected(**variables).encode(SpanRows.from_table(one)))
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    found = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert found["service.name"] == "buildkite"
    assert found["buildkite.organization.slug"] == "acme"


@settings(max_examples=40, deadline=None)
@given(
    one=odd_tables(),
    length=st.none() | st.integers(0, 5),
    attributes=st.none() | st.integers(0, 40),
    links=st.none() | st.integers(0, 2),
)
def test_odd_rows_stay_within_the_limits_and_both_encoders_agree(one, length, attributes, links):
    limits = SpanLimits(value_length=length, attributes=attributes, links=links)
    rows = within_limits(SpanRows.from_table(one), limits)

    for row in plain.raw_rows(rows.table):
        span = plain.span(row)
        assert attributes is None or len(span.attributes) <= attributes
        assert links is None or len(span.links) <= links
        for value in values(span).values():
            texts = value if isinstance(value, list) else [value]
            assert length is None or all(len(text) <= length for text in texts)
    fast = ExportTraceServiceRequest.FromString(body_of(connected().encode(rows)))
    slow = plain.request(plain.raw_rows(rows.table), SERVICE)
    assert spans_by_id(fast) == spans_by_id(slow)


def spans_by_id(request: ExportTraceServiceRequest) -> dict[bytes, Any]:
    """Spans by id, each with its attributes by key: their order is not promised."""
    found = {}
    for resource in request.resource_spans:
        for span in resource.scope_spans[0].spans:
            attributes = sorted((pair.key, pair.SerializeToString()) for pair in span.attributes)
            del span.attributes[:]
            found[span.span_id] = attributes, span
    return found


def test_the_batch_size_is_lowered_and_never_raised():
    assert connected().limits.batch_items == BATCH_SPANS
    assert connected(OTEL_BSP_MAX_EXPORT_BATCH_SIZE="512").limits.batch_items == 512
    assert connected(OTEL_BSP_MAX_EXPORT_BATCH_SIZE="99999").limits.batch_items == BATCH_SPANS


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "many"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "1.5"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "١٢"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
    ],
)
def test_malformed_limit_is_refused_by_name(variable, value):
    with pytest.raises(ConfigError, match=f"^{variable} is malformed: expected a whole number"):
        connected(**{variable: value})

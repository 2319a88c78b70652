"""Trimming of OTLP spans to the limits."""

from __future__ import annotations

import json

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bk_pipeline.deliver.encoding import TRIMMED
from bk_pipeline.deliver.honeycomb import codec as honeycomb
from bk_pipeline.deliver.honeycomb.shape import EVENT_COLUMNS, Shape
from bk_pipeline.deliver.otlp import codec
from bk_pipeline.deliver.otlp.shape import BUILT_IN_COLUMNS, body_of, fitted
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.text import TRUNCATION_MARK
from bk_pipeline_tests.deliver.otlp import husky
from bk_pipeline_tests.deliver.tables import payload, table


def span(**attributes):
    return Span(
        span_id=b"12345678",
        attributes=[KeyValue(key=key, value=value(one)) for key, one in attributes.items()],
    )


def value(one):
    if isinstance(one, list):
        return AnyValue(array_value=ArrayValue(values=map(value, one)))
    return AnyValue(int_value=one) if isinstance(one, int) else AnyValue(string_value=one)


def strings(trimmed):
    return {pair.key: pair.value.string_value for pair in trimmed.attributes}


def test_longest_strings_are_truncated_and_others_are_not():
    trimmed = fitted(span(long="x" * 5_000, longer="y" * 6_000, short="z" * 50), limit_bytes=3_000)

    found = strings(trimmed)
    assert found["short"] == "z" * 50
    assert found["long"].endswith(TRUNCATION_MARK)
    assert found["longer"].endswith(TRUNCATION_MARK)
    assert 2_000 < trimmed.ByteSize() <= 3_000


def test_trimmed_span_is_marked():
    trimmed = fitted(span(long="x" * 5_000), limit_bytes=3_000)

    assert {pair.key: pair.value.bool_value for pair in trimmed.attributes}[TRIMMED]


def test_strings_in_lists_are_truncated():
    trimmed = fitted(span(listed=["x" * 5_000, "y"]), limit_bytes=1_000)

    first, second = trimmed.attributes[0].value.array_value.values
    assert first.string_value.endswith(TRUNCATION_MARK)
    assert second.string_value == "y"


def test_map_keys_are_dropped_last_first_if_no_string_can_be_truncated():
    many = {f"buildkite.build.meta_data.{n}": n for n in range(1_000)}

    trimmed = fitted(span(**{"buildkite.build.number": 7}, **many), limit_bytes=5_000)

    keys = [pair.key for pair in trimmed.attributes]
    assert keys[0] == "buildkite.build.number"
    assert keys[1:-1] == list(many)[: len(keys) - 2]
    assert keys[-1] == TRIMMED
    assert 4_500 < trimmed.ByteSize() <= 5_000


@pytest.mark.parametrize("limit_bytes", [500, 1_000, 4_000])
def test_trimmed_span_fits_with_any_characters(limit_bytes):
    trimmed = fitted(
        span(a="é🚀" * 2_000, b='"\\\n' * 2_000, c="\x00" * 2_000), limit_bytes=limit_bytes
    )

    assert trimmed.ByteSize() <= limit_bytes


META = "buildkite.build.meta_data."


def with_many_keys(count, **more):
    return table(payload(1, meta_data={f"key-{n:04}": "v" for n in range(count)}, **more))


def columns_by_otlp(spans, **common):
    """The columns of each span as Honeycomb's translator makes them, by span id."""
    body = body_of(codec.items(SpanRows.from_table(spans), {"service.name": "ci", **common}))
    events = husky.events(ExportTraceServiceRequest.FromString(body))
    return {event["data"]["trace.span_id"]: set(event["data"]) for event in events}


@pytest.mark.parametrize("count", [1_900, 1_950, 2_300, 5_000])
def test_too_many_keys_are_trimmed_like_honeycomb_events(count):
    spans = with_many_keys(count)

    events = [
        json.loads(item.body)["data"]
        for item in honeycomb.items(SpanRows.from_table(spans), Shape("ci"))
    ]
    found = columns_by_otlp(spans)

    assert found == {data["trace.span_id"]: set(data) for data in events}
    assert max(map(len, found.values())) <= EVENT_COLUMNS
    assert any(TRIMMED in names for names in found.values()) == (count > 1_950)
    trimmed = [item for item in codec.items(SpanRows.from_table(spans), {}) if item.trimmed]
    assert len(trimmed) == sum(TRIMMED in names for names in found.values())


def test_resource_attributes_count_as_columns():
    common = {f"team.attribute.{n}": "v" for n in range(300)}

    found = columns_by_otlp(with_many_keys(1_800), **common)

    assert max(map(len, found.values())) == EVENT_COLUMNS
    assert all(set(common) <= names for names in found.values())


def test_keys_of_the_last_map_are_dropped_first():
    many = {f"buildkite.agent.meta_data.{n}": n for n in range(10)}
    one = span(**many, **{f"{META}{n}": n for n in range(10)})

    trimmed = fitted(one, limit_columns=BUILT_IN_COLUMNS + 11)

    keys = [pair.key for pair in trimmed.attributes]
    assert keys == [*[f"{META}{n}" for n in range(10)], TRIMMED]

"""The hand-written wire format compared with the official classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bk_pipeline.deliver.otlp.codec import attribute
from bk_pipeline.deliver.otlp.plain import key_value
from bk_pipeline.deliver.otlp.shape import varint
from bk_pipeline.text import TRUNCATION_MARK, VALUE_LIMIT_BYTES
from bk_pipeline_tests.deliver.honeycomb.odd_tables import numbers, texts

scalars = st.one_of(
    texts, numbers, st.booleans(), st.none(), st.integers(-(2**70), 2**70), st.floats()
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
lengths = st.integers(0, 40_000).map(lambda count: "é" * count)


def decoded(encoded: bytes) -> KeyValue:
    (found,) = Span.FromString(encoded).attributes
    return found


@given(texts, st.one_of(values, lengths, st.sampled_from([2**63 - 1, -(2**63), 127, 128, 16_384])))
def test_attribute_has_the_bytes_of_the_official_classes(key, value):
    expected = Span(attributes=[key_value(key, value)]).SerializeToString()

    assert attribute(b"\x4a", key, value) == expected


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_integer_over_64_bits_becomes_a_double(number):
    assert decoded(attribute(b"\x4a", "key", number)).value == AnyValue(double_value=float(number))


def test_boolean_is_not_encoded_as_a_number():
    found = [decoded(attribute(b"\x4a", "key", one)).value for one in (True, 1, False, 0)]

    assert [one.WhichOneof("value") for one in found] == ["bool_value", "int_value"] * 2


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (16_384, b"\x80\x80\x01"),
    ],
)
def test_varint_has_seven_bits_per_byte_lowest_first(number, encoded):
    assert varint(number) == encoded


def test_string_is_truncated_with_a_mark():
    kept = decoded(attribute(b"\x4a", "key", "é" * 40_000)).value.string_value

    assert kept.endswith(TRUNCATION_MARK)
    assert VALUE_LIMIT_BYTES - 2 < len(kept.encode()) <= VALUE_LIMIT_BYTES

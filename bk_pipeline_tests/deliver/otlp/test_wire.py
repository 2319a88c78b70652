"""The wire format by hand against the official classes."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from bk_pipeline.deliver.otlp.fragments import varints
from bk_pipeline.deliver.otlp.plain import _any_value as official
from bk_pipeline.deliver.otlp.wire import (
    any_value,
    attribute,
    int_head,
    int_value,
    text_head,
    varint,
)
from bk_pipeline.spans.text import CUT_MARK, VALUE_LIMIT_BYTES
from bk_pipeline_tests.deliver.honeycomb.odd_tables import numbers, texts

scalars = st.one_of(
    texts, numbers, st.booleans(), st.none(), st.integers(-(2**70), 2**70), st.floats()
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


@given(values)
def test_a_value_is_the_bytes_that_the_official_classes_make_of_it(value):
    assert any_value(value) == official(value).SerializeToString()


@pytest.mark.parametrize("number", [0, 1, -1, 127, 128, 2**63 - 1, -(2**63)])
def test_a_whole_number_comes_back_at_the_edges(number):
    assert AnyValue.FromString(int_value(number)).int_value == number


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_beyond_64_bits_becomes_a_double(number):
    assert AnyValue.FromString(any_value(number)).double_value == float(number)


@pytest.mark.parametrize("number", [math.inf, -math.inf, -0.0, 5e-324])
def test_a_double_comes_back_at_the_edges(number):
    assert AnyValue.FromString(any_value(number)).double_value == number


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
def test_a_varint_has_seven_bits_a_byte_lowest_first(number, encoded):
    assert varint(number) == encoded


@given(texts, st.one_of(texts, st.integers(0, 40_000).map(lambda count: "é" * count)))
def test_a_head_and_its_text_are_an_attribute(key, text):
    content = text.encode()

    encoded = text_head(b"\x4a", key, len(content)) + content

    pair = KeyValue(key=key, value=AnyValue(string_value=text))
    assert encoded == attribute(b"\x4a", key, any_value(text)) or len(content) > VALUE_LIMIT_BYTES
    assert encoded.endswith(pair.SerializeToString())


@given(st.lists(st.one_of(numbers, st.integers(-(2**63), 2**63 - 1), st.none())))
def test_numbers_in_bulk_are_what_they_are_singly(given_numbers):
    made = varints(pa.array(given_numbers, pa.int64())).to_pylist()

    for one, number in zip(made, given_numbers, strict=True):
        if number is None:
            assert one == b""
            continue
        assert b"\x18" + one == int_value(number)
        assert int_head(b"\x4a", "key", len(one)) + one == attribute(
            b"\x4a", "key", any_value(number)
        )


def test_a_string_is_cut_to_what_backends_keep_with_a_mark():
    kept = AnyValue.FromString(any_value("é" * 40_000)).string_value

    assert kept.endswith(CUT_MARK)
    assert VALUE_LIMIT_BYTES - 2 < len(kept.encode()) <= VALUE_LIMIT_BYTES

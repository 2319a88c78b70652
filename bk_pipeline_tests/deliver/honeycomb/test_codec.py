"""The fast Honeycomb encoder compared with the reference encoder."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings

from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.encoding import BULK_MIN_VALUES
from bk_pipeline.deliver.honeycomb import codec, plain
from bk_pipeline.deliver.honeycomb.shape import Shape, TraceIdStyle
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.table import rows
from bk_pipeline_tests.deliver.honeycomb.odd_tables import (
    STRINGS,
    large_table,
    tables,
    with_integers,
    with_peculiar_columns,
)
from bk_pipeline_tests.deliver.tables import joined, payload, table

SHAPES = {style.value: Shape("ci “builds”", style) for style in TraceIdStyle} | {
    f"{style.value}, a service for each pipeline": Shape(
        "ci “builds”", style, service_template="ci “{pipeline}”"
    )
    for style in TraceIdStyle
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def reference(one: pa.Table, shape: Shape) -> list[dict]:
    made = []
    for span in rows(one):
        made += [*plain.link_events(span, shape), plain.span_event(span, shape)]
    return [decoded(plain.encode(event)) for event in made]


def fast(one: pa.Table, shape: Shape) -> list[dict]:
    return [decoded(item.body) for item in encoded(one, shape)]


def encoded(one: pa.Table, shape: Shape) -> list[Item]:
    return codec.items(SpanRows.from_table(one), shape)


def decoded(body: bytes) -> dict:
    """Decode an event so that 1 and 1.0 differ, because the first value fixes a column's type."""
    return json.loads(body, parse_float=lambda text: ("float", float(text)))


@every_shape
@settings(max_examples=60, deadline=None)
@given(one=tables())
def test_fast_encoder_equals_the_reference(shape, one):
    assert fast(one, shape) == reference(one, shape)


@every_shape
@pytest.mark.parametrize("string", STRINGS.values(), ids=STRINGS)
@pytest.mark.parametrize("distinct", [1, 30, 1_000])
def test_large_tables_are_encoded_like_the_reference(shape, distinct, string):
    one = large_table(500, distinct=distinct, string=string)
    assert len(one) > BULK_MIN_VALUES

    assert fast(one, shape) == reference(one, shape)


@every_shape
def test_long_strings_and_nulls_are_encoded_like_the_reference(shape):
    one = with_peculiar_columns(large_table(500, distinct=30))

    assert fast(one, shape) == reference(one, shape)


@every_shape
@pytest.mark.parametrize("first", [0, 1, 9])
def test_integers_of_every_size_are_encoded_like_the_reference(shape, first):
    one = with_integers(large_table(500, distinct=30))[first:]
    assert len(one) > BULK_MIN_VALUES

    assert fast(one, shape) == reference(one, shape)


def test_spans_of_a_build_share_bytes():
    items = encoded(table(*(payload(number, jobs=20) for number in range(20))), SHAPES["otel"])

    assert {len(item.pieces) for item in items} <= set(range(2, 6))
    shared = {id(piece) for item in items for piece in item.pieces[1:]}
    assert len(shared) < len(items) / 3


@every_shape
def test_no_column_is_duplicated_in_an_event(shape):
    def pairs(found):
        assert len({name for name, _ in found}) == len(found)
        return dict(found)

    for item in encoded(table(payload(1), payload(2)), shape):
        json.loads(item.body, object_pairs_hook=pairs)


@settings(max_examples=20, deadline=None)
@given(one=tables())
def test_slices_of_a_table_give_the_same_events(one):
    shape = SHAPES["otel"]
    whole = encoded(one, shape)

    parts = [item for at in range(len(one)) for item in encoded(one.slice(at, 1), shape)]

    assert joined(parts) == joined(whole)


def test_chunks_with_different_dictionaries_give_the_same_events():
    shape = SHAPES["otel"]
    one, two = table(payload(1)), table(payload(2))

    combined = encoded(pa.concat_tables([one, two]), shape)

    assert joined(combined) == joined(encoded(one, shape) + encoded(two, shape))


def test_items_have_span_ids_and_links_have_their_own():
    one = table(
        payload(1, rebuilt_from={"id": "01900000-0000-7000-8000-00000000000f", "number": 7})
    )

    link, root, *others = encoded(one, SHAPES["otel"])

    assert root.item_id.hex() == one["span_id"][0].as_py()
    assert root.trace_id.hex() == one["trace_id"][0].as_py()
    assert link.item_id not in {item.item_id for item in (root, *others)}
    assert link.time_ns == root.time_ns
    # If the id changed, all links would be sent again.
    assert link.item_id == plain.link_item_id(
        root.item_id.hex(),
        {"trace_id": "0190000000007000800000000000000f", "span_id": "800000000000000f"},
    )


def test_link_item_id_never_changes():
    link = {"trace_id": "ab" * 16, "span_id": "cd" * 8}

    assert plain.link_item_id("ef" * 8, link).hex() == "1181ffe88e6b4eba"


def test_empty_table_has_no_events():
    assert encoded(table(payload(1)).slice(0, 0), SHAPES["otel"]) == []

"""Trimming of Honeycomb events to the limits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bk_pipeline.deliver.encoding import MAP_PREFIXES, TRIMMED
from bk_pipeline.deliver.honeycomb import codec
from bk_pipeline.deliver.honeycomb.codec import fitted
from bk_pipeline.deliver.honeycomb.shape import (
    EVENT_BYTES,
    EVENT_COLUMNS,
    Shape,
)
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.fields import FIELDS, FieldType
from bk_pipeline.text import TRUNCATION_MARK
from bk_pipeline_tests.deliver.tables import payload, table

META = "buildkite.build.meta_data."
SHAPE = Shape("ci")


def event(**data):
    return {"time": "2026-11-19T11:00:01.000000000Z", "data": data}


def size(one):
    return len(msgspec.json.encode(one))


def test_event_within_the_limits_is_unchanged():
    one = event(name="a")

    assert fitted(one) == (one, False)


def test_longest_strings_are_truncated_first_and_the_event_is_marked():
    one, trimmed = fitted(event(short="a" * 50, long="b" * 5_000, count=1), limit_bytes=1_000)

    assert trimmed
    assert size(one) <= 1_000
    assert one["data"]["short"] == "a" * 50
    assert one["data"]["long"].endswith(TRUNCATION_MARK)
    assert one["data"][TRIMMED] is True


def test_truncation_removes_no_more_than_necessary():
    one, _ = fitted(event(long="b" * 5_000), limit_bytes=4_000)

    assert 3_990 <= size(one) <= 4_000


def test_equally_long_strings_are_truncated_alike():
    one, _ = fitted(event(**{f"s{n}": "x" * 1_000 for n in range(10)}), limit_bytes=5_000)

    lengths = sorted(len(one["data"][f"s{n}"]) for n in range(10))
    assert lengths[0] >= lengths[-1] // 2 - len(TRUNCATION_MARK)


def test_too_many_columns_drop_the_last_map_keys_only():
    surplus = {f"{META}{n}": n for n in range(10)}

    one, trimmed = fitted(event(name="a", **surplus, kind="b"), limit_columns=6)

    assert trimmed
    assert list(one["data"]) == ["name", f"{META}0", f"{META}1", f"{META}2", "kind", TRIMMED]


def test_long_names_without_long_strings_drop_columns():
    one, trimmed = fitted(event(name="a", **{META + "k" * 3_000: 1}), limit_bytes=2_000)

    assert trimmed
    assert list(one["data"]) == ["name", TRIMMED]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5), st.one_of(st.text(max_size=400), st.integers()), max_size=8
    )
)
def test_trimmed_event_always_fits(found):
    # Enough for the names and for the minimum length of each string.
    one, _ = fitted(event(**{META + key: value for key, value in found.items()}), limit_bytes=1_200)

    assert size(one) <= 1_200


def test_no_declared_attribute_looks_like_a_map_key():
    declared = [field.name for field in FIELDS if field.type is not FieldType.MAP]

    assert not [name for name in declared if name.startswith(MAP_PREFIXES)]


@pytest.mark.parametrize(
    "meta_data",
    [
        {f"key-{n}": "x" * 60_000 for n in range(30)},
        {f"key-{n}": "v" for n in range(2_500)},
    ],
    ids=["too large", "too many columns"],
)
def test_oversized_span_is_trimmed_and_its_neighbours_are_whole(meta_data):
    one = table(payload(1), payload(2, meta_data=meta_data), payload(3))

    items = codec.items(SpanRows.from_table(one), SHAPE)

    assert len(items) == len(one)
    (trimmed,) = [item for item in items if item.trimmed]
    data = msgspec.json.decode(trimmed.body)["data"]
    assert len(trimmed.body) <= EVENT_BYTES
    assert len(data) <= EVENT_COLUMNS
    assert data[TRIMMED] is True
    assert data["buildkite.build.number"] == 2
    assert sum(name.startswith(META) for name in data) >= 30


def test_many_keys_within_the_limit_are_kept():
    one = table(payload(1, meta_data={f"key-{n}": "v" for n in range(1_800)}))

    root = codec.items(SpanRows.from_table(one), SHAPE)[0]

    assert not root.trimmed
    assert sum(name.startswith(META) for name in msgspec.json.decode(root.body)["data"]) == 1_800

"""Grouping of items into batches within a destination's limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.deliver.destination import Item, Limits
from bk_pipeline.deliver.selection import Batcher, body_bytes, halves, ids_by_trace

LIMITS = Limits(batch_bytes=100, batch_items=5, framing_bytes=2, separator_bytes=1)


def items(sizes):
    return [
        Item(b"t" * 16, at.to_bytes(8), at, "span", (b"x" * size,), size)
        for at, size in enumerate(sizes)
    ]


def batches(given_items):
    batcher = Batcher(LIMITS)
    return [*batcher.add(given_items), *batcher.flush()]


@given(st.lists(st.integers(1, 150), max_size=60))
def test_batcher_keeps_all_items_in_order(sizes):
    given_items = items(sizes)

    made = batches(given_items)

    assert [item for batch in made for item in batch] == given_items


@given(st.lists(st.integers(1, 98), max_size=60))
def test_batches_keep_the_limits_and_are_full(sizes):
    made = batches(items(sizes))

    for batch in made:
        framed = b"[" + b",".join(item.body for item in batch) + b"]"
        assert len(framed) == body_bytes(batch, LIMITS) <= LIMITS.batch_bytes
        assert len(batch) <= LIMITS.batch_items
    for batch, following in pairwise(made):
        more = [*batch, following[0]]
        assert len(more) > LIMITS.batch_items or body_bytes(more, LIMITS) > LIMITS.batch_bytes


def test_oversized_item_is_a_batch_of_its_own():
    made = batches(items([10, 200, 10]))

    assert [len(batch) for batch in made] == [1, 1, 1]


def test_full_batch_is_yielded_before_more_items_are_read():
    def endless():
        yield from items([60, 60])
        pytest.fail("read more items than the first batch needs")

    assert len(next(Batcher(LIMITS).add(endless()))) == 1


@given(st.lists(st.integers(1, 150), max_size=60), st.integers(1, 20))
def test_batches_do_not_depend_on_how_items_arrive(sizes, portion):
    given_items = items(sizes)
    batcher = Batcher(LIMITS)
    made = []
    for at in range(0, len(sizes), portion):
        made += batcher.add(given_items[at : at + portion])
        so_far = [item for batch in made for item in batch] + batcher.pending
        assert so_far == given_items[: at + portion]

    assert made + list(batcher.flush()) == batches(given_items)
    assert batcher.pending == []


@given(st.integers(1, 40))
def test_halves_keep_the_order_and_the_first_is_not_empty(count):
    given_items = items([1] * count)

    first, second = halves(given_items)

    assert [*first, *second] == given_items
    assert 0 <= len(first) - len(second) <= 1


def test_ids_are_grouped_by_trace():
    one, two = items([1, 1])

    assert ids_by_trace([one, two]) == {b"t" * 16: [one.item_id, two.item_id]}

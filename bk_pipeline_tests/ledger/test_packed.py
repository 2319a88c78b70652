"""Packed sets of item ids behave like sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.ledger.packed import count, merged, pack, union, unpack, without

ids = st.lists(st.binary(min_size=8, max_size=8), max_size=30)


@given(ids)
def test_packing_keeps_each_id_once(given_ids):
    packed = pack(given_ids)

    assert unpack(packed) == set(given_ids)
    assert count(len(packed)) == len(set(given_ids))


@given(ids)
def test_equal_sets_give_equal_bytes_in_any_order(given_ids):
    assert pack(given_ids) == pack(reversed(given_ids)) == pack(given_ids * 2)


@given(ids, ids)
def test_adding_and_removing_match_set_operations(one, two):
    assert unpack(merged(pack(one), two)) == set(one) | set(two)
    assert union(pack(one), pack(two)) == merged(pack(one), two)
    assert unpack(without(pack(one), two)) == set(one) - set(two)

"""Prepared span rows, and the selection of rows and items to send."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.selection import select, unsent
from bk_pipeline_tests.deliver.tables import START, payload, table, uuid

NOW = START + timedelta(hours=25)


@pytest.fixture
def two():
    return SpanRows.from_table(table(payload(1), payload(2)))


def choose(one, settled=None, *, max_age=None, future_limit=None, now=NOW):
    return select(one, settled or {}, now=now, max_age=max_age, future_limit=future_limit)


def test_builds_are_split_where_the_trace_id_changes(two):
    rows = len(two) // 2
    assert [trace.hex() for trace in two.trace_ids] == [
        uuid("build", 1).replace("-", ""),
        uuid("build", 2).replace("-", ""),
    ]
    assert two.first_rows.tolist() == [0, rows]
    assert two.build_of_row.tolist() == [0] * rows + [1] * rows


def test_builds_are_found_across_chunks_and_in_slices(two):
    chunked = SpanRows.from_table(pa.concat_tables([table(payload(1)), table(payload(2))]))

    assert chunked.trace_ids == two.trace_ids
    assert SpanRows.from_table(two.table.slice(3)).first_rows.tolist() == [0, len(two) // 2 - 3]


def test_all_rows_are_selected_if_nothing_is_settled(two):
    assert choose(two).rows is two


@pytest.mark.parametrize("left", ["11000000", "00000001", "01001011", "00000000", "11111111"])
def test_filtered_rows_equal_rows_prepared_from_the_filtered_table(two, left):
    mask = np.array([digit == "1" for digit in left * (len(two) // 8)])

    selected, alone = two.filter(mask), SpanRows.from_table(two.table.filter(pa.array(mask)))

    assert selected.table.equals(alone.table)
    assert (selected.trace_ids, selected.span_ids) == (alone.trace_ids, alone.span_ids)
    for name in ("first_rows", "build_of_row", "start_ns"):
        assert getattr(selected, name).tolist() == getattr(alone, name).tolist(), name


def test_settled_spans_are_left_out_and_counted(two):
    mine = two.span_ids[:2]

    selected = choose(two, {two.trace_ids[0]: set(mine)})

    assert selected.already_settled == 2
    assert selected.rows.span_ids == two.span_ids[2:]


def test_span_settled_in_one_build_is_not_settled_in_another(two):
    selected = choose(two, {two.trace_ids[1]: set(two.span_ids[:2])})

    assert selected.already_settled == 0


def test_settled_span_with_links_stays_selected():
    one = SpanRows.from_table(table(payload(1, rebuilt_from={"id": uuid("build", 9), "number": 9})))

    selected = choose(one, {one.trace_ids[0]: set(one.span_ids)})

    assert selected.rows.names() == ["buildkite.build"]


def test_too_old_spans_are_left_out_and_counted(two):
    one, other = (START + timedelta(seconds=number) for number in (1, 2))
    jobs_begin = START + timedelta(seconds=2, milliseconds=250)

    selected = choose(two, max_age=NOW - other)

    assert selected.too_old + len(selected.rows) == len(two)
    assert min(selected.rows.table["start"].to_pylist()) >= other > one
    assert choose(two, max_age=NOW - one).too_old == 0
    assert choose(two, max_age=NOW - jobs_begin).too_old > selected.too_old


def test_old_settled_spans_count_as_settled(two):
    settled = {trace: set(two.span_ids) for trace in two.trace_ids}

    selected = choose(two, settled, max_age=timedelta(seconds=1))

    assert (selected.already_settled, selected.too_old) == (len(two), 0)


def test_spans_in_the_future_are_selected_and_counted(two):
    selected = choose(two, future_limit=timedelta(hours=1), now=START - timedelta(hours=2))

    assert selected.future == len(selected.rows) == len(two)


ONE, TWO = b"1" * 16, b"2" * 16
A, B, C = b"a" * 8, b"b" * 8, b"c" * 8


def item(trace_id, item_id, name="buildkite.job"):
    return Item(trace_id, item_id, 0, name, (b"{}",), 2)


def test_settled_and_in_flight_items_are_left_out_in_order():
    made = [item(ONE, C), item(TWO, A), item(ONE, A), item(ONE, B), item(TWO, B)]

    left = unsent(made, {ONE: {A}}, {(TWO, B)})

    assert [one.key for one in left] == [(ONE, C), (TWO, A), (ONE, B)]


def test_duplicate_item_is_sent_once():
    made = [item(ONE, A, "first"), item(TWO, A), item(ONE, A, "second")]

    assert unsent(made, {}, ()) == [made[0], made[1]]
    assert unsent(made, {ONE: {A}}, ()) == [made[1]]


def test_all_items_are_sent_if_none_is_known():
    made = [item(ONE, A), item(ONE, B), item(TWO, A)]

    assert unsent(made, {}, ()) == made

"""What every destination keeps, as `deliver/destination.py` has it."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from itertools import groupby
from operator import attrgetter

import pytest

from bk_pipeline.deliver.batching import body_bytes
from bk_pipeline.deliver.destination import Verdict
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    FatalError,
    NotFound,
    PipelineError,
    RequestTooLarge,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.contract.stand_ins import QUICK, STAND_INS
from bk_pipeline_tests.deliver.tables import payload, table, tables, uuid


@pytest.fixture(params=STAND_INS.values(), ids=STAND_INS)
def stand_in(request, clock):
    sandbox = Sandbox(World(days=0), clock=lambda: clock.now().timestamp())
    with running(sandbox) as url:
        yield request.param(sandbox, url, clock)


@pytest.fixture
def destination(stand_in):
    return stand_in.destination()


@pytest.fixture
def items(destination):
    return destination.encode(SpanRows.of(table(payload(1), payload(2))))


def test_its_name_stays_the_same_and_holds_no_secret(stand_in):
    name = stand_in.destination().name

    assert name == stand_in.destination().name
    assert stand_in.secret not in name


def test_the_link_of_a_trace_names_it_or_there_is_none(stand_in, destination):
    trace_id = "01970f2e5a7b7c3d8e9f0a1b2c3d4e5f"

    link = destination.trace_link(
        trace_id, start_ns=1_700_000_000_000_000_000, end_ns=1_700_000_060_000_000_000
    )

    assert link is None or trace_id in link
    assert stand_in.secret not in (link or "")


def test_encoding_gives_each_span_with_its_own_ids_and_start(destination):
    one = table(payload(1), payload(2))

    encoded = destination.encode(SpanRows.of(one))
    by_id = {(item.trace_id.hex(), item.item_id.hex()): item for item in encoded}

    for row in one.select(["trace_id", "span_id", "name", "start"]).to_pylist():
        item = by_id[row["trace_id"], row["span_id"]]
        assert item.name == row["name"]
        assert (
            item.time_ns == int(row["start"].timestamp()) * 10**9 + row["start"].microsecond * 1_000
        )


def test_encoding_keeps_the_order_of_the_rows_and_the_items_of_a_build_together(destination):
    linked = {"id": uuid("build", 9), "number": 9}
    one = table(payload(2, rebuilt_from=linked), payload(1), payload(3, rebuilt_from=linked))

    encoded = destination.encode(SpanRows.of(one))

    by_build = [trace_id.hex() for trace_id, _ in groupby(encoded, key=attrgetter("trace_id"))]
    assert by_build == one["trace_id"].unique().to_pylist()
    rows = one["span_id"].to_pylist()
    ids = [item.item_id.hex() for item in encoded]
    assert [span_id for span_id in ids if span_id in rows] == rows


def test_encoding_the_same_again_gives_the_same(destination):
    rows = SpanRows.of(table(payload(1)))

    assert destination.encode(rows) == destination.encode(rows)


def test_each_item_says_how_large_it_is(destination):
    large = {f"key-{number}": "x" * 60_000 for number in range(120)}
    linked = {"id": uuid("build", 9), "number": 9}
    made = table(payload(1), payload(2, rebuilt_from=linked), payload(3, meta_data=large))

    for item in destination.encode(SpanRows.of(made)):
        assert item.size == len(item.body)


def test_no_item_is_larger_than_a_request(destination):
    large = {f"key-{n}": "x" * 60_000 for n in range(120)}

    for item in destination.encode(SpanRows.of(table(payload(1, meta_data=large)))):
        assert body_bytes([item], destination.limits) <= destination.limits.batch_bytes


def test_what_it_accepts_it_has_once(stand_in, destination, items):
    answer = destination.send(items)

    assert [one.verdict for one in answer.outcomes] == [Verdict.ACCEPTED] * len(items)
    assert sorted(stand_in.stored()) == sorted(
        (item.trace_id.hex(), item.item_id.hex()) for item in items
    )
    assert answer.sent_bytes > 0


def test_a_full_batch_passes(stand_in, destination):
    many = [item for one in tables(60, jobs=6) for item in destination.encode(SpanRows.of(one))]
    batch = many[: destination.limits.batch_items]

    answer = destination.send(batch)

    assert {one.verdict for one in answer.outcomes} == {Verdict.ACCEPTED}
    assert len(stand_in.stored()) == len(batch)


def test_an_unknown_key_is_refused_and_nothing_is_taken(stand_in, items):
    with pytest.raises(TokenRefused):
        stand_in.destination(key="unknown-key-0123456789").send(items)

    assert stand_in.stored() == []


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ({"kind": "status", "status": 403}, AccessDenied),
        ({"kind": "status", "status": 404}, NotFound),
        ({"kind": "status", "status": 413}, RequestTooLarge),
        ({"kind": "status", "status": 429}, DeliveryThrottled),
        ({"kind": "status", "status": 400, "body": {"error": "what"}}, FatalError),
        ({"kind": "html"}, UnexpectedAnswer),
    ],
    ids=["403", "404", "413", "429", "400", "html"],
)
def test_each_refusal_is_an_error_of_its_kind_and_takes_nothing(
    stand_in, destination, items, order, error
):
    stand_in.order(**order)

    with pytest.raises(error):
        destination.send(items)

    assert stand_in.stored() == []


@pytest.mark.parametrize(
    ("order", "taken"),
    [
        ({"kind": "status", "status": 500}, False),
        ({"kind": "status", "status": 502}, False),
        ({"kind": "status", "status": 504}, False),
        ({"kind": "reset"}, False),
        ({"kind": "reset_after"}, True),
        ({"kind": "hang"}, False),
        ({"kind": "hang", "processed": True}, True),
        ({"kind": "cut_body"}, True),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_without_a_whole_answer_something_may_have_been_taken(stand_in, items, order, taken):
    stand_in.order(**order)

    with (
        closing(stand_in.destination(timeouts=QUICK)) as hasty,
        pytest.raises(ServiceUnavailable) as caught,
    ):
        hasty.send(items)

    assert caught.value.maybe_processed
    # A busy server may still be at it when its client has given up.
    until = time.monotonic() + 60
    while taken and not stand_in.stored() and time.monotonic() < until:
        time.sleep(0.05)
    assert bool(stand_in.stored()) is taken


def test_where_nobody_listens_nothing_was_taken(stand_in, items):
    with pytest.raises(ServiceUnavailable) as caught:
        stand_in.destination(url="http://127.0.0.1:1").send(items)

    assert not caught.value.maybe_processed


@pytest.mark.parametrize("kind", ["status", "html", "reset", "cut_body"])
def test_no_error_holds_the_secret(stand_in, destination, items, kind, caplog):
    caplog.set_level(logging.DEBUG)
    echo = {"error": f"what is {stand_in.secret}?"}
    stand_in.order(kind, **({"status": 401, "body": echo} if kind == "status" else {}))

    with pytest.raises(PipelineError) as caught:
        destination.send(items)

    told = [str(caught.value), repr(caught.value), repr(destination), caplog.text]
    cause = caught.value.__cause__
    while cause is not None:
        told += [str(cause), repr(cause)]
        cause = cause.__cause__
    assert not [one for one in told if stand_in.secret in one]

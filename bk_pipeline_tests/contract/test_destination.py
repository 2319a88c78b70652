"""The contract of every destination, as `deliver/destination.py` defines it."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from itertools import groupby
from operator import attrgetter

import pytest

from bk_pipeline.deliver.destination import Verdict
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.selection import body_bytes
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
    with running(sandbox) as url, closing(request.param(sandbox, url, clock)) as made:
        yield made


@pytest.fixture
def destination(stand_in):
    return stand_in.destination()


@pytest.fixture
def items(destination):
    return destination.encode(SpanRows.from_table(table(payload(1), payload(2))))


def test_name_is_stable_and_holds_no_secret(stand_in):
    name = stand_in.destination().name

    assert name == stand_in.destination().name
    assert stand_in.secret not in name


def test_probe_stores_nothing_and_fails_with_an_unknown_key(stand_in):
    found = stand_in.destination().probe()

    assert stand_in.destination().name in found.message
    assert stand_in.secret not in found.message
    with pytest.raises(TokenRefused):
        stand_in.destination(key="unknown-key-0123456789").probe()
    assert stand_in.stored() == []


def test_trace_link_contains_the_trace_id_or_is_none(stand_in, destination):
    trace_id = "01970f2e5a7b7c3d8e9f0a1b2c3d4e5f"

    link = destination.trace_link(
        trace_id, start_ns=1_700_000_000_000_000_000, end_ns=1_700_000_060_000_000_000
    )

    assert link is None or trace_id in link
    assert stand_in.secret not in (link or "")
    page = destination.page_link()
    assert (page is None) == (link is None)
    assert stand_in.secret not in (page or "")


def test_encoded_items_have_the_ids_and_start_of_their_spans(destination):
    one = table(payload(1), payload(2))

    encoded = destination.encode(SpanRows.from_table(one))
    by_id = {(item.trace_id.hex(), item.item_id.hex()): item for item in encoded}

    for row in one.select(["trace_id", "span_id", "name", "start"]).to_pylist():
        item = by_id[row["trace_id"], row["span_id"]]
        assert item.name == row["name"]
        assert (
            item.time_ns == int(row["start"].timestamp()) * 10**9 + row["start"].microsecond * 1_000
        )


def test_encoding_keeps_row_order_and_groups_items_by_build(destination):
    linked = {"id": uuid("build", 9), "number": 9}
    one = table(payload(2, rebuilt_from=linked), payload(1), payload(3, rebuilt_from=linked))

    encoded = destination.encode(SpanRows.from_table(one))

    by_build = [trace_id.hex() for trace_id, _ in groupby(encoded, key=attrgetter("trace_id"))]
    assert by_build == one["trace_id"].unique().to_pylist()
    rows = one["span_id"].to_pylist()
    ids = [item.item_id.hex() for item in encoded]
    assert [span_id for span_id in ids if span_id in rows] == rows


def test_encoding_is_deterministic(destination):
    rows = SpanRows.from_table(table(payload(1)))

    assert destination.encode(rows) == destination.encode(rows)


def test_item_size_is_that_of_its_body(destination):
    large = {f"key-{number}": "x" * 60_000 for number in range(120)}
    linked = {"id": uuid("build", 9), "number": 9}
    made = table(payload(1), payload(2, rebuilt_from=linked), payload(3, meta_data=large))

    for item in destination.encode(SpanRows.from_table(made)):
        assert item.size == len(item.body)


def test_no_item_is_larger_than_a_request(destination):
    large = {f"key-{n}": "x" * 60_000 for n in range(120)}

    for item in destination.encode(SpanRows.from_table(table(payload(1, meta_data=large)))):
        assert body_bytes([item], destination.limits) <= destination.limits.batch_bytes


def test_accepted_items_are_stored_once(stand_in, destination, items):
    answer = destination.send(items)

    assert [one.verdict for one in answer.outcomes] == [Verdict.ACCEPTED] * len(items)
    assert sorted(stand_in.stored()) == sorted(
        (item.trace_id.hex(), item.item_id.hex()) for item in items
    )
    assert answer.sent_bytes > 0


def test_full_batch_is_accepted(stand_in, destination):
    many = [
        item for one in tables(60, jobs=6) for item in destination.encode(SpanRows.from_table(one))
    ]
    batch = many[: destination.limits.batch_items]

    answer = destination.send(batch)

    assert {one.verdict for one in answer.outcomes} == {Verdict.ACCEPTED}
    assert len(stand_in.stored()) == len(batch)


def test_unknown_key_is_refused_and_nothing_is_stored(stand_in, items):
    with pytest.raises(TokenRefused):
        stand_in.destination(key="unknown-key-0123456789").send(items)

    assert stand_in.stored() == []


@pytest.mark.parametrize(
    ("fault", "error"),
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
def test_each_refusal_has_its_error_class_and_stores_nothing(
    stand_in, destination, items, fault, error
):
    stand_in.inject(**fault)

    with pytest.raises(error):
        destination.send(items)

    assert stand_in.stored() == []


@pytest.mark.parametrize(
    ("fault", "processed"),
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
def test_incomplete_answer_means_maybe_processed(stand_in, items, fault, processed):
    stand_in.inject(**fault)

    with (
        closing(stand_in.destination(timeouts=QUICK)) as impatient,
        pytest.raises(ServiceUnavailable) as caught,
    ):
        impatient.send(items)

    assert caught.value.maybe_processed
    # A busy server may still be processing when its client has given up.
    deadline = time.monotonic() + 60
    while processed and not stand_in.stored() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert bool(stand_in.stored()) is processed


def test_refused_connection_means_not_processed(stand_in, items):
    with pytest.raises(ServiceUnavailable) as caught:
        stand_in.destination(url="http://127.0.0.1:1").send(items)

    assert not caught.value.maybe_processed


@pytest.mark.parametrize("kind", ["status", "html", "reset", "cut_body"])
def test_no_error_holds_the_secret(stand_in, destination, items, kind, caplog):
    caplog.set_level(logging.DEBUG)
    echo = {"error": f"what is {stand_in.secret}?"}
    stand_in.inject(kind, **({"status": 401, "body": echo} if kind == "status" else {}))

    with pytest.raises(PipelineError) as caught:
        destination.send(items)

    texts = [str(caught.value), repr(caught.value), repr(destination), caplog.text]
    cause = caught.value.__cause__
    while cause is not None:
        texts += [str(cause), repr(cause)]
        cause = cause.__cause__
    assert not [one for one in texts if stand_in.secret in one]

"""Each kind of fault at the sandbox's Honeycomb: what it stored, and what the ledger knows."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from sqlalchemy import event

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy, Guarantee
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    NotFound,
    PipelineError,
    RequestRefused,
    RetryableError,
    ServiceUnavailable,
    StorageError,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.ledger.review import Summary
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox
from bk_pipeline_tests.deliver.tables import DAY, payload, span_count, span_ids, table, tables
from bk_pipeline_tests.deliver.worker import NoonClock

BUILDS = 30
BATCH = 50
MADE = tables(BUILDS)
SPANS = span_count(MADE)


class Found(NamedTuple):
    """Spans missing from the sandbox, and duplicates."""

    lost: int
    duplicated: int


@dataclass
class Scene:
    """A Honeycomb with ordered faults, and everything to deliver there."""

    sandbox: Sandbox
    honeycomb: Honeycomb
    ledger: Ledger
    clock: Clock

    def send(self, made=MADE, *, ledger=None, **policy) -> Delivery:
        return deliver(
            made,
            day=DAY,
            destination=self.honeycomb,
            ledger=ledger or self.ledger,
            clock=self.clock,
            policy=DeliveryPolicy(**policy),
        )

    def inject(self, kind, **details) -> None:
        self.sandbox.faults.inject("honeycomb", kind, path="/1/batch/*", **details)

    def known(self) -> Summary:
        return self.ledger.summary(self.honeycomb.name)

    def found(self) -> Found:
        events = [one.data for one in self.sandbox.honeycomb.events]
        stored = {(data["trace.trace_id"], data["trace.span_id"]) for data in events}
        assert stored <= span_ids(MADE)
        return Found(len(span_ids(MADE) - stored), self.sandbox.honeycomb.duplicate_count)


@pytest.fixture
def scene(sandbox, honeycomb, ledger, clock):
    """A scene with small batches, so that there are several."""
    honeycomb.limits = replace(honeycomb.limits, batch_items=BATCH)
    _ = honeycomb.name  # requested now, so that faults hit batches
    return Scene(sandbox, honeycomb, ledger, clock)


@pytest.mark.parametrize(
    ("kind", "details", "duplicated"),
    [
        ("status", {"status": 429, "count": 4}, 0),
        ("status", {"status": 500, "count": 2}, 0),
        ("status", {"status": 502, "count": 2}, 0),
        ("status", {"status": 503, "count": 2}, 0),
        ("status", {"status": 429, "headers": {"Retry-After": "20"}}, 0),
        ("reset", {"count": 2}, 0),
        ("reset_after", {}, BATCH),
        ("hang", {}, 0),
        ("hang", {"processed": True}, BATCH),
        ("cut_body", {}, BATCH),
        ("cut_json", {}, BATCH),
        ("status", {"status": 429, "headers": {"Retry-After": "0"}, "count": 3}, 0),
        ("short_answer", {"missing": 7}, 7),
        ("event_status", {"status": 429, "indexes": (0, 3, 49)}, 0),
        ("event_status", {"status": 500, "indexes": tuple(range(50))}, 0),
        ("slow", {"seconds": 0.01, "count": 3}, 0),
    ],
    ids=lambda value: (
        "-".join(f"{v}" for v in value.values() if not isinstance(v, tuple))
        if isinstance(value, dict)
        else str(value)
    ),
)
def test_temporary_fault_loses_nothing_and_duplicates_at_most_the_batch_in_flight(
    scene, kind, details, duplicated
):
    scene.inject(kind, after=1, **details)

    delivery = scene.send()

    assert scene.found() == Found(lost=0, duplicated=duplicated)
    assert delivery.accepted == scene.known().accepted == SPANS
    assert scene.known().in_doubt == 0


@pytest.mark.parametrize("kind", ["reset_after", "cut_body", "cut_json", "hang"])
def test_at_most_once_duplicates_nothing_and_lists_presumed_items(scene, kind):
    scene.inject(kind, after=1, **({"processed": True} if kind == "hang" else {}))

    with pytest.raises(ServiceUnavailable):
        scene.send(guarantee=Guarantee.AT_MOST_ONCE, in_flight=1)
    delivery = scene.send(guarantee=Guarantee.AT_MOST_ONCE, in_flight=1)

    assert scene.found() == Found(lost=0, duplicated=0)
    assert delivery.presumed_sent == scene.known().presumed == BATCH


@pytest.mark.parametrize(
    ("kind", "details", "error", "message"),
    [
        ("status", {"status": 401}, TokenRefused, "HONEYCOMB_API_KEY"),
        ("status", {"status": 403}, AccessDenied, "administrative throttling.*plan"),
        ("status", {"status": 404}, NotFound, "Create the dataset"),
        ("status", {"status": 400}, RequestRefused, "Nothing of it was stored"),
        (
            "status",
            {"status": 429, "body": {"error": "Event dropped due to administrative denylist"}},
            AccessDenied,
            "denylist.*support",
        ),
        ("html", {}, UnexpectedAnswer, "text/html.*HONEYCOMB_API_ENDPOINT"),
        ("status", {"status": 429}, DeliveryThrottled, "accepts no more events.*Gave up after"),
        ("status", {"status": 503}, ServiceUnavailable, "503.*Gave up after"),
        ("reset", {}, ServiceUnavailable, "cannot be reached.*Gave up after"),
    ],
    ids=["401", "403", "404", "400", "denylist", "html", "429", "503", "reset"],
)
def test_permanent_fault_fails_the_run_and_the_next_run_sends_the_rest(
    scene, kind, details, error, message
):
    scene.inject(kind, after=2, count=1_000, **details)

    with pytest.raises(error, match=rf"Honeycomb \(dataset ci builds at 127.*{message}"):
        scene.send()

    stored, known = scene.sandbox.honeycomb.event_count, scene.known()
    assert known.accepted == stored < SPANS
    assert known.rejected == 0
    scene.sandbox.faults.clear()
    delivery = scene.send()
    assert scene.found() == Found(lost=0, duplicated=0)
    assert delivery.accepted == SPANS - stored
    assert delivery.in_doubt_resent == known.in_doubt
    assert scene.known().in_doubt == 0


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_refused_request_leaves_nothing_in_doubt(scene, status):
    scene.inject("status", status=status, count=1_000)

    with pytest.raises(PipelineError):
        scene.send()

    known = scene.known()
    assert (known.accepted, known.rejected, known.in_doubt) == (0, 0, 0)


def test_rejected_event_does_not_affect_the_rest_of_its_batch(scene):
    scene.honeycomb.limits = replace(scene.honeycomb.limits, batch_items=500)
    made = tables(80)
    message = "Event has too many columns."
    scene.inject("event_status", status=400, indexes=(137,), error=message)

    delivery = scene.send(made)
    again = scene.send(made)

    assert delivery.batches >= 2
    assert scene.sandbox.honeycomb.event_count == delivery.accepted == span_count(made) - 1
    assert scene.sandbox.honeycomb.duplicate_count == 0
    (rejection,) = scene.ledger.rejections(scene.honeycomb.name)
    assert rejection.reason == f"400: {message}"
    assert (again.accepted, again.rejected, again.already_settled) == (0, 0, span_count(made))


def test_rejected_span_kind_can_be_requeued_and_sent(scene):
    scene.inject("event_status", status=400, where="buildkite.step", error="no steps", count=1_000)

    first = scene.send()
    again = scene.send()

    assert first.rejected == BUILDS * 3
    assert len(first.rejections) == 10
    assert again.already_settled == SPANS
    scene.sandbox.faults.clear()
    assert scene.ledger.requeue(scene.honeycomb.name, reason_like="no steps") == BUILDS * 3
    assert scene.send().accepted == BUILDS * 3
    assert scene.found() == Found(lost=0, duplicated=0)


def test_too_large_body_is_split(scene):
    scene.inject("status", status=400, body={"error": "Request body is too large."}, count=2)

    scene.send(in_flight=1)

    assert scene.found() == Found(lost=0, duplicated=0)


def test_oversized_event_is_trimmed_counted_and_accepted(scene):
    large = payload(1, meta_data={f"key-{n}": "x" * 60_000 for n in range(30)})
    wide = payload(2, meta_data={f"key-{n}": "x" for n in range(2_500)})

    delivery = scene.send([table(large, wide, payload(3))])

    assert (delivery.trimmed, delivery.rejected) == (2, 0)
    events = scene.sandbox.honeycomb.events
    marked = [one.data for one in events if one.data.get("bk_pipeline.trimmed")]
    assert {data["buildkite.build.number"] for data in marked} == {1, 2}
    assert scene.sandbox.honeycomb.warnings == []


def test_odd_values_cause_no_warnings(scene):
    odd = payload(
        1,
        message='"\\ \x00 🚀 \u2028',
        meta_data={"empty": "", "long": "é" * 50_000},
        rebuilt_from={"id": payload(9)["id"], "number": 9},
        state="failed",
    )

    scene.send([table(odd, payload(2))])

    assert scene.sandbox.honeycomb.warnings == []
    events = scene.sandbox.honeycomb.events
    assert {one.dataset for one in events} == {"ci builds"}
    root = next(one for one in events if "trace.parent_id" not in one.data)
    (link,) = [one for one in events if "meta.annotation_type" in one.data]
    assert root.data["buildkite.build.message"] == odd["message"]
    assert link.time_ns == root.time_ns


def test_link_is_sent_once(scene):
    made = [table(payload(1, rebuilt_from={"id": payload(9)["id"], "number": 9}))]
    first = scene.send(made)

    again = scene.send(made)

    assert first.accepted == span_count(made) + 1 == scene.sandbox.honeycomb.event_count
    assert (again.accepted, again.already_settled) == (0, span_count(made) + 1)


def test_spans_older_than_the_retention_are_not_sent(scene):
    scene.clock.moment = scene.clock.moment.replace(year=2027, month=3)

    delivery = scene.send()

    assert delivery.too_old == SPANS
    assert scene.sandbox.honeycomb.event_count == 0
    assert scene.known().accepted == 0


def test_full_disk_stops_the_delivery_before_an_unrecorded_batch_is_sent(scene, tmp_path):
    with scene.ledger._database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @event.listens_for(scene.ledger._database.engine, "begin")
    def limit(connection):
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    made = tables(200)
    with pytest.raises(StorageError, match="disk is full"):
        scene.send(made)

    stored = scene.sandbox.honeycomb.event_count
    assert 0 < stored < span_count(made)
    with Ledger.open(tmp_path / "ledger.sqlite", clock=scene.clock) as roomy:
        known = roomy.summary(scene.honeycomb.name)
        assert known.accepted <= stored <= known.accepted + known.in_doubt
        scene.send(made, ledger=roomy)
    assert scene.sandbox.honeycomb.store.distinct_spans == span_count(made)
    assert scene.sandbox.honeycomb.duplicate_count <= known.in_doubt


def test_locked_ledger_stops_the_delivery_before_anything_is_sent(scene, tmp_path):
    path = tmp_path / "ledger.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Ledger.open(path, clock=scene.clock, busy_timeout_s=0.5) as impatient:
        with pytest.raises(RetryableError, match="Another process has locked the ledger"):
            scene.send(ledger=impatient)
        other.rollback()
        other.close()
        assert scene.sandbox.honeycomb.event_count == 0

        scene.send(ledger=impatient)

    assert scene.found() == Found(lost=0, duplicated=0)


class WakingClock:
    """A clock for threads that wait for each other: `end` wakes those that sleep."""

    def __init__(self) -> None:
        self.now = NoonClock().now
        self.monotonic = time.monotonic
        self._ended = threading.Condition()

    def sleep(self, seconds: float) -> None:
        with self._ended:
            self._ended.wait(seconds)

    def end(self) -> None:
        with self._ended:
            self._ended.notify_all()


def test_threads_that_deliver_the_same_day_send_each_span_once(scene, tmp_path):
    scene.clock = clock = WakingClock()
    honeycomb = Honeycomb(scene.honeycomb._endpoint, scene.sandbox.honeycomb_key, "ci", clock=clock)

    def run(_number):
        with Ledger.open(tmp_path / "ledger.sqlite", clock=clock) as own:
            with own.delivery_lock(honeycomb.name, DAY):
                delivery = scene.send(ledger=own)
            clock.end()
            return delivery.accepted

    with ThreadPoolExecutor(3) as pool:
        accepted = list(pool.map(run, range(3)))

    honeycomb.close()
    assert sorted(accepted) == [0, 0, SPANS]
    assert scene.found() == Found(lost=0, duplicated=0)


def test_key_never_reaches_ledger_log_or_errors(scene, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    key = scene.sandbox.honeycomb_key
    scene.inject("event_status", status=400, indexes=(0,), error=f"what is {key}?")
    scene.inject("status", status=403, body={"error": f"who is {key}?"})

    with pytest.raises(AccessDenied) as caught:
        scene.send(in_flight=1)

    (rejection,) = scene.ledger.rejections(scene.honeycomb.name)
    assert rejection.reason == "400: what is [redacted]?"
    scene.ledger.close()
    shown = f"{caught.value} {scene.honeycomb!r} {scene.honeycomb.name} {caplog.text}"
    files = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert key not in shown
    assert files
    assert not [one for one in files if key.encode() in one.read_bytes()]

"""Deliveries that are killed (SIGKILL) at random moments and restarted, and concurrent ones."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.deliver.tables import DAY, span_count, span_ids, tables

WORKER = Path(__file__).with_name("worker.py")
BUILDS = 160
BATCH_ITEMS = 20
IN_FLIGHT = 3


class Workers:
    """Processes that each deliver the same day on request."""

    def __init__(self, order: dict) -> None:
        self._order = order
        self._process = subprocess.Popen(
            [sys.executable, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *, kill_after: int | None = None, count: int = 1) -> list[int]:
        """Run `count` at once and return exit statuses; -9 if killed after that many batches."""
        self._process.stdin.write(json.dumps([self._order] * count) + "\n")
        self._process.stdin.flush()
        pids, ended, batches = [], [], 0
        while len(ended) < count:
            event, _, value = self._process.stdout.readline().partition(" ")
            if event == "began":
                pids.append(int(value))
            elif event == "batch":
                batches += 1
            elif event == "ended":
                ended.append(int(value))
            if kill_after is not None and batches >= kill_after and len(pids) == count:
                kill_after = None
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
        return ended

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=300)
        self._process.stdout.close()


@pytest.fixture(params=["at_least_once", "at_most_once"])
def guarantee(request):
    return request.param


@pytest.fixture
def workers(sandbox, url, tmp_path, guarantee):
    made = Workers(
        {
            "url": url,
            "key": sandbox.honeycomb_key,
            "ledger": str(tmp_path / "ledger.sqlite"),
            "builds": BUILDS,
            "batch_items": BATCH_ITEMS,
            "in_flight": IN_FLIGHT,
            "guarantee": guarantee,
        }
    )
    yield made
    made.close()


@pytest.fixture
def ledger_state(tmp_path, clock):
    """Returns the ledger's summary of its only destination and the presumed items."""

    def ledger_state():
        with Ledger.open(tmp_path / "ledger.sqlite", clock=clock) as ledger:
            (name,) = ledger.destinations()
            return ledger.summary(name), ledger.presumed(name)

    return ledger_state


def stored(sandbox) -> set[tuple[str, str]]:
    return {
        (event.data["trace.trace_id"], event.data["trace.span_id"])
        for event in sandbox.honeycomb.events
    }


def test_killed_deliveries_lose_and_duplicate_no_more_than_guaranteed(
    sandbox, workers, ledger_state, guarantee
):
    chance = random.Random(11)
    kills = in_flight = 0
    while workers.run(kill_after=chance.randint(0, 5)) == [-9]:
        kills += 1
        in_doubt = ledger_state()[0].in_doubt
        assert in_doubt <= IN_FLIGHT * BATCH_ITEMS
        in_flight += in_doubt

    expected = span_ids(tables(BUILDS))
    lost = expected - stored(sandbox)
    duplicated = sandbox.honeycomb.duplicate_count
    summary, presumed = ledger_state()
    # Otherwise the test proves nothing. The number of kills depends on the machine's speed.
    assert kills >= 2
    assert summary.in_doubt == summary.rejected == 0
    if guarantee == "at_least_once":
        assert lost == set()
        assert duplicated <= in_flight
        assert summary.accepted == len(expected)
    else:
        assert duplicated == 0
        # Lost items are listed as presumed, so they can be re-queued.
        listed = {(one.trace_id.hex(), item.hex()) for one in presumed for item in one.item_ids}
        assert lost <= listed
        assert summary.accepted + summary.presumed == len(expected)
        assert summary.presumed <= in_flight


def test_concurrent_runs_of_a_day_send_each_span_once(sandbox, workers, ledger_state):
    assert workers.run(count=2) == [0, 0]

    assert stored(sandbox) == span_ids(tables(BUILDS))
    assert sandbox.honeycomb.duplicate_count == 0
    assert ledger_state()[0].accepted == span_count(tables(BUILDS))


def test_run_after_two_killed_ones_sends_the_rest(sandbox, workers, ledger_state):
    assert workers.run(count=2, kill_after=5) == [-9, -9]

    assert workers.run() == [0]

    summary, _ = ledger_state()
    assert summary.accepted + summary.presumed == span_count(tables(BUILDS))
    assert sandbox.honeycomb.duplicate_count <= IN_FLIGHT * BATCH_ITEMS
    assert summary.first_day == DAY

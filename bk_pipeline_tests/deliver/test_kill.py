"""`kill -9` at random moments, with restarts until the day is done; and two runs at once."""

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
    """Processes that deliver the same day, each on order."""

    def __init__(self, order: dict) -> None:
        self._order = order
        self._process = subprocess.Popen(
            [sys.executable, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *, kill_after: int | None = None, count: int = 1) -> list[int]:
        """Exit statuses of so many at once; of those killed after so many batches, -9."""
        self._process.stdin.write(json.dumps([self._order] * count) + "\n")
        self._process.stdin.flush()
        pids, ended, batches = [], [], 0
        while len(ended) < count:
            word, _, value = self._process.stdout.readline().partition(" ")
            if word == "began":
                pids.append(int(value))
            elif word == "batch":
                batches += 1
            elif word == "ended":
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
def seen(tmp_path, clock):
    """What the ledger says now: the summary of its only destination, and what it presumed."""

    def seen():
        with Ledger.open(tmp_path / "ledger.sqlite", clock=clock) as ledger:
            (name,) = ledger.destinations()
            return ledger.summary(name), ledger.presumed(name)

    return seen


def stored(sandbox) -> set[tuple[str, str]]:
    return {
        (event.data["trace.trace_id"], event.data["trace.span_id"])
        for event in sandbox.honeycomb.events
    }


def test_whenever_it_is_killed_nothing_is_lost_or_doubled_beyond_the_promise(
    sandbox, workers, seen, guarantee
):
    chance = random.Random(11)
    kills = in_flight = 0
    while workers.run(kill_after=chance.randint(0, 5)) == [-9]:
        kills += 1
        in_doubt = seen()[0].in_doubt
        assert in_doubt <= IN_FLIGHT * BATCH_ITEMS
        in_flight += in_doubt

    wanted = span_ids(tables(BUILDS))
    lost = wanted - stored(sandbox)
    doubled = sandbox.honeycomb.duplicate_count
    summary, presumed = seen()
    # Else it proves nothing. How many there are before the day is done the machine decides.
    assert kills >= 2
    assert summary.in_doubt == summary.rejected == 0
    if guarantee == "at_least_once":
        assert lost == set()
        assert doubled <= in_flight
        assert summary.accepted == len(wanted)
    else:
        assert doubled == 0
        # What was lost is listed, and can be re-queued.
        listed = {(one.trace_id.hex(), item.hex()) for one in presumed for item in one.item_ids}
        assert lost <= listed
        assert summary.accepted + summary.presumed == len(wanted)
        assert summary.presumed <= in_flight


def test_two_runs_of_the_same_day_at_once_do_not_double_it(sandbox, workers, seen):
    assert workers.run(count=2) == [0, 0]

    assert stored(sandbox) == span_ids(tables(BUILDS))
    assert sandbox.honeycomb.duplicate_count == 0
    assert seen()[0].accepted == span_count(tables(BUILDS))


def test_of_two_runs_that_are_killed_together_the_next_one_takes_up(sandbox, workers, seen):
    assert workers.run(count=2, kill_after=5) == [-9, -9]

    assert workers.run() == [0]

    summary, _ = seen()
    assert summary.accepted + summary.presumed == span_count(tables(BUILDS))
    assert sandbox.honeycomb.duplicate_count <= IN_FLIGHT * BATCH_ITEMS
    assert summary.first_day == DAY

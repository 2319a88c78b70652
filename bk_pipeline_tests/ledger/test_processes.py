"""Several processes with one ledger."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bk_pipeline.clock import SystemClock
from bk_pipeline.errors import RetryableError
from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.ledger.worker import DAY, HERE, SHARED

WORKER = Path(__file__).with_name("worker.py")
TIMEOUT_S = 300


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def start():
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, WORKER, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def test_processes_that_open_a_new_ledger_at_once_lose_no_writes(where, start, clock):
    writers = [start("settle", where, number, 20) for number in range(4)]

    assert [one.wait(timeout=TIMEOUT_S) for one in writers] == [0] * 4

    with Ledger.open(where, clock=clock) as ledger:
        counts = [len(item_ids) for item_ids in ledger.settled(HERE, SHARED).values()]
        assert counts == [80, 80, 80]
        assert ledger.summary(HERE).accepted == 4 * 80
        assert ledger.summary(HERE).in_doubt == 0


def test_delivery_lock_is_released_when_its_holder_is_killed(where, start, clock):
    holder = start("hold", where)
    assert holder.stdout.readline() == "held\n"
    ledger = Ledger.open(where, clock=clock)
    with pytest.raises(RetryableError), ledger.delivery_lock(HERE, DAY, timeout_s=5):
        pytest.fail("two processes hold the lock")

    holder.kill()
    holder.wait(timeout=TIMEOUT_S)

    ledger.close()
    # A server takes a moment to notice, so the clock must be real.
    with Ledger.open(where, clock=SystemClock()) as ledger, ledger.delivery_lock(HERE, DAY):
        pass

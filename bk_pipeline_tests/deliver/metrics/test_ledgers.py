"""Two concurrent runs of a day, with each kind of ledger database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.deliver.tables import DAY, tables
from bk_pipeline_tests.ledger.cluster import fresh_schema


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request, tmp_path):
    database = fresh_schema() if request.param == "postgresql" else nullcontext(tmp_path / "l.db")
    with database as location:
        yield location


def test_concurrent_runs_count_each_build_once(sandbox, metrics, location):
    made = tables(20)

    def run(_: int) -> int:
        with (
            Ledger.open(location, clock=SystemClock()) as ledger,
            ledger.delivery_lock(metrics.name, DAY),
        ):
            done = deliver(made, day=DAY, destination=metrics, ledger=ledger, clock=SystemClock())
        return done.accepted

    with ThreadPoolExecutor(2) as pool:
        counted = sorted(pool.map(run, range(2)))

    assert counted == [0, 80]
    assert sandbox.otlp.metrics.totals["buildkite.builds.count"] == 20
    assert sandbox.otlp.metrics.totals["buildkite.jobs.count"] == 60

"""A ledger in a file, a running sandbox on the test's clock, and its Honeycomb as destination."""

from __future__ import annotations

from functools import partial

import pytest

from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.deliver.tables import DAY


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger.open(tmp_path / "ledger.sqlite", clock=clock) as ledger:
        yield ledger


@pytest.fixture
def sandbox(clock):
    return Sandbox(World(days=0), clock=lambda: clock.now().timestamp())


@pytest.fixture
def url(sandbox):
    with running(sandbox) as url:
        yield url


@pytest.fixture
def honeycomb(sandbox, url, clock):
    """Retries for a minute of the fake clock; waits five real seconds for a response."""
    destination = Honeycomb(
        url,
        sandbox.honeycomb_key,
        "ci builds",
        clock=clock,
        retry_policy=RetryPolicy(deadline_s=60, jitter=lambda: 0.5),
        # The limit for a whole response is measured with the fake clock.
        timeouts=Timeouts(connect_s=30, read_s=5, total_s=10**6),
    )
    yield destination
    destination.close()


@pytest.fixture
def send(ledger, clock):
    """`deliver` of the test day, with this test's ledger and clock."""
    return partial(deliver, day=DAY, ledger=ledger, clock=clock)

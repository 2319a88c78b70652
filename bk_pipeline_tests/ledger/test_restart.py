"""Deliveries during which the database server is killed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bk_pipeline.deliver.delivery import DeliveryPolicy, Guarantee
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.errors import RetryableError
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.conftest import FakeClock
from bk_pipeline_tests.deliver.tables import DAY, span_ids, tables

BUILDS, BATCH_ITEMS, IN_FLIGHT = 60, 20, 3


class RescuingClock(FakeClock):
    """Starts the server again on the first sleep."""

    def __init__(self, server) -> None:
        super().__init__()
        self._server = server

    def sleep(self, seconds: float) -> None:
        self._server.start_again()
        super().sleep(seconds)


@pytest.fixture
def sandbox(clock):
    return Sandbox(World(days=0), clock=lambda: clock.now().timestamp())


@pytest.fixture
def run(sandbox, clock, postgres_url):
    """Return a function that delivers the day with a newly opened ledger, as a process does."""

    def run(*, guarantee=Guarantee.AT_LEAST_ONCE, waits=clock, on_progress=None):
        honeycomb = Honeycomb(
            url, sandbox.honeycomb_key, "ci", clock=clock, retry_policy=RetryPolicy(deadline_s=60)
        )
        honeycomb.limits = replace(honeycomb.limits, batch_items=BATCH_ITEMS)
        with (
            Ledger.open(postgres_url, clock=clock) as ledger,
            ledger.delivery_lock(honeycomb.name, DAY),
        ):
            return deliver(
                tables(BUILDS),
                day=DAY,
                destination=honeycomb,
                ledger=ledger,
                clock=waits,
                policy=DeliveryPolicy(guarantee, IN_FLIGHT),
                on_progress=on_progress,
            )

    with running(sandbox) as url:
        yield run


@pytest.fixture
def recorded(postgres_url, clock):
    """Return a function that reads the summary and the presumed items of the only destination."""

    def recorded():
        with Ledger.open(postgres_url, clock=clock) as ledger:
            (name,) = ledger.destinations()
            listed = ledger.presumed(name)
            return ledger.summary(name), {
                (one.trace_id.hex(), item.hex()) for one in listed for item in one.item_ids
            }

    return recorded


def stored(sandbox):
    return {
        (event.data["trace.trace_id"], event.data["trace.span_id"])
        for event in sandbox.honeycomb.events
    }


def killing(server, *, after):
    """Return a progress callback that kills the server once, after `after` accepted spans."""
    pending = [after]

    def on_progress(so_far):
        if pending and so_far.accepted >= pending[0]:
            pending.clear()
            server.stop()

    return on_progress


@pytest.mark.parametrize("after", [20, 120])
@pytest.mark.parametrize("guarantee", Guarantee, ids=str)
def test_killed_server_loses_or_doubles_no_more_than_the_guarantee_allows(
    run, server, sandbox, recorded, *, guarantee, after
):
    with pytest.raises(RetryableError, match="ledger"):
        run(guarantee=guarantee, on_progress=killing(server, after=after))
    server.start()
    in_doubt = recorded()[0].in_doubt

    run(guarantee=guarantee)

    expected = span_ids(tables(BUILDS))
    lost, doubled = expected - stored(sandbox), sandbox.honeycomb.duplicate_count
    summary, presumed = recorded()
    assert in_doubt <= IN_FLIGHT * BATCH_ITEMS
    assert summary.in_doubt == 0
    assert summary.accepted + summary.presumed == len(expected)
    if guarantee is Guarantee.AT_LEAST_ONCE:
        assert lost == set()
        assert doubled <= in_doubt
    else:
        assert doubled == 0
        assert lost <= presumed
        assert summary.presumed <= in_doubt


def test_answers_are_recorded_when_the_server_is_back(run, server, sandbox, recorded):
    with pytest.raises(RetryableError, match="ledger"):
        run(on_progress=killing(server, after=60), waits=RescuingClock(server))
    server.start_again()

    run()

    assert stored(sandbox) == span_ids(tables(BUILDS))
    # The sending threads retried until the answers were in the ledger.
    assert sandbox.honeycomb.duplicate_count == 0
    assert recorded()[0].in_doubt == 0

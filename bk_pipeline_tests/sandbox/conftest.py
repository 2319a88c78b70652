"""A sandbox with a fixed today, a clock that is set by hand, and a client on a real socket."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, date, datetime

import pytest
import requests

from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World

TODAY = date(2026, 8, 6)
NOON = datetime(2026, 8, 6, 12, tzinfo=UTC).timestamp()


class SetClock:
    """Shows the time that it was last set to."""

    def __init__(self) -> None:
        self.seconds = NOON

    def __call__(self) -> float:
        return self.seconds


class Client:
    """Speaks HTTP to a running sandbox with its credentials."""

    def __init__(self, url, sandbox) -> None:
        self.url = url
        self.sandbox = sandbox
        self.session = requests.Session()

    def get(self, path, token=None, **rest):
        headers = {"Authorization": f"Bearer {token or self.sandbox.buildkite_token}"}
        headers |= rest.pop("headers_too", {})
        return self.session.get(self.url + path, headers=headers, timeout=20, **rest)

    def builds(self, path="/v2/organizations/acme/builds", **params):
        """All builds of a listing, page by page as the Link header leads."""
        answer = self.get(path, params={"per_page": 100, **params})
        found = answer.json()
        while "next" in answer.links:
            target = answer.links["next"]["url"].removeprefix(self.url)
            answer = self.get(target)
            found += answer.json()
        assert answer.status_code == 200, answer.text
        return found

    def post(self, path, **rest):
        headers = {"X-Honeycomb-Team": self.sandbox.honeycomb_key} | rest.pop("headers", {})
        rest.setdefault("timeout", 20)
        return self.session.post(self.url + path, headers=headers, **rest)

    def batch(self, *events, dataset="ci", **rest):
        return self.post(f"/1/batch/{dataset}", json=list(events), **rest)


@pytest.fixture(scope="session")
def world():
    """The default world on a fixed day. Nobody may add to it."""
    return World(today=TODAY)


@pytest.fixture(scope="session")
def lives(world):
    """All builds of the default world, whole lives."""
    first, last = world.first_and_last_day()
    days = [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]
    return [build for day in days for build in world.builds(day)]


@pytest.fixture(scope="module")
def served():
    """One server for a whole module; `client` sets it back before each test."""
    clock = SetClock()
    sandbox = Sandbox(World(today=TODAY), clock=clock, limits=False)
    with running(sandbox) as url:
        client = Client(url, sandbox)
        client.clock = clock
        with client.session:
            yield client


@pytest.fixture
def client(served):
    served.clock.seconds = NOON
    served.sandbox.faults.clear()
    served.sandbox.buildkite.reset()
    served.sandbox.honeycomb.reset()
    return served


@pytest.fixture
def serve_alone():
    """Runs a sandbox of the test's own making; the client for it."""
    with ExitStack() as stack:

        def start(**options):
            clock = options.setdefault("clock", SetClock())
            sandbox = Sandbox(options.pop("world", None) or World(today=TODAY), **options)
            running_one = stack.enter_context(ExitStack())
            client = Client(running_one.enter_context(running(sandbox)), sandbox)
            running_one.enter_context(client.session)
            client.clock, client.stop = clock, running_one.close
            return client

        yield start


@pytest.fixture
def event():
    """Makes an element of a batch: a small, flawless span."""

    def make(number=1, **fields):
        data = {
            "name": f"span {number}",
            "trace.trace_id": f"{7:032x}",
            "trace.span_id": f"{number:016x}",
            "duration_ms": 1.5,
        }
        return {"time": "2026-08-06T11:59:59.123456789Z", "data": data | fields}

    return make

"""A sandbox with a fixed day and a clock that tests set, and a client on a real socket."""

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
    """A clock that stands still; tests set or advance `seconds`."""

    def __init__(self) -> None:
        self.seconds = NOON

    def __call__(self) -> float:
        return self.seconds


class Client:
    """Sends requests to a running sandbox with its credentials."""

    def __init__(self, url, sandbox) -> None:
        self.url = url
        self.sandbox = sandbox
        self.session = requests.Session()

    def get(self, path, token=None, **rest):
        headers = {"Authorization": f"Bearer {token or self.sandbox.buildkite_token}"}
        headers |= rest.pop("extra_headers", {})
        return self.session.get(self.url + path, headers=headers, timeout=20, **rest)

    def builds(self, path="/v2/organizations/acme/builds", **params):
        """All builds of a listing, read page by page through the `Link` headers."""
        response = self.get(path, params={"per_page": 100, **params})
        builds = response.json()
        while "next" in response.links:
            target = response.links["next"]["url"].removeprefix(self.url)
            response = self.get(target)
            builds += response.json()
        assert response.status_code == 200, response.text
        return builds

    def post(self, path, **rest):
        headers = {"X-Honeycomb-Team": self.sandbox.honeycomb_key} | rest.pop("headers", {})
        rest.setdefault("timeout", 20)
        return self.session.post(self.url + path, headers=headers, **rest)

    def batch(self, *events, dataset="ci", **rest):
        return self.post(f"/1/batch/{dataset}", json=list(events), **rest)


@pytest.fixture(scope="session")
def world():
    """The default world on a fixed day. Shared by all tests, so none may add builds to it."""
    return World(today=TODAY)


@pytest.fixture(scope="session")
def generated_builds(world):
    """All builds of the default world with their complete histories."""
    first, last = world.first_and_last_day()
    days = [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]
    return [build for day in days for build in world.builds(day)]


@pytest.fixture(scope="module")
def running_client():
    """A client of one server for a whole module; `client` resets it before each test."""
    clock = SetClock()
    sandbox = Sandbox(World(today=TODAY), clock=clock, limits=False)
    with running(sandbox) as url:
        client = Client(url, sandbox)
        client.clock = clock
        with client.session:
            yield client


@pytest.fixture
def client(running_client):
    running_client.clock.seconds = NOON
    running_client.sandbox.faults.clear()
    running_client.sandbox.buildkite.reset()
    running_client.sandbox.honeycomb.reset()
    return running_client


@pytest.fixture
def start_sandbox():
    """Starts a sandbox with the given options and returns a client for it."""
    with ExitStack() as stack:

        def start(**options):
            clock = options.setdefault("clock", SetClock())
            sandbox = Sandbox(options.pop("world", None) or World(today=TODAY), **options)
            resources = stack.enter_context(ExitStack())
            client = Client(resources.enter_context(running(sandbox)), sandbox)
            resources.enter_context(client.session)
            client.clock, client.stop = clock, resources.close
            return client

        yield start


@pytest.fixture
def event():
    """Returns an element of a batch: a small, valid span."""

    def make(number=1, **fields):
        data = {
            "name": f"span {number}",
            "trace.trace_id": f"{7:032x}",
            "trace.span_id": f"{number:016x}",
            "duration_ms": 1.5,
        }
        return {"time": "2026-08-06T11:59:59.123456789Z", "data": data | fields}

    return make

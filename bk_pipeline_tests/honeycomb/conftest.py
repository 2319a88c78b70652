"""Rules from a line or two, tables from payloads, and a client at a served sandbox."""

from __future__ import annotations

import pytest
import requests

from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.honeycomb.marker import Marker
from bk_pipeline.honeycomb.rules_file import load_rules
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.http.session import Timeouts
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.table import table_of
from bk_pipeline_tests.builders import make_trace

DATASET = "ci"


@pytest.fixture
def rules_of(tmp_path):
    """The rules of these lines; each `[[rule]]` gets the id, type and message that it lacks."""

    def rules_of(*rules: str, colors: str = ""):
        texts = []
        for number, rule in enumerate(rules, 1):
            names = {line.partition("=")[0].strip() for line in rule.splitlines()}
            given = {"id": f"r{number}", "type": "t", "message": "#{buildkite.build.number}"}
            lines = [f'{name} = "{value}"' for name, value in given.items() if name not in names]
            texts.append("\n".join(["[[rule]]", *lines, rule]))
        path = tmp_path / "markers.toml"
        path.write_text("\n".join([f"[colors]\n{colors}", *texts]))
        return load_rules(path, dataset=DATASET)

    return rules_of


@pytest.fixture
def spans():
    """The span table of these payloads."""
    return lambda *payloads: table_of([make_trace(payload) for payload in payloads])


@pytest.fixture
def sandbox(clock):
    return Sandbox(World(days=0), clock=lambda: clock.now().timestamp())


@pytest.fixture
def held(sandbox):
    """What the sandbox has in the way of markers."""
    return sandbox.honeycomb.markers


@pytest.fixture
def url(sandbox):
    """With the dataset, as its first event makes it."""
    with running(sandbox) as url:
        answer = requests.post(
            f"{url}/1/batch/{DATASET}",
            json=[{"time": "2026-11-19T00:00:00Z", "data": {"a": 1}}],
            headers={"X-Honeycomb-Team": sandbox.honeycomb_key},
            timeout=60,
        )
        assert answer.json() == [{"status": 202}]
        yield url


@pytest.fixture
def connect(sandbox, url, clock):
    """Makes a client with another key or endpoint than the right ones."""
    made = []

    def connect(key=None, endpoint=None):
        client = MarkerClient(
            endpoint or url,
            key or sandbox.honeycomb_key,
            clock=clock,
            retry_policy=RetryPolicy(deadline_s=300, draw=lambda: 0.5),
            # How long an answer may take as a whole is measured with the fake clock.
            timeouts=Timeouts(connect_s=30, silence_s=5, answer_s=10**6),
        )
        made.append(client)
        return client

    yield connect
    for client in made:
        client.close()


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger.open(tmp_path / "ledger.sqlite", clock=clock) as ledger:
        yield ledger


@pytest.fixture
def marker():
    """A marker that says what is given, and the rest of it."""

    def marker(**fields):
        return Marker(
            **{"start_time": 1_790_000_000, "type": "deploy", "message": "web #7"} | fields
        )

    return marker

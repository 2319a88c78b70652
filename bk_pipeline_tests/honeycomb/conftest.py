"""Rules from short texts, tables from payloads, and a client of a running sandbox."""

from __future__ import annotations

import pytest
import requests

from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.honeycomb.rules import Marker, load_rules
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.table import table_of
from bk_pipeline_tests.builders import make_trace

DATASET = "ci"


@pytest.fixture
def rules_of(tmp_path):
    """Returns rules from texts; each `[[rule]]` gets defaults for id, type and message."""

    def rules_of(*rules: str, colors: str = ""):
        texts = []
        for number, rule in enumerate(rules, 1):
            names = {line.partition("=")[0].strip() for line in rule.splitlines()}
            defaults = {"id": f"r{number}", "type": "t", "message": "#{buildkite.build.number}"}
            lines = [f'{name} = "{value}"' for name, value in defaults.items() if name not in names]
            texts.append("\n".join(["[[rule]]", *lines, rule]))
        path = tmp_path / "markers.toml"
        path.write_text("\n".join([f"[colors]\n{colors}", *texts]))
        return load_rules(path, dataset=DATASET)

    return rules_of


@pytest.fixture
def spans():
    """Returns the span table of payloads."""
    return lambda *payloads: table_of([make_trace(payload) for payload in payloads])


@pytest.fixture
def sandbox(clock):
    return Sandbox(World(days=0), clock=lambda: clock.now().timestamp())


@pytest.fixture
def stored(sandbox):
    """The sandbox's markers."""
    return sandbox.honeycomb.markers


@pytest.fixture
def url(sandbox):
    """The sandbox's URL, with the dataset created by a first event."""
    with running(sandbox) as url:
        response = requests.post(
            f"{url}/1/batch/{DATASET}",
            json=[{"time": "2026-11-19T00:00:00Z", "data": {"a": 1}}],
            headers={"X-Honeycomb-Team": sandbox.honeycomb_key},
            timeout=60,
        )
        assert response.json() == [{"status": 202}]
        yield url


@pytest.fixture
def connect(sandbox, url, clock):
    """Creates a client, by default with the sandbox's key and endpoint."""
    made = []

    def connect(key=None, endpoint=None, kind=MarkerClient):
        client = kind(
            endpoint or url,
            key or sandbox.honeycomb_key,
            clock=clock,
            retry_policy=RetryPolicy(deadline_s=300, jitter=lambda: 0.5),
            # The limit for a whole response is measured with the fake clock.
            timeouts=Timeouts(connect_s=30, read_s=5, total_s=10**6),
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
    """Returns a marker with the given fields and defaults for the others."""

    def marker(**fields):
        return Marker(
            **{"start_time": 1_790_000_000, "type": "deploy", "message": "web #7"} | fields
        )

    return marker

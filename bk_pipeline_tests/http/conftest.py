"""Fixtures: a scripted server, and sessions that talk to it."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.session import HttpSession
from bk_pipeline_tests.http.scripted import scripted_server


@pytest.fixture
def server():
    with scripted_server() as running:
        yield running


@pytest.fixture
def session(server, clock):
    with HttpSession(
        server.url,
        setting="BUILDKITE_API_URL",
        headers={"Authorization": "Bearer s3cret-token-0001"},
        timeouts=Timeouts(connect_s=2, read_s=5, total_s=30),
        clock=clock,
    ) as opened:
        yield opened


@pytest.fixture
def connect(clock):
    """Opens sessions without credentials to any URL; closes them after the test."""
    with ExitStack() as opened:
        yield lambda url, **options: opened.enter_context(
            HttpSession(url, setting="X_URL", clock=clock, **options)
        )

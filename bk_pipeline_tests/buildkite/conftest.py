"""Fixtures: a scripted server, and clients that talk to it."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.http.session import HttpSession
from bk_pipeline_tests.http.scripted import scripted_server

TOKEN = "bkua_s3cret0123456789"


@pytest.fixture
def server():
    with scripted_server() as running:
        yield running


@pytest.fixture
def messages():
    """The messages that the clients passed to `on_wait`."""
    return []


@pytest.fixture
def connect(clock, messages):
    """Makes clients with short timeouts; closes them after the test."""
    with ExitStack() as opened:

        def client(url, token=TOKEN, organization="acme", read_s=5, **options):
            session = HttpSession(
                url,
                setting="BUILDKITE_API_URL",
                headers={"Authorization": f"Bearer {token}"},
                timeouts=Timeouts(connect_s=2, read_s=read_s, total_s=30),
                clock=clock,
            )
            options = {
                "retry_policy": RetryPolicy(deadline_s=100, jitter=lambda: 1.0),
                "on_wait": messages.append,
                "session": session,
                "clock": clock,
                **options,
            }
            return opened.enter_context(BuildkiteClient(organization, token, **options))

        yield client


@pytest.fixture
def client(connect, server):
    return connect(server.url)

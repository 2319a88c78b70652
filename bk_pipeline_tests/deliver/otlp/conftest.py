"""One running sandbox per module."""

from __future__ import annotations

import pytest

from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World


@pytest.fixture(scope="module")
def served():
    sandbox = Sandbox(World(days=0))
    with running(sandbox) as url:
        yield sandbox, url


@pytest.fixture
def sandbox(served):
    sandbox, _ = served
    sandbox.faults.clear()
    sandbox.otlp.reset()
    return sandbox


@pytest.fixture
def url(served):
    return served[1]

"""PostgreSQL schemas and a server for ledger tests."""

from __future__ import annotations

import pytest

from bk_pipeline_tests.ledger.cluster import GIVEN, cluster, fresh_schema


@pytest.fixture
def postgres_url():
    """An empty schema of a real server."""
    with fresh_schema() as url:
        yield url


@pytest.fixture
def server():
    """A server that the test may stop; it is started again afterwards."""
    if GIVEN:
        pytest.skip("the given server must not be stopped")
    server = cluster()
    yield server
    server.start_again()

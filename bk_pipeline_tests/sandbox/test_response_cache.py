"""Cached responses are the same as new ones, and never out of date."""

from __future__ import annotations

import pytest

from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.buildkite.listed import build

PATH = "/v2/organizations/acme/builds?per_page=100"


@pytest.fixture
def caching_client(start_sandbox):
    return start_sandbox(world=World(days=1, builds_per_day=0), cache_responses=True, limits=False)


def numbers(client):
    return [one["number"] for one in client.get(PATH).json()]


def test_cached_page_is_used_until_a_build_is_added_or_deleted(caching_client):
    first = build(1)
    caching_client.sandbox.world.add_build(first)
    assert numbers(caching_client) == numbers(caching_client) == [1]
    caching_client.sandbox.world.add_build(build(2, after_s=5))
    assert numbers(caching_client) == [2, 1]
    caching_client.sandbox.world.delete_build(first["id"])
    assert numbers(caching_client) == [2]


def test_errors_and_rate_limits_are_not_cached(start_sandbox):
    client = start_sandbox(cache_responses=True, user_limit=3)
    remaining = [client.get(PATH).headers["RateLimit-User-Remaining"] for _ in range(3)]
    assert remaining == ["2", "1", "0"]
    assert client.get(PATH).status_code == 429
    assert client.get(PATH, token="wrong").status_code == 401


def test_only_pages_of_builds_are_cached(start_sandbox):
    client = start_sandbox(cache_responses=True, limits=False)
    other = client.sandbox.add_token(scopes=["read_builds"])
    mine = client.get("/v2/access-token").json()
    assert client.get("/v2/access-token", token=other).json()["uuid"] != mine["uuid"]

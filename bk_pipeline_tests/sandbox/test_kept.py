"""Answers that are kept: the same as new ones, and never old."""

from __future__ import annotations

import pytest

from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.buildkite.listed import build

PATH = "/v2/organizations/acme/builds?per_page=100"


@pytest.fixture
def keeping(serve_alone):
    return serve_alone(world=World(days=1, builds_per_day=0), cache_responses=True, limits=False)


def numbers(client):
    return [one["number"] for one in client.get(PATH).json()]


def test_kept_answer_is_given_until_a_build_is_added_or_deleted(keeping):
    first = build(1)
    keeping.sandbox.world.add_build(first)
    assert numbers(keeping) == numbers(keeping) == [1]
    keeping.sandbox.world.add_build(build(2, after_s=5))
    assert numbers(keeping) == [2, 1]
    keeping.sandbox.world.delete_build(first["id"])
    assert numbers(keeping) == [2]


def test_refusal_and_limits_are_not_kept(serve_alone):
    client = serve_alone(cache_responses=True, user_limit=3)
    remaining = [client.get(PATH).headers["RateLimit-User-Remaining"] for _ in range(3)]
    assert remaining == ["2", "1", "0"]
    assert client.get(PATH).status_code == 429
    assert client.get(PATH, token="wrong").status_code == 401


def test_nothing_but_pages_of_builds_is_kept(serve_alone):
    client = serve_alone(cache_responses=True, limits=False)
    other = client.sandbox.add_token(scopes=["read_builds"])
    mine = client.get("/v2/access-token").json()
    assert client.get("/v2/access-token", token=other).json()["uuid"] != mine["uuid"]

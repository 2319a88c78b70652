from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta

import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.listing import BranchFilter, PipelineFilter
from bk_pipeline.buildkite.paging import Paging
from bk_pipeline.errors import (
    ConfigError,
    NotFound,
    UnexpectedAnswer,
)
from bk_pipeline.settings import Settings
from bk_pipeline_tests.buildkite.conftest import TOKEN
from bk_pipeline_tests.buildkite.listed import DAY, TOO_DEEP, WHOLE_DAY, Listed, build, numbers
from bk_pipeline_tests.http.scripted import Answer, as_json


def test_listing_requests_the_window_with_retried_jobs(server, client):
    list(client.iter_builds(WHOLE_DAY, finished_from=DAY + timedelta(seconds=1.5)))

    [request] = server.requests
    assert request.path == (
        "/v2/organizations/acme/builds?per_page=100&include_retried_jobs=true"
        "&created_from=2026-11-19T00%3A00%3A00Z&created_to=2026-11-20T00%3A00%3A00Z"
        "&finished_from=2026-11-19T00%3A00%3A01.500000Z"
    )
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"


def test_payloads_are_kept_byte_for_byte(server, client):
    payload = b'{ "id":"a",\t"number":1, "created_at":"2026-11-19T00:00:00Z", "env":{}, "pipeline":{"slug":"w"},"x":1.50}'
    body = gzip.compress(b"[\n" + payload + b"\n]")
    server.otherwise = Answer(body=body, headers={"Content-Encoding": "gzip"})

    [page] = client.iter_builds(WHOLE_DAY)

    assert [record.payload for record in page.builds] == [payload]


def test_single_build_is_requested_with_retried_jobs(server, client):
    server.otherwise = as_json(build(7, pipeline="web app"))
    assert client.build("web app", 7).number == 7
    [request] = server.requests
    assert request.path == (
        "/v2/organizations/acme/pipelines/web%20app/builds/7?include_retried_jobs=true"
    )


def test_missing_build_is_named(server, client):
    server.otherwise = as_json({"message": "No build found"}, 404)
    with pytest.raises(NotFound, match=r"no build 7 of acme/web, or the token"):
        client.build("web", 7)


def test_deep_day_is_listed_completely_over_http(server, client):
    listed = Listed([build(n, n * 60) for n in range(1, 1001)], per_page=50, depth=4)
    server.otherwise = listed

    assert sorted(numbers(client.iter_builds(WHOLE_DAY))) == list(range(1, 1001))
    assert len(listed.queries) <= 20 + 2 * 6


def test_named_pipelines_are_listed_separately(server, connect):
    server.otherwise = Listed([build(1, 1, "web"), build(2, 2, "api"), build(3, 3, "other")])
    client = connect(
        server.url, pipelines=PipelineFilter(("web", "api")), paging=Paging(links=True)
    )

    assert numbers(client.iter_builds(WHOLE_DAY)) == [1, 2]
    assert [r.path.partition("?")[0] for r in server.requests] == [
        "/v2/organizations/acme/pipelines/web/builds",
        "/v2/organizations/acme/pipelines/api/builds",
    ]


THREE = PipelineFilter(("web", "api", "docs"))
SINCE = DAY + timedelta(minutes=1)


def paths(server) -> list[str]:
    return [
        r.path.partition("?")[0].removeprefix("/v2/organizations/acme") for r in server.requests
    ]


def test_finished_builds_of_named_pipelines_come_from_the_organization(server, connect):
    server.otherwise = Listed([build(n, n, p) for n, p in enumerate(("web", "api", "other"), 1)])
    client = connect(server.url, pipelines=THREE, paging=Paging(links=True))

    assert numbers(client.iter_builds(WHOLE_DAY, finished_from=SINCE)) == [2, 1]
    assert paths(server) == ["/builds", "/builds"]
    assert "exclude_jobs=true" in server.requests[0].path


def test_one_request_shows_that_named_pipelines_finished_nothing(server, connect):
    server.otherwise = Listed([build(1, 1, "other")])
    client = connect(server.url, pipelines=THREE, paging=Paging(links=True))
    assert list(client.iter_builds(WHOLE_DAY, finished_from=SINCE)) == []
    assert paths(server) == ["/builds"]


def test_named_pipelines_are_listed_separately_if_others_finished_many_builds(server, connect):
    others = [build(n, n, "other") for n in range(1, 500)]
    server.otherwise = Listed([build(1000, 1000, "web"), *others])
    client = connect(server.url, pipelines=THREE)

    assert numbers(client.iter_builds(WHOLE_DAY, finished_from=SINCE)) == [1000]
    assert paths(server) == ["/builds", *(f"/pipelines/{slug}/builds" for slug in THREE.names)]


def test_many_named_pipelines_are_listed_separately_if_the_day_has_more_pages(server, connect):
    slugs = tuple(f"p{n}" for n in range(12))
    server.otherwise = Listed([build(n, n, slugs[n % 12]) for n in range(1, 41)], per_page=3)
    client = connect(server.url, pipelines=PipelineFilter(slugs))

    assert sorted(numbers(client.iter_builds(WHOLE_DAY))) == list(range(1, 41))
    assert "/pipelines/p7/builds" in paths(server)


def test_branches_are_filtered_by_buildkite_and_by_the_client(server, connect):
    branches = ["main", "release/1", "release/1-wip", "feature", None]
    server.otherwise = as_json([build(n, n, branch=b) for n, b in enumerate(branches, 1)])
    client = connect(server.url, branches=BranchFilter(("main", "release/*", "!*-wip")))

    assert numbers(client.iter_builds(WHOLE_DAY)) == [1, 2]
    assert [b.number for b in client.iter_finished(WHOLE_DAY, finished_from=DAY, max_pages=1)] == [
        1,
        2,
    ]
    assert all("branch%5B%5D=main&branch%5B%5D=release%2F%2A" in r.path for r in server.requests)


def test_renamed_pipeline_is_returned_under_its_new_name(server, connect):
    server.otherwise = as_json([build(1, 1, "website")])
    client = connect(server.url, pipelines=PipelineFilter(("web",)))

    assert numbers(client.iter_builds(WHOLE_DAY)) == [1]
    found = client.iter_finished(WHOLE_DAY, finished_from=DAY, max_pages=1)
    assert [small.pipeline for small in found] == ["website"]


def test_slugs_are_escaped_in_the_path(server, connect):
    client = connect(server.url, organization="../x?", pipelines=PipelineFilter(("a/b",)))
    list(client.iter_builds(WHOLE_DAY))
    assert server.requests[0].path.startswith("/v2/organizations/..%2Fx%3F/pipelines/a%2Fb/builds?")


def test_access_token_has_its_scopes(server, client):
    server.otherwise = as_json(
        {
            "uuid": "b63254c0",
            "scopes": ["read_builds"],
            "description": None,
            "expires_at": "2027-01-01T00:00:00.000Z",
            "user": {"name": "Sam", "email": "s@example.com", "more": 1},
        }
    )

    token = client.access_token()

    assert token.scopes == ["read_builds"]
    assert token.expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert token.user.name == "Sam"
    assert server.requests[0].path == "/v2/access-token"


def test_malformed_access_token_is_described(server, client):
    server.otherwise = as_json({"uuid": 5})
    with pytest.raises(UnexpectedAnswer, match="expected a JSON object"):
        client.access_token()


def test_organization_is_visible_or_not(server, client):
    server.replies.extend([as_json([build()]), as_json({"message": "No organization"}, 404)])
    assert client.organization_visible()
    assert not client.organization_visible()
    assert "per_page=1&exclude_jobs=true" in server.requests[0].path


def test_client_uses_the_settings(server, monkeypatch, clock):
    monkeypatch.setenv("BUILDKITE_API_TOKEN", TOKEN)
    monkeypatch.setenv("BUILDKITE_ORGANIZATION_SLUG", "acme")
    monkeypatch.setenv("BUILDKITE_API_URL", f"{server.url}/v2/")
    monkeypatch.setenv("BK_PIPELINE_PIPELINES", "web")
    with BuildkiteClient.from_settings(Settings.load(), clock=clock) as client:
        list(client.iter_builds(WHOLE_DAY))

    [request] = server.requests
    assert request.path.startswith("/v2/organizations/acme/pipelines/web/builds?")
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["Accept"] == "application/json"


def test_client_without_a_token_names_the_variable():
    with pytest.raises(ConfigError, match="BUILDKITE_API_TOKEN is not set"):
        BuildkiteClient.from_settings(Settings.load())


def test_too_deep_message_of_buildkite_is_recognised(server, client):
    server.replies.append(as_json({"message": TOO_DEEP}, 400))
    server.otherwise = Listed([build(1, 1)])
    assert numbers(client.iter_builds(WHOLE_DAY)) == [1]


def test_unusable_builds_are_reported_with_the_usable_ones(server, client):
    server.otherwise = Answer(body=json.dumps([{"id": "x"}, build(1, 1)]).encode())
    [page] = client.iter_builds(WHOLE_DAY)
    assert [record.number for record in page.builds] == [1]
    assert list(map(str, page.quarantined)) == ["x: Object missing required field `number`"]

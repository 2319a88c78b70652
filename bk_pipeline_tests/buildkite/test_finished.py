from __future__ import annotations

from datetime import timedelta
from math import inf

import pytest

from bk_pipeline.buildkite.listing import BranchFilter, PipelineFilter
from bk_pipeline.buildkite.paging import Paging
from bk_pipeline.buildkite.records import ActiveBuild
from bk_pipeline.errors import RequestRefused
from bk_pipeline.window import Window
from bk_pipeline_tests.buildkite.listed import DAY, WHOLE_DAY, Listed, build
from bk_pipeline_tests.http.scripted import as_json


def test_finished_builds_are_requested_without_jobs(server, client):
    whole = build(1, 10)
    del whole["pipeline"], whole["jobs"]
    server.otherwise = as_json([whole, build(2, 5, finished_at=None), 7])
    window = Window(DAY, DAY + timedelta(hours=3, microseconds=5))

    found = client.iter_finished(window, finished_from=DAY + timedelta(seconds=1.9), max_pages=3)

    [small] = found
    assert (small.id, small.pipeline, small.number, small.state) == (
        whole["id"],
        "web",
        1,
        "passed",
    )
    assert small.finished_ns - small.created_ns == 60_000_000_000
    assert not found.cut_off
    assert found.quarantined == ["record without an id: Expected `object`, got `int`"]
    assert server.requests[0].path == (
        "/v2/organizations/acme/builds?per_page=100&exclude_jobs=true&exclude_pipeline=true"
        "&finished_from=2026-11-19T00%3A00%3A01Z&created_from=2026-11-19T00%3A00%3A00Z"
        "&created_to=2026-11-19T03%3A00%3A01Z"
    )


@pytest.mark.parametrize(
    ("pages", "depth", "requests", "cut_off"),
    [
        (1, None, 1, True),
        (3, None, 3, True),
        (4, None, 4, False),
        (9, None, 4, False),
        (9, 2, 3, True),
    ],
    ids=["one", "too few", "exactly", "plenty", "too deep"],
)
def test_finished_listing_shows_whether_it_was_cut_off(
    *, server, client, pages, depth, requests, cut_off
):
    server.otherwise = Listed([build(n, n) for n in range(40)][1:], per_page=10, depth=depth)

    found = client.iter_finished(WHOLE_DAY, finished_from=DAY, max_pages=pages)

    assert found.cut_off is cut_off
    assert found.oldest_ns == min(small.created_ns for small in found)
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    ("globs", "path"),
    [
        (("web",), "/v2/organizations/acme/pipelines/web/builds"),
        (("web", "api"), "/v2/organizations/acme/builds"),
        (("w*",), "/v2/organizations/acme/builds"),
    ],
)
def test_finished_listing_costs_one_request(server, connect, globs, path):
    server.otherwise = Listed([build(1, 1, "web"), build(2, 2, "other")])
    client = connect(server.url, pipelines=PipelineFilter(globs), paging=Paging(links=True))

    found = client.iter_finished(WHOLE_DAY, finished_from=DAY, max_pages=5)

    assert [small.pipeline for small in found] == ["web"]
    assert [r.path.partition("?")[0] for r in server.requests] == [path]


def test_finished_listing_refused_at_once_is_an_error(server, client):
    server.otherwise = as_json({"message": "finished_from is no time"}, 400)
    with pytest.raises(RequestRefused):
        client.iter_finished(WHOLE_DAY, finished_from=DAY, max_pages=1)


def test_active_builds_are_requested_by_state_with_their_pipelines(server, client):
    whole = build(1, 10, state="running", finished_at=None)
    bare = build(2, 5, state="scheduled", finished_at=None)
    bare["pipeline"]["name"] = None
    server.otherwise = as_json([whole, bare, 7])

    found = client.active_builds(
        ["running", "scheduled"], before=DAY + timedelta(seconds=20.5), max_pages=3, until_s=inf
    )

    assert found == [ActiveBuild("running", "web", "web"), ActiveBuild("scheduled", "web")]
    assert server.requests[0].path == (
        "/v2/organizations/acme/builds?per_page=100&exclude_jobs=true&state%5B%5D=running"
        "&state%5B%5D=scheduled&created_to=2026-11-19T00%3A00%3A21Z"
    )


@pytest.mark.parametrize(
    ("pages", "until_s", "requests", "count"),
    [(1, inf, 1, None), (3, inf, 3, None), (4, inf, 4, 39), (9, -1, 1, None)],
    ids=["one", "too few", "enough", "too late"],
)
def test_active_builds_are_counted_in_full_or_not_at_all(
    *, server, client, pages, until_s, requests, count
):
    listed = [build(n, n, state="running", finished_at=None) for n in range(1, 40)]
    server.otherwise = Listed(listed, per_page=10)

    found = client.active_builds(
        ["running"], before=DAY + timedelta(days=1), max_pages=pages, until_s=until_s
    )

    assert (found and len(found)) == count
    assert len(server.requests) == requests


def test_active_builds_of_other_pipelines_and_branches_are_left_out(server, connect):
    server.otherwise = as_json(
        [
            build(n, n, pipeline=slug, branch=branch, state="running", finished_at=None)
            for n, (slug, branch) in enumerate([("web", "main"), ("web", "x"), ("app", "main")], 1)
        ]
    )
    client = connect(
        server.url, pipelines=PipelineFilter(("w*",)), branches=BranchFilter(("m*", "!y"))
    )

    found = client.active_builds(
        ["running"], before=DAY + timedelta(days=1), max_pages=1, until_s=inf
    )

    assert found == [ActiveBuild("running", "web", "web")]

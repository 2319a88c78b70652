from __future__ import annotations

from datetime import timedelta

import pytest

from bk_pipeline.buildkite.listing import PipelineFilter
from bk_pipeline.buildkite.paging import Paging
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

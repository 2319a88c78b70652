"""Pages, `Link` headers and the depth limit of listings."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

BUILDS = "/v2/organizations/acme/builds"
TOO_DEEP = (
    "Listing builds this deep is not supported. "
    "Please narrow your query using filters such as branch or created_from."
)


def linked_pages(response):
    """The page number of each link, by relation."""
    return {
        relation: int(dict(parse_qsl(urlsplit(link["url"]).query))["page"])
        for relation, link in response.links.items()
    }


def test_page_has_30_builds_by_default_and_100_at_most(client):
    assert len(client.get(BUILDS).json()) == 30
    assert len(client.get(BUILDS, params={"per_page": 500}).json()) == 100


def test_links_lead_through_all_pages(client):
    count = len(client.builds())
    last = -(-count // 25)
    first = client.get(BUILDS, params={"per_page": 25})
    second = client.get(BUILDS, params={"per_page": 25, "page": 2})
    final = client.get(BUILDS, params={"per_page": 25, "page": last})
    assert linked_pages(first) == {"next": 2, "last": last}
    assert linked_pages(second) == {"next": 3, "last": last, "prev": 1, "first": 1}
    assert linked_pages(final) == {"prev": last - 1, "first": 1}
    assert len(final.json()) == count - 25 * (last - 1)


def test_links_have_all_parameters(client):
    params = [("state[]", "passed"), ("state[]", "failed"), ("branch", "*"), ("per_page", "5")]
    link = client.get(BUILDS, params=params).links["next"]["url"]
    assert link.startswith(client.url + BUILDS)
    assert parse_qsl(urlsplit(link).query) == [*params, ("page", "2")]


def test_single_page_has_no_links(client):
    response = client.get(BUILDS, params={"created_from": "2026-08-06T11:30:00Z", "per_page": 100})
    assert "Link" not in response.headers


def test_page_beyond_the_last_is_empty(client):
    response = client.get(BUILDS, params={"page": 90})
    assert response.json() == []
    assert "next" not in response.links


def test_new_builds_shift_later_pages(client):
    before = client.get(BUILDS, params={"per_page": 10, "page": 2}).json()
    client.clock.seconds += 3_600
    after = client.get(BUILDS, params={"per_page": 10, "page": 2}).json()
    assert before[0]["id"] != after[0]["id"]


def test_page_beyond_the_depth_limit_is_rejected(start_sandbox):
    client = start_sandbox(limits=False, max_depth=20)
    first = client.get(BUILDS, params={"per_page": 10})
    assert linked_pages(first) == {"next": 2}
    second = client.get(first.links["next"]["url"].removeprefix(client.url))
    assert len(second.json()) == 10
    third = client.get(second.links["next"]["url"].removeprefix(client.url))
    assert third.status_code == 400
    assert third.json() == {"message": TOO_DEEP}


def test_page_across_the_depth_limit_is_complete(start_sandbox):
    client = start_sandbox(limits=False, max_depth=25)
    response = client.get(BUILDS, params={"per_page": 10, "page": 3})
    assert len(response.json()) == 10
    assert "next" in response.links


def test_pipelines_are_paginated(client):
    path = "/v2/organizations/acme/pipelines"
    response = client.get(path, params={"per_page": 5})
    rest = client.get(response.links["next"]["url"].removeprefix(client.url))
    slugs = [pipeline["slug"] for pipeline in response.json() + rest.json()]
    assert len(slugs) == len(set(slugs)) == 9
    assert {"web", "api", "infra", "playground"} <= set(slugs)


def test_bodies_are_gzipped_if_the_client_accepts_it(client):
    for encoding, expected in (("gzip", "gzip"), ("identity", None)):
        response = client.session.get(
            client.url + BUILDS,
            headers={
                "Authorization": f"Bearer {client.sandbox.buildkite_token}",
                "Accept-Encoding": encoding,
            },
            timeout=20,
        )
        assert response.headers.get("Content-Encoding") == expected
        assert len(response.json()) == 30

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

BUILDS = "/v2/organizations/acme/builds"
TOO_DEEP = (
    "Listing builds this deep is not supported. "
    "Please narrow your query using filters such as branch or created_from."
)


def pages(answer):
    """The page number that each link leads to."""
    return {
        relation: int(dict(parse_qsl(urlsplit(link["url"]).query))["page"])
        for relation, link in answer.links.items()
    }


def test_page_holds_30_builds_unless_said_otherwise_and_100_at_most(client):
    assert len(client.get(BUILDS).json()) == 30
    assert len(client.get(BUILDS, params={"per_page": 500}).json()) == 100


def test_links_lead_through_the_listing(client):
    count = len(client.builds())
    last = -(-count // 25)
    first = client.get(BUILDS, params={"per_page": 25})
    second = client.get(BUILDS, params={"per_page": 25, "page": 2})
    final = client.get(BUILDS, params={"per_page": 25, "page": last})
    assert pages(first) == {"next": 2, "last": last}
    assert pages(second) == {"next": 3, "last": last, "prev": 1, "first": 1}
    assert pages(final) == {"prev": last - 1, "first": 1}
    assert len(final.json()) == count - 25 * (last - 1)


def test_links_carry_every_parameter(client):
    params = [("state[]", "passed"), ("state[]", "failed"), ("branch", "*"), ("per_page", "5")]
    link = client.get(BUILDS, params=params).links["next"]["url"]
    assert link.startswith(client.url + BUILDS)
    assert parse_qsl(urlsplit(link).query) == [*params, ("page", "2")]


def test_one_page_has_no_links(client):
    answer = client.get(BUILDS, params={"created_from": "2026-08-06T11:30:00Z", "per_page": 100})
    assert "Link" not in answer.headers


def test_beyond_the_last_page_is_nothing(client):
    answer = client.get(BUILDS, params={"page": 90})
    assert answer.json() == []
    assert "next" not in answer.links


def test_new_builds_shift_later_pages(client):
    before = client.get(BUILDS, params={"per_page": 10, "page": 2}).json()
    client.clock.seconds += 3_600
    after = client.get(BUILDS, params={"per_page": 10, "page": 2}).json()
    assert before[0]["id"] != after[0]["id"]


def test_deep_listing_is_refused_and_its_last_page_unknown(serve_alone):
    client = serve_alone(limits=False, max_depth=20)
    first = client.get(BUILDS, params={"per_page": 10})
    assert pages(first) == {"next": 2}
    second = client.get(first.links["next"]["url"].removeprefix(client.url))
    assert len(second.json()) == 10
    third = client.get(second.links["next"]["url"].removeprefix(client.url))
    assert third.status_code == 400
    assert third.json() == {"message": TOO_DEEP}


def test_page_across_the_depth_limit_is_whole(serve_alone):
    client = serve_alone(limits=False, max_depth=25)
    answer = client.get(BUILDS, params={"per_page": 10, "page": 3})
    assert len(answer.json()) == 10
    assert "next" in answer.links


def test_pipelines_are_paged_too(client):
    path = "/v2/organizations/acme/pipelines"
    answer = client.get(path, params={"per_page": 5})
    rest = client.get(answer.links["next"]["url"].removeprefix(client.url))
    slugs = [pipeline["slug"] for pipeline in answer.json() + rest.json()]
    assert len(slugs) == len(set(slugs)) == 9
    assert {"web", "api", "infra", "playground"} <= set(slugs)


def test_bodies_are_gzipped_for_those_who_ask(client):
    for encoding, expected in (("gzip", "gzip"), ("identity", None)):
        answer = client.session.get(
            client.url + BUILDS,
            headers={
                "Authorization": f"Bearer {client.sandbox.buildkite_token}",
                "Accept-Encoding": encoding,
            },
            timeout=20,
        )
        assert answer.headers.get("Content-Encoding") == expected
        assert len(answer.json()) == 30

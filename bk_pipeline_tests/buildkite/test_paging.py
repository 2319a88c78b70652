from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from bk_pipeline.buildkite.paging import next_link
from bk_pipeline.errors import UnexpectedAnswer
from bk_pipeline.http.session import Response
from bk_pipeline.window import Window
from bk_pipeline_tests.buildkite.listed import DAY, Listed, build, numbers
from bk_pipeline_tests.http.scripted import as_json

HERE = "https://api.buildkite.com/v2/builds?page=1"
WINDOW = Window(DAY, DAY.replace(hour=1))


@pytest.mark.parametrize(
    ("header", "url"),
    [
        ('<https://x/?page=2>; rel="next"', "https://x/?page=2"),
        ('<https://x/?page=9>; rel="last", <https://x/?page=2>; rel="next"', "https://x/?page=2"),
        ("<https://x/?page=2>; rel=next", "https://x/?page=2"),
        ('<https://x/?page=2>; title="a"; rel="prefetch NEXT"', "https://x/?page=2"),
        ('<https://x/?a=1,2&page=2>; rel="next"', "https://x/?a=1,2&page=2"),
        ("<?page=2>; rel=next", "https://api.buildkite.com/v2/builds?page=2"),
        ("</v2/other?page=2>; rel=next", "https://api.buildkite.com/v2/other?page=2"),
        ('<https://x/?page=1>; rel="first"', None),
        ('<>; rel="next"', None),
        ("<http://[x>; rel=next", "http://[x"),
        ("nonsense", None),
        ("", None),
    ],
)
def test_next_link_is_found_in_the_header(header, url):
    assert next_link(Response(200, {"Link": header}, b"", "GET x", HERE)) == url


@pytest.mark.parametrize(
    ("header", "count"),
    [
        ("", 1),
        ('<https://x/?page=2>; rel="next", <https://x/?page=41&a=b>; rel="last"', 41),
        ('<https://x/?page=2>; rel="next"', None),
        ('<https://x/?page=2>; rel="next", <https://x/?page=x>; rel="last"', None),
        ('<https://x/?page=2>; rel="next", <https://x/?page=1>; rel="last"', None),
    ],
    ids=["one page", "said", "not said", "nonsense", "impossible"],
)
def test_pages_are_counted_by_the_header(server, client, header, count):
    server.otherwise = as_json([build(1, 1)], headers={"Link": header} if header else {})
    assert client.sample(WINDOW).pages == count


def test_within_a_second_a_listing_follows_the_links_it_is_given(server, client):
    last_second = 3599
    for page in (2, 3):
        link = f'<{server.url}/elsewhere?cursor={page}>; rel="next"'
        server.replies.append(as_json([build(page, last_second)], headers={"Link": link}))
    server.replies.append(as_json([build(1, last_second)]))

    pages = list(client.iter_builds(WINDOW))

    assert [record.number for page in pages for record in page.builds] == [2, 3, 1]
    assert [r.path for r in server.requests[1:]] == ["/elsewhere?cursor=2", "/elsewhere?cursor=3"]


# Each second that holds so many builds needs pages of its own.
CROWDED = [build(n, n // 7 * 10 + 0.1 * (n % 7)) for n in range(1, 151)]
SPREAD = [build(n, n) for n in range(1, 251)]
AT_ONCE = [build(n, 3599.5) for n in range(1, 251)]


class Gateway:
    """Stands before a `Listed` Buildkite: caps its pages, and changes or drops their links."""

    def __init__(self, builds, link, cap=None):
        self.listed = Listed(builds, per_page=100)
        self.link, self.cap = link, cap

    def __call__(self, request):
        query = parse_qs(urlsplit(request.path).query)
        asked = int(query.get("per_page", ["30"])[0])
        self.listed.per_page = min(asked, self.cap or asked)
        answer = self.listed(request)
        link = answer.headers.get("Link")
        changed = self.link(link, len(self.listed.asked), request) if self.link else link
        return replace(answer, headers={"Link": changed} if changed else {})


def foreign(link, number, request):
    return link and re.sub("http://[^/]+", "https://api.buildkite.com", link)


def endless(link, number, request):
    here = f"http://{request.headers['Host']}{request.path}"
    return f'<{here}&number={number}>; rel="next"'


def repeated(link, number, request):
    return link and f'<http://{request.headers["Host"]}{request.path}>; rel="next"'


def backwards(link, number, request):
    """To the first page, each time spelled differently."""
    path = request.path.partition("&page=")[0]
    return link and f'<http://{request.headers["Host"]}{path}&back={number}>; rel="next"'


LINKS = {
    "kept": None,
    "stripped": lambda link, number, request: None,
    "foreign": foreign,
    "endless": endless,
    "repeated": repeated,
    "backwards": backwards,
}


@pytest.mark.parametrize("cap", [None, 30, 25, 10, 50], ids="cap {}".format)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("builds", [SPREAD, CROWDED, AT_ONCE], ids=["spread", "crowded", "at once"])
def test_listing_is_whole_whatever_a_gateway_does(*, server, client, builds, link, cap):
    gateway = server.otherwise = Gateway(builds, LINKS[link], cap)

    listed = numbers(client.iter_builds(WINDOW))
    finished = client.iter_finished(WINDOW, finished_from=DAY, max_pages=99)

    assert sorted(listed) == [one["number"] for one in builds]
    assert len(list(finished)) == len(builds)
    assert not finished.cut_off
    assert client.sample(WINDOW).pages != 1
    fewest = len(builds) // (cap or 100)
    assert len(gateway.listed.asked) <= 2 * 2 * (fewest + 3) + 1
    assert all(request.headers["Host"] in server.url for request in server.requests)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 9, 11, 29, 31, 42, 99])
def test_short_page_without_a_link_is_the_last(server, client, count):
    server.otherwise = Listed([build(n, n) for n in range(1, count + 1)])
    assert len(numbers(client.iter_builds(WINDOW))) == count
    client.iter_finished(WINDOW, finished_from=DAY, max_pages=3)
    assert len(server.requests) == 2 + (count >= 10)  # the second time the size is a known one


def test_short_page_of_a_suspicious_size_costs_a_request_until_a_link_has_come(server, client):
    server.otherwise = Listed([build(n, n) for n in range(1, 31)])
    assert len(numbers(client.iter_builds(WINDOW))) == 30
    assert len(server.requests) == 2
    server.otherwise = Listed([build(n, n) for n in range(1, 151)])
    list(client.iter_builds(WINDOW))
    server.requests.clear()
    server.otherwise = Listed([build(n, n) for n in range(1, 31)])

    assert len(numbers(client.iter_builds(WINDOW))) == 30
    assert len(server.requests) == 1


def test_page_that_is_smaller_than_another_one_is_not_capped(server, client):
    server.otherwise = Listed([build(n, n) for n in range(1, 32)])
    list(client.iter_builds(WINDOW))
    server.otherwise = Listed([build(n, n) for n in range(1, 31)])
    list(client.iter_builds(WINDOW))
    assert len(server.requests) == 2


def test_full_page_without_a_link_may_have_a_successor(server, client):
    server.otherwise = Listed([build(n, n) for n in range(1, 101)])
    assert len(numbers(client.iter_builds(WINDOW))) == 100
    assert len(server.requests) == 2


def test_a_second_that_cannot_be_read_whole_is_an_error(server, client):
    """No link leads on, and the page's number is ignored."""
    server.otherwise = as_json([build(n, 3599.5) for n in range(1, 101)])
    with pytest.raises(UnexpectedAnswer, match="passes Buildkite's Link header"):
        list(client.iter_builds(WINDOW))


@pytest.mark.parametrize(
    "link",
    ["https://evil.test/v2?page=2", "//evil.test/v2?page=2", "http://127.0.0.1:1/v2", "http://[x"],
)
def test_token_does_not_follow_a_link_that_leads_away(server, client, link):
    server.otherwise = as_json([build(1, 3599)], headers={"Link": f'<{link}>; rel="next"'})

    assert numbers(client.iter_builds(WINDOW)) == [1]

    assert [request.path.partition("&page=")[2] for request in server.requests] == ["", "2"]

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bk_pipeline.buildkite.paging import Paging, next_link
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
        ("<https://x/?page=2>; REL=Next", "https://x/?page=2"),
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
    ids=["one page", "last", "no last", "malformed", "impossible"],
)
def test_pages_are_counted_by_the_header(server, client, header, count):
    server.otherwise = as_json([build(1, 1)], headers={"Link": header} if header else {})
    assert client.sample(WINDOW).pages == count


def test_links_are_followed_within_a_second(server, client):
    last_second = 3599
    for page in (2, 3):
        link = f'<{server.url}/next?cursor={page}>; rel="next"'
        server.replies.append(as_json([build(page, last_second)], headers={"Link": link}))
    link = f'<{server.url}/next?cursor=2>; rel="prev"'
    server.replies.append(as_json([build(1, last_second)], headers={"Link": link}))

    pages = list(client.iter_builds(WINDOW))

    assert [record.number for page in pages for record in page.builds] == [2, 3, 1]
    assert [r.path for r in server.requests[1:]] == ["/next?cursor=2", "/next?cursor=3"]


# Each second that holds so many builds needs pages of its own.
CROWDED = [build(n, n // 7 * 10 + 0.1 * (n % 7)) for n in range(1, 151)]
SPREAD = [build(n, n) for n in range(1, 251)]
AT_ONCE = [build(n, 3599.5) for n in range(1, 251)]


class Gateway:
    """A gateway in front of `Listed`: caps its pages, and changes or drops their links."""

    def __init__(self, builds, link, cap=None):
        self.listed = Listed(builds, per_page=cap or 100)
        self.link = link

    def __call__(self, request):
        answer = self.listed(request)
        link = answer.headers.get("Link")
        changed = self.link(link, len(self.listed.queries), request) if self.link else link
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


def unrelated(link, number, request):
    return f'<http://{request.headers["Host"]}{request.path}>; rel="first", <junk'


def unfiltered(link, number, request):
    """To a listing of other builds too."""
    return link and re.sub("created_(from|to)=[^&>]*", "", link)


def escaped(link, number, request):
    return link and link.replace("&", "&amp;")


def skipping(link, number, request):
    return link and re.sub("page=([2-9])>", lambda page: f"page={int(page[1]) + 1}>", link)


LINKS = {
    "kept": None,
    "upper case": lambda link, number, request: link and link.replace("rel=", "REL="),
    "unrelated": unrelated,
    "unfiltered": unfiltered,
    "escaped": escaped,
    "skipping": skipping,
    "stripped": lambda link, number, request: None,
    "foreign": foreign,
    "endless": endless,
    "repeated": repeated,
    "backwards": backwards,
}


@pytest.mark.parametrize("cap", [None, 30, 10], ids="cap {}".format)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("builds", [SPREAD, CROWDED, AT_ONCE], ids=["spread", "crowded", "at once"])
def test_listing_is_complete_behind_any_gateway(*, server, client, builds, link, cap):
    gateway = server.otherwise = Gateway(builds, LINKS[link], cap)

    listed = numbers(client.iter_builds(WINDOW))
    finished = client.iter_finished(WINDOW, finished_from=DAY, max_pages=99)

    assert sorted(listed) == [one["number"] for one in builds]
    assert len(list(finished)) == len(builds)
    assert not finished.cut_off
    assert client.sample(WINDOW).pages != 1
    fewest = len(builds) // (cap or 100)
    assert len(gateway.listed.queries) <= 2 * 2 * (fewest + 3) + 1
    assert all(request.headers["Host"] in server.url for request in server.requests)


@settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    cap=st.integers(1, 100),
    link=st.sampled_from(list(LINKS.values())),
    spread=st.lists(st.integers(0, 3_599), max_size=6),
    crowd=st.integers(0, 110),
    known=st.integers(0, 100),
)
@example(cap=30, link=LINKS["unrelated"], spread=[], crowd=100, known=0)
@example(cap=7, link=LINKS["escaped"], spread=[], crowd=100, known=0)
@example(cap=100, link=LINKS["skipping"], spread=[], crowd=110, known=0)
@example(cap=1, link=LINKS["stripped"], spread=[], crowd=2, known=2)
@example(cap=2, link=LINKS["stripped"], spread=[], crowd=3, known=3)
@example(cap=3, link=LINKS["stripped"], spread=[1, 2, 3, 4], crowd=0, known=4)
def test_every_build_is_listed_once_at_any_cap(*, server, connect, cap, link, spread, crowd, known):
    """What an earlier listing of `known` builds showed about the gateway does no harm."""
    client = connect(server.url)
    server.otherwise = Gateway([build(n, n) for n in range(1, known + 1)], link, cap)
    assert len(numbers(client.iter_builds(WINDOW))) == known
    seconds = [*spread, *([1800] * crowd)]
    builds = [build(n, second + n / 1000) for n, second in enumerate(seconds, 1)]
    gateway = server.otherwise = Gateway(builds, link, cap)

    assert sorted(numbers(client.iter_builds(WINDOW))) == list(range(1, len(builds) + 1))
    found = client.iter_finished(WINDOW, finished_from=DAY, max_pages=999)

    assert sorted(one.number for one in found) == list(range(1, len(builds) + 1))
    assert not found.cut_off
    # Each crowded second is read twice, page by page; each page may have a wrong link.
    assert len(gateway.listed.queries) <= 6 * (len(builds) / cap + 1) + 4 * len(spread) + 6


@pytest.mark.parametrize("count", [1, 2, 7, 10, 30, 37, 99])
def test_short_page_without_a_link_costs_one_request_until_a_link_has_come(server, client, count):
    server.otherwise = Listed([build(n, n) for n in range(1, count + 1)])
    assert len(numbers(client.iter_builds(WINDOW))) == count
    assert len(server.requests) == 2
    for _ in range(3):
        assert len(numbers(client.iter_builds(WINDOW))) == count
        assert not client.iter_finished(WINDOW, finished_from=DAY, max_pages=1).cut_off
        assert client.sample(WINDOW).pages == 1
    assert len(server.requests) == 2 + 3 * 3


@pytest.mark.parametrize("count", [0, 1, 2, 7, 10, 30, 37, 99])
def test_end_of_a_listing_without_links_costs_one_small_request(server, client, count):
    gateway = server.otherwise = Gateway(
        [build(n, n) for n in range(1, count + 1)], LINKS["stripped"]
    )
    for _ in range(3):
        assert len(numbers(client.iter_builds(WINDOW))) == count
    assert len(server.requests) == (6 if count else 3)
    assert all(query["exclude_jobs"] == "true" for query in gateway.listed.queries[1::2] if count)


def test_listing_of_the_size_of_a_known_cap_may_continue(server, client):
    server.otherwise = Listed([build(n, n) for n in range(1, 51)], per_page=37)
    assert len(numbers(client.iter_builds(WINDOW))) == 50
    server.otherwise = Gateway([build(n, n) for n in range(1, 51)], LINKS["stripped"], 37)
    assert len(numbers(client.iter_builds(WINDOW))) == 50


def test_clients_share_what_is_known_about_paging(server, connect):
    server.otherwise = Listed([build(n, n) for n in range(1, 6)])
    paging = Paging()
    for _ in range(2):
        assert len(numbers(connect(server.url, paging=paging).iter_builds(WINDOW))) == 5
    assert len(server.requests) == 3


def test_listing_is_complete_if_page_numbers_are_ignored(server, client):
    """No links, no page numbers, and capped pages: only time can narrow the listing."""
    listed = Listed([build(n, 10 * n) for n in range(1, 81)], per_page=7)

    def gateway(request):
        path = re.sub("&page=[0-9]+", "", request.path)
        return replace(listed(replace(request, path=path)), headers={})

    server.otherwise = gateway
    assert len(numbers(client.iter_builds(WINDOW))) == 80


def test_full_page_without_a_link_may_have_a_successor(server, client):
    server.otherwise = Listed([build(n, n) for n in range(1, 101)])
    assert len(numbers(client.iter_builds(WINDOW))) == 100
    # The second goes by time to earlier builds; the third proves that there are no more.
    assert len(server.requests) == 3


def test_second_that_cannot_be_read_completely_is_an_error(server, client):
    """There is no link, and the page number is ignored."""
    server.otherwise = as_json([build(n, 3599.5) for n in range(1, 101)])
    with pytest.raises(UnexpectedAnswer, match="forwards Buildkite's Link header"):
        list(client.iter_builds(WINDOW))


@pytest.mark.parametrize(
    "link",
    ["https://evil.test/v2?page=2", "//evil.test/v2?page=2", "http://127.0.0.1:1/v2", "http://[x"],
)
def test_token_is_not_sent_to_the_origin_of_a_foreign_link(server, client, link):
    server.otherwise = as_json([build(1, 3599)], headers={"Link": f'<{link}>; rel="next"'})

    assert numbers(client.iter_builds(WINDOW)) == [1]

    assert [request.path.partition("&page=")[2] for request in server.requests] == ["", "2"]

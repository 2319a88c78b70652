from __future__ import annotations

import pytest

from bk_pipeline.buildkite.paging import next_link, page_count
from bk_pipeline.errors import UnexpectedAnswer
from bk_pipeline.http.session import Response
from bk_pipeline.window import Window
from bk_pipeline_tests.buildkite.listed import DAY, build
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
def test_pages_are_counted_by_the_header(header, count):
    assert page_count(Response(200, {"Link": header}, b"", "GET x", HERE)) == count


def test_within_a_second_a_listing_follows_the_links_it_is_given(server, client):
    last_second = 3599
    for page in (2, 3):
        link = f'<{server.url}/elsewhere?cursor={page}>; rel="next"'
        server.replies.append(as_json([build(page, last_second)], headers={"Link": link}))
    server.replies.append(as_json([build(1, last_second)]))

    pages = list(client.iter_builds(WINDOW))

    assert [record.number for page in pages for record in page.builds] == [2, 3, 1]
    assert [r.path for r in server.requests[1:]] == ["/elsewhere?cursor=2", "/elsewhere?cursor=3"]


@pytest.mark.parametrize(
    "link",
    ["https://evil.test/v2?page=2", "//evil.test/v2?page=2", "http://127.0.0.1:1/v2", "http://[x"],
)
def test_token_does_not_follow_a_link_that_leads_away(server, client, link):
    server.otherwise = as_json([build()], headers={"Link": f'<{link}>; rel="next"'})

    with pytest.raises(UnexpectedAnswer, match="Set BUILDKITE_API_URL") as caught:
        list(client.iter_builds(WINDOW))

    assert len(server.requests) == 1
    assert "page=2" not in str(caught.value)


@pytest.mark.parametrize("onward", [["a", "a"], ["a", "b", "a"], ["a", "b", "b"]], ids="-".join)
def test_link_that_leads_back_ends_the_listing_with_an_error(server, client, onward):
    for page in onward:
        link = f'<{server.url}/v2/{page}?secret=1>; rel="next"'
        server.replies.append(as_json([], headers={"Link": link}))

    with pytest.raises(UnexpectedAnswer, match="leads back to an earlier one") as caught:
        list(client.iter_builds(WINDOW))

    assert len(server.requests) == len(onward)
    assert "secret" not in str(caught.value)

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bk_pipeline.buildkite.listing import PageFilter, PipelineFilter, iter_pages, wire_time
from bk_pipeline.buildkite.paging import RawPage
from bk_pipeline.errors import ListingTooDeep, RequestRefused
from bk_pipeline.window import Window
from bk_pipeline_tests.buildkite.listed import DAY, build, numbers

HOUR = Window(DAY, DAY + timedelta(hours=1))


class FakeListing:
    """Lists builds like Buildkite, without HTTP: newest first, refused from a depth on."""

    def __init__(self, builds, *, per_page=3, depth=None, detail="Too deep.", ordered=True):
        self.builds = sorted(builds, key=lambda b: b["created_at"], reverse=ordered)
        self.per_page = per_page
        self.depth = depth
        self.detail = detail
        self.queries = []

    def read(self, window):
        found = [
            json.dumps(build).encode()
            for build in self.builds
            if datetime.fromisoformat(build["created_at"]) in window
        ]
        for page in count():
            self.queries.append(window)
            if self.depth is not None and page >= self.depth:
                raise RequestRefused("Refused.", status=400, detail=self.detail)
            begin = page * self.per_page
            more = len(found) > begin + self.per_page
            yield RawPage(found[begin : begin + self.per_page], more)
            if not more:
                return

    def pages(self, window=HOUR, globs=()):
        return list(iter_pages(self.read, window, PageFilter(PipelineFilter(globs))))


@settings(max_examples=200, deadline=None)
@given(
    moments=st.lists(st.integers(0, 3_599_999), max_size=60),
    per_page=st.integers(1, 5),
    depth=st.integers(1, 6),
)
def test_each_build_is_listed_once_under_any_depth_limit(moments, per_page, depth):
    builds = [build(n, ms / 1000) for n, ms in enumerate(moments, 1)]
    listing = FakeListing(builds, per_page=per_page, depth=depth)
    in_one_second = Counter(ms // 1000 for ms in moments)

    try:
        listed = numbers(listing.pages())
    except ListingTooDeep:
        assert max(in_one_second.values()) > per_page * depth
    else:
        assert sorted(listed) == list(range(1, len(moments) + 1))


@settings(max_examples=100, deadline=None)
@given(
    moments=st.lists(st.integers(0, 3_599), max_size=40, unique=True),
    depth=st.integers(1, 4),
)
def test_undocumented_order_loses_no_build(moments, depth):
    builds = [build(n, second) for n, second in enumerate(moments, 1)]
    listing = FakeListing(builds, per_page=2, depth=depth, ordered=False)
    assert sorted(numbers(listing.pages())) == list(range(1, len(moments) + 1))


def test_deep_listing_continues_where_it_ended():
    """Only the page with the oldest second is read again."""
    listing = FakeListing([build(n, n * 10) for n in range(1, 101)], per_page=5, depth=4)

    assert numbers(listing.pages()) == list(range(100, 0, -1))
    assert len(listing.queries) <= 20 + 2 * 6


def test_depth_refused_on_the_first_page_halves_the_window_later_half_first():
    listing = FakeListing([build(1, 10), build(2, 3000)])
    narrow = listing.read

    def read(window):
        if window.length_s > 1800:
            raise RequestRefused("Refused.", status=400, detail="Listing this deep is refused")
        return narrow(window)

    pages = list(iter_pages(read, HOUR, PageFilter(PipelineFilter())))

    assert numbers(pages) == [2, 1]


@pytest.mark.parametrize(
    ("status", "detail"),
    [(400, "created_from is invalid"), (422, "too deep"), (400, "no branch deep-learning")],
)
def test_other_refusals_of_the_first_page_are_errors(status, detail):
    def read(window):
        raise RequestRefused("Refused.", status=status, detail=detail)
        yield

    with pytest.raises(RequestRefused):
        list(iter_pages(read, HOUR, PageFilter(PipelineFilter())))


def test_second_with_too_many_builds_is_an_error_with_the_setting():
    listing = FakeListing([build(n, 100.5) for n in range(1, 9)], per_page=2, depth=2)
    with pytest.raises(ListingTooDeep, match=r"BK_PIPELINE_PIPELINES.* Most .* of: web \(4\)"):
        listing.pages()


def test_builds_that_shift_between_pages_are_listed_once():
    """Within one second, where the `Link` header is followed."""
    first = [build(3, 3599.3), build(2, 3599.2)]
    second = [build(2, 3599.2), build(1, 3599.1)]
    raw_pages = [
        RawPage([json.dumps(b).encode() for b in page], more=True) for page in (first, second)
    ]

    pages = list(iter_pages(lambda _: iter(raw_pages), HOUR, PageFilter(PipelineFilter())))

    assert numbers(pages) == [3, 2, 1]


def test_excluded_pipelines_are_left_out():
    listing = FakeListing([build(1, 10, "web"), build(2, 20, "legacy-web"), build(3, 30, "api")])
    assert numbers(listing.pages(globs=("!legacy-*",))) == [3, 1]


def test_unusable_builds_are_quarantined_once_and_the_rest_is_listed():
    bad = {**build(2, 20), "number": "two"}
    elements = [json.dumps(b).encode() for b in (build(1, 10), bad, bad, 7, None)]

    [page] = iter_pages(
        lambda _: iter([RawPage(elements, more=False)]), HOUR, PageFilter(PipelineFilter())
    )

    assert [record.number for record in page.builds] == [1]
    assert list(map(str, page.quarantined)) == [
        f"{bad['id']}: Expected `int`, got `str` - at `$.number`",
        "record without an id: Expected `object`, got `int`",
        "record without an id: Expected `object`, got `null`",
    ]


def test_pages_are_requested_lazily():
    listing = FakeListing([build(n, n) for n in range(1, 10)])
    pages = iter_pages(listing.read, HOUR, PageFilter(PipelineFilter()))
    next(pages)
    assert len(listing.queries) == 1


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 19, tzinfo=UTC), "2026-11-19T00:00:00Z"),
        (datetime(2026, 11, 19, 1, 2, 3, 4000, tzinfo=UTC), "2026-11-19T01:02:03.004000Z"),
        (datetime(2026, 11, 19, 1, 2, 3, 1, tzinfo=UTC), "2026-11-19T01:02:03.000001Z"),
    ],
)
def test_times_are_sent_exactly(moment, text):
    assert wire_time(moment) == text
    assert datetime.fromisoformat(text) == moment

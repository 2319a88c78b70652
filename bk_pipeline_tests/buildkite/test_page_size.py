from __future__ import annotations

import pytest

from bk_pipeline.buildkite import paging
from bk_pipeline.buildkite.paging import PageSize
from bk_pipeline_tests.buildkite.listed import WHOLE_DAY, Listed, build, numbers


@pytest.fixture
def small(monkeypatch):
    """Sets the target size to 20 kB: 5 builds of 4 kB."""
    monkeypatch.setattr(paging, "TARGET_PAGE_BYTES", 20_000)
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 80_000)


class Sized(Listed):
    """Serves pages of any requested size."""

    def __call__(self, request):
        self.per_page = int(request.path.partition("per_page=")[2].partition("&")[0])
        return super().__call__(request)


def sizes(server) -> list[int]:
    return [int(one.path.partition("per_page=")[2].partition("&")[0]) for one in server.requests]


def test_page_size_is_the_maximum_while_builds_are_small():
    size = PageSize()
    size.learn([b"x" * 25_000] * 100)
    assert size.builds == 100


def test_page_size_follows_the_mean_size_of_builds(small):
    size = PageSize()
    size.learn([b"x" * 4_000] * 10)
    assert size.builds == 5
    size.learn([b"x"] * 5)
    assert size.builds == 10


def test_page_of_one_build_has_no_size_limit(small):
    size = PageSize()
    size.learn([b"x" * 1_000_000])
    assert (size.builds, size.max_bytes) == (1, None)


def test_too_large_answer_is_requested_in_smaller_pages(small, server, client):
    large = [build(n, n * 60, message="x" * 4_000) for n in range(1, 61)]
    server.otherwise = Sized(large)

    pages = list(client.iter_builds(WHOLE_DAY))

    assert sorted(numbers(pages)) == list(range(1, 61))
    assert sizes(server)[:3] == [100, 25, 6]
    assert max(sizes(server)[3:]) <= 10
    assert max(sum(len(b.payload) for b in page.builds) for page in pages) < 80_000


def test_builds_larger_than_the_limit_are_read_one_by_one(small, server, client):
    server.otherwise = Sized([build(n, n * 60, message="x" * 100_000) for n in range(1, 4)])
    assert sorted(numbers(client.iter_builds(WHOLE_DAY))) == [1, 2, 3]

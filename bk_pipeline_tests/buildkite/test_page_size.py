from __future__ import annotations

import pytest

from bk_pipeline.buildkite import paging
from bk_pipeline.buildkite.paging import PageSize
from bk_pipeline_tests.buildkite.listed import WHOLE_DAY, Listed, build, numbers


@pytest.fixture
def small(monkeypatch):
    """As if 20 kB were much: pages of 5 builds of 4 kB are wanted."""
    monkeypatch.setattr(paging, "WANTED_BYTES", 20_000)
    monkeypatch.setattr(paging, "MOST_BYTES", 80_000)


class Sized(Listed):
    """Pages of the size that is asked for."""

    def __call__(self, request):
        self.per_page = int(request.path.partition("per_page=")[2].partition("&")[0])
        return super().__call__(request)


def sizes(server) -> list[int]:
    return [int(one.path.partition("per_page=")[2].partition("&")[0]) for one in server.requests]


def test_pages_are_as_large_as_buildkite_gives_while_builds_are_small():
    size = PageSize()
    size.learn([b"x" * 25_000] * 100)
    assert size.builds == 100


def test_next_page_is_sized_by_what_the_last_ones_builds_took(small):
    size = PageSize()
    size.learn([b"x" * 4_000] * 10)
    assert size.builds == 5
    size.learn([b"x"] * 5)
    assert size.builds == 10


def test_one_build_is_taken_however_large(small):
    size = PageSize()
    size.learn([b"x" * 1_000_000])
    assert (size.builds, size.max_bytes) == (1, None)


def test_answer_that_is_too_large_is_asked_for_in_smaller_pages(small, server, client):
    large = [build(n, n * 60, message="x" * 4_000) for n in range(1, 61)]
    server.otherwise = Sized(large)

    pages = list(client.iter_builds(WHOLE_DAY))

    assert sorted(numbers(pages)) == list(range(1, 61))
    assert sizes(server)[:3] == [100, 25, 6]
    assert max(sizes(server)[3:]) <= 10
    assert max(sum(len(b.payload) for b in page.builds) for page in pages) < 80_000


def test_builds_larger_than_an_answer_may_be_are_read_one_by_one(small, server, client):
    server.otherwise = Sized([build(n, n * 60, message="x" * 100_000) for n in range(1, 4)])
    assert sorted(numbers(client.iter_builds(WHOLE_DAY))) == [1, 2, 3]

"""Bodies that break off anywhere, and chunks that end anywhere."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.buildkite.header_times import LONGEST_STRING_BYTES, Skeleton, read_header_times
from bk_pipeline.buildkite.streams import (
    MAX_CUTS,
    OpenBody,
    ResumingBody,
    content_range,
    plain_length,
)
from bk_pipeline.errors import ServiceUnavailable


class OneTry:
    """Stands in for `Api`: retries at once, as often as it takes."""

    def retry(self, attempt):
        while True:
            try:
                return attempt()
            except ServiceUnavailable:
                continue


def chunked(content, sizes):
    """`content` in chunks of these sizes, and the rest in one."""
    at = 0
    for size in sizes:
        yield content[at : at + size]
        at += size
    yield content[at:]


@given(
    content=st.binary(max_size=400),
    cuts=st.lists(st.integers(0, 400), max_size=MAX_CUTS),
    ranged=st.lists(st.booleans(), min_size=MAX_CUTS + 1, max_size=MAX_CUTS + 1),
    sizes=st.lists(st.integers(0, 50), max_size=9),
)
def test_body_is_whole_wherever_it_breaks_off(content, cuts, ranged, sizes):
    opened = []

    @contextmanager
    def open_at(position):
        start = position if ranged[len(opened)] else 0
        opened.append(position)
        yield OpenBody(pieces(content[start:], len(opened) - 1), start)

    def pieces(rest, number):
        if number >= len(cuts):
            yield from chunked(rest, sizes)
            return
        yield from chunked(rest[: cuts[number]], sizes)
        raise ServiceUnavailable("cut")

    spent = []
    body = ResumingBody(open_at, api=OneTry(), name="It", max_bytes=1000, on_bytes=spent.append)
    assert b"".join(body) == content
    assert sum(spent) >= len(content)
    if all(ranged):
        assert sum(spent) == len(content)


TEXT = st.text(st.characters(codec="utf-8"), max_size=60) | st.just('\\"' * 900)


@given(
    content=TEXT,
    url=TEXT,
    times=st.lists(st.integers(-(2**62), 2**62), max_size=9),
    sizes=st.lists(st.integers(0, 20), max_size=60),
    ascii_only=st.booleans(),
)
def test_header_times_are_the_same_in_any_chunks(content, url, times, sizes, ascii_only):
    log = {"url": url, "content": content, "size": 1, "header_times": times}
    body = json.dumps(log, ensure_ascii=ascii_only).encode()
    assert read_header_times(chunked(body, sizes)) == times


@given(st.binary(max_size=60), st.lists(st.integers(0, 9), max_size=9))
def test_any_bytes_are_read_without_an_exception(content, sizes):
    found = read_header_times(chunked(content, sizes))
    assert found is None or all(isinstance(one, int) for one in found)


def test_text_of_a_log_is_not_kept():
    skeleton = Skeleton()
    skeleton.feed(b'{"content": "')
    for _ in range(1000):
        skeleton.feed(b"\\u001b line \\n" * 5000)
    skeleton.feed(b'", "header_times": [1]}')
    assert len(skeleton._kept) < LONGEST_STRING_BYTES
    assert skeleton.decode() == {"content": "", "header_times": [1]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 5-9/10", (5, 10)),
        ("bytes 0-0/*", (0, None)),
        ("bytes */10", None),
        ("bytes 9-5/10", None),
        ("lines 0-1/2", None),
        ("bytes -1-2/3", None),
        ("", None),
    ],
)
def test_content_range_is_read_or_ignored(value, expected):
    assert content_range({"Content-Range": value}) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Content-Length": "12"}, 12),
        ({"Content-Length": "12", "Content-Encoding": "identity"}, 12),
        ({"Content-Length": "12", "Content-Encoding": "gzip"}, None),
        ({"Content-Length": "-1"}, None),
        ({"Content-Length": "1" * 30}, None),
        ({}, None),
    ],
)
def test_length_counts_only_if_the_body_is_not_compressed(headers, expected):
    assert plain_length(headers) == expected

"""Truncating and sanitizing text, and globs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.text import (
    TRUNCATION_MARK,
    Globs,
    compact_json,
    one_line,
    sanitize_json,
    shortened,
    truncate,
)
from bk_pipeline_tests.spans.wholeness import PATIENT


@PATIENT
@given(st.text(), st.integers(20, 60))
def test_text_is_complete_or_truncated_to_the_limit_and_marked(text, limit):
    short = truncate(text, limit)
    assert len(short.encode()) <= max(limit, len(text.encode()) if short == text else 0)
    assert short == text or (
        short.endswith(TRUNCATION_MARK) and text.startswith(short[: -len(TRUNCATION_MARK)])
    )
    assert (short == text) == (len(text.encode()) <= limit or text == short)


@PATIENT
@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_valid_json_is_unchanged(value):
    assert sanitize_json(compact_json(value).encode()) == compact_json(value).encode()


@PATIENT
@given(st.text(st.characters(exclude_categories=())))
def test_sanitized_json_can_be_decoded(text):
    units = text.encode("utf-16-be", "surrogatepass")
    escapes = b"".join(b"\\u%02x%02x" % pair for pair in zip(units[::2], units[1::2], strict=True))
    read = msgspec.json.decode(sanitize_json(b'"' + escapes + b'"'))
    assert read == units.decode("utf-16-be", "replace") or "\ufffd" in read
    assert len(read) <= len(text)


@PATIENT
@given(st.text(), st.integers(1, 9))
def test_shortened_text_ends_in_an_ellipsis_and_has_the_length(text, length):
    found = shortened(text, length)
    assert len(found) == min(len(text), length)
    assert found == text or (found[-1] == "…" and text.startswith(found[:-1]))


@PATIENT
@given(st.text(), st.integers(1, 9))
def test_one_line_is_short_and_printable(text, limit):
    found = one_line(text, limit)
    assert found.isprintable()
    assert len(found.removesuffix("…")) <= limit
    assert found == " ".join(found.split())


@pytest.mark.parametrize(
    ("globs", "name", "wanted"),
    [
        ((), "web", True),
        (("web",), "web", True),
        (("web",), "web-api", False),
        (("web-*",), "web-api", True),
        (("web-*",), "Web-api", False),
        (("web-*", "deploy"), "deploy", True),
        (("!legacy-*",), "web", True),
        (("!legacy-*",), "legacy-web", False),
        (("*", "!legacy-*"), "legacy-web", False),
        (("!legacy-*", "*"), "legacy-web", False),
        (("web-?",), "web-10", False),
        ((), None, True),
        (("main",), None, False),
        (("!*-wip",), None, True),
        (("release/*",), "release/1/2", True),
        (("*", "!gh-readonly-queue/*"), "gh-readonly-queue/main/pr-1", False),
    ],
)
def test_globs_include_and_exclude(globs, name, wanted):
    assert (name in Globs(globs)) is wanted

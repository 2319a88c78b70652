"""Text that is too long, or no text at all."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.text import CUT_MARK, compact, cut, mended
from bk_pipeline_tests.spans.wholeness import PATIENT


@PATIENT
@given(st.text(), st.integers(20, 60))
def test_a_text_is_whole_or_cut_within_the_limit_and_marked(text, limit):
    short = cut(text, limit)
    assert len(short.encode()) <= max(limit, len(text.encode()) if short == text else 0)
    assert short == text or (short.endswith(CUT_MARK) and text.startswith(short[: -len(CUT_MARK)]))
    assert (short == text) == (len(text.encode()) <= limit or text == short)


@PATIENT
@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_good_json_is_left_as_it_is(value):
    assert mended(compact(value).encode()) == compact(value).encode()


@PATIENT
@given(st.text(st.characters(exclude_categories=())))
def test_any_escapes_can_be_read_once_mended(text):
    units = text.encode("utf-16-be", "surrogatepass")
    escapes = b"".join(b"\\u%02x%02x" % pair for pair in zip(units[::2], units[1::2], strict=True))
    read = msgspec.json.decode(mended(b'"' + escapes + b'"'))
    assert read == units.decode("utf-16-be", "replace") or "\ufffd" in read
    assert len(read) <= len(text)

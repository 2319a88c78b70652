from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bk_pipeline.http.retry_after import retry_after_s

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("42", 42),
        (" 1.5 ", 1.5),
        ("-3", 0),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30),
        ("Fri, 20 Nov 2026 12:00:30 -0000", 30),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_seconds_and_dates_are_read_and_nonsense_is_none(text, seconds):
    assert retry_after_s({"Retry-After": text}, NOW) == seconds


def test_absent_header_is_none():
    assert retry_after_s({}, NOW) is None

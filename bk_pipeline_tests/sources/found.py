"""What must hold for the spans of every source, whatever its content."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bk_pipeline.sources.model import DetailSpan, JobTimes
from bk_pipeline.spans.fields import DETAIL_FIELDS


def check(spans: Sequence[DetailSpan], job: JobTimes) -> None:
    """Assert that spans are in the job and in their parents, and that identities are unique."""
    allowed = {field.name: field.kinds for field in DETAIL_FIELDS}
    assert len({(span.kind, span.identity) for span in spans}) == len(spans)
    for index, span in enumerate(spans):
        assert job.start_ns <= span.start_ns <= span.end_ns <= job.end_ns
        assert all(span.kind in allowed[name] for name in span.attributes)
        if span.parent is not None:
            assert 0 <= span.parent < index
            parent = spans[span.parent]
            assert parent.start_ns <= span.start_ns
            assert span.end_ns <= parent.end_ns


def split(content: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return `content` in pieces, some of them empty."""
    places = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    return [content[start:end] for start, end in pairwise(places)]


cuts = st.lists(st.integers(0, 1 << 20), max_size=8)
# Machines may be loaded: only what is found counts, not how long it took.
unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

"""Returns the spans of a payload by kind, after checking that the trace is consistent."""

from __future__ import annotations

from typing import Any

from bk_pipeline.spans.model import Span, SpanKind
from bk_pipeline_tests.builders import make_trace, ns_at
from bk_pipeline_tests.spans.wholeness import assert_whole


def spans_of(payload: Any, kind: SpanKind, **options: Any) -> list[Span]:
    trace = make_trace(payload, **options)
    assert_whole(trace)
    return [span for span in trace.spans if span.kind is kind]


def only(payload: Any, kind: SpanKind = SpanKind.JOB) -> Span:
    (span,) = spans_of(payload, kind)
    return span


def seconds(span: Span) -> tuple[float, float]:
    """Return start and end in seconds after the build's creation."""
    return (span.start_ns - ns_at(0)) / 1e9, (span.end_ns - ns_at(0)) / 1e9

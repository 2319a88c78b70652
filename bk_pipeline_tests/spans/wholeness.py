"""Invariants of every trace, and the hypothesis profile of the tests that check them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import msgspec
from hypothesis import HealthCheck, settings

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.model import Span, SpanKind, SpanOptions, Trace
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import SCHEMA, rows, table_of
from bk_pipeline.spans.timing import LATEST_NS, MAX_CLOCK_SKEW_NS, parse_ns
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.units import NS_PER_MS

# No deadline: machines are shared. HYPOTHESIS_EXAMPLES=20000 looks for rare failures.
PATIENT = settings(
    deadline=None,
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "150")),
    suppress_health_check=[HealthCheck.too_slow],
)

ABOVE = {
    SpanKind.BUILD: (),
    SpanKind.STAGE: (SpanKind.BUILD,),
    SpanKind.GROUP: (SpanKind.STAGE,),
    SpanKind.STEP: (SpanKind.STAGE, SpanKind.GROUP),
    SpanKind.JOB: (SpanKind.STEP,),
    SpanKind.WAIT: (SpanKind.STEP,),
}
SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")
TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")


def assert_whole(trace: Trace) -> None:
    root = trace.spans[0]
    by_id = {span.span_id: span for span in trace.spans}
    assert len(by_id) == len(trace.spans), "a span id twice"
    assert TRACE_ID.fullmatch(trace.trace_id)
    assert root.kind is SpanKind.BUILD
    assert root.parent_id is None
    for span in trace.spans[1:]:
        assert span.parent_id in by_id, "an orphan"
        assert by_id[span.parent_id].kind in ABOVE[span.kind]
    for span in trace.spans:
        assert_sound(span, root)
    created, finished = parse_ns(trace.build.created_at), parse_ns(trace.build.finished_at or "")
    assert created - MAX_CLOCK_SKEW_NS <= root.start_ns <= created
    assert 0 <= root.end_ns - max(created, finished) <= MAX_CLOCK_SKEW_NS
    starts = [span.start_ns for span in trace.spans]
    assert starts[1:] == sorted(starts[1:])
    assert trace.run_ms >= 0
    assert trace.queue_ms is None or trace.queue_ms >= 0
    assert_path_adds_up(trace)


def assert_path_adds_up(trace: Trace) -> None:
    root, path = trace.spans[0], trace.path
    assert path is not None
    parts = (path.run_ms, path.wait_ms, path.blocked_ms)
    assert min(parts) >= 0
    assert sum(parts) == (root.end_ns - root.start_ns) // NS_PER_MS
    for stage in (span for span in trace.spans if span.kind is SpanKind.STAGE):
        jobs = [
            span
            for span in trace.spans
            if span.stage is stage.stage and span.kind is SpanKind.JOB and span.job
        ]
        inside = [span.path for span in jobs if span.end_ns <= stage.end_ns and span.path]
        assert stage.path is not None
        assert all(share.ms >= 0 and (share.slack_ms or 0) >= 0 for share in inside)
        assert all(share.ms == 0 or share.critical for share in inside)
        assert all(share.slack_ms == 0 for share in inside if share.critical)
        if any(share.critical for share in inside):
            assert sum(share.ms for share in inside) == stage.path.ms


def assert_sound(span: Span, root: Span) -> None:
    assert SPAN_ID.fullmatch(span.span_id)
    assert type(span.start_ns) is type(span.end_ns) is int
    assert 0 <= root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns <= LATEST_NS
    assert span.wait_ms is None or span.wait_ms >= 0
    assert (span.error_type is not None) == (span.status == "error")


def assert_whole_or_refused(payload: bytes) -> Sequence[Trace]:
    """Check that a payload gives consistent traces and a table, or a RecordError with a reason."""
    try:
        trace = spans_for_build(decode_build(payload), options=SpanOptions(waits=True))
    except RecordError:
        return ()
    if trace is None:
        return ()
    assert_whole(trace)
    table = table_of([trace, trace])
    assert table.schema == SCHEMA
    assert table.num_rows == 2 * len(trace.spans)
    for row in rows(table):
        assert row["start_unix_nano"] <= row["end_unix_nano"]
        msgspec.json.decode(msgspec.json.encode(row))
    return (trace,)

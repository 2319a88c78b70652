"""Wait spans: a job's time between being runnable and being started, if they are asked for.

They stand beside the job's span, under its step: a job's own span begins with its start.
"""

from __future__ import annotations

from bk_pipeline.spans.ids import SpanIds
from bk_pipeline.spans.jobs import TimedJob
from bk_pipeline.spans.model import Span, SpanKind, SpanStatus


def wait_span(timed: TimedJob, step: Span, ids: SpanIds) -> Span | None:
    """The span of one attempt's wait; None if it did not wait, or nobody knows for how long."""
    if timed.runnable_ns is None or not timed.wait_ms:
        return None
    return Span(
        kind=SpanKind.WAIT,
        span_id=ids.derived(SpanKind.WAIT, timed.job.id),
        parent_id=step.span_id,
        start_ns=timed.runnable_ns,
        end_ns=timed.start_ns,
        status=SpanStatus.UNSET,
        stage=step.stage,
        group=step.group,
        step=step.step,
        job=timed.job,
        wait_ms=timed.wait_ms,
    )

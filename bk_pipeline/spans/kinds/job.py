"""Job spans: one for each attempt that ended."""

from __future__ import annotations

from bk_pipeline.spans import ids as plain_ids
from bk_pipeline.spans.ids import SpanIds
from bk_pipeline.spans.jobs import TimedJob
from bk_pipeline.spans.model import Link, Span, SpanKind

JOB = SpanKind.JOB


def job_span(timed: TimedJob, step: Span, ids: SpanIds, *, links: bool) -> Span:
    """The span of one attempt, under its step's in the stage where it ran."""
    job = timed.job
    code, error_type = timed.outcome
    return Span(
        kind=JOB,
        span_id=ids.job(job.id),
        parent_id=step.span_id,
        start_ns=timed.start_ns,
        end_ns=timed.end_ns,
        status=code,
        error_type=error_type,
        stage=step.stage,
        group=step.group,
        step=step.step,
        job=job,
        started=timed.started,
        wait_ms=timed.wait_ms,
        links=_links(timed, ids) if links and (timed.retry or job.triggered_build) else (),
        adjusted=timed.adjusted,
    )


def _links(timed: TimedJob, ids: SpanIds) -> tuple[Link, ...]:
    """To the attempt that this one replaces, and to the build that it triggered."""
    triggered = timed.job.triggered_build.id if timed.job.triggered_build else None
    links = []
    if timed.retry is not None:
        links.append(Link(ids.trace, ids.job(timed.retry.of)))
    if triggered:
        links.append(Link(plain_ids.trace_id(triggered), plain_ids.root_span_id(triggered)))
    return tuple(links)

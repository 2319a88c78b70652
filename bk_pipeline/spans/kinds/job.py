"""Job spans: one for each attempt that ended."""

from __future__ import annotations

from collections.abc import Iterable

from bk_pipeline.spans import ids as plain_ids
from bk_pipeline.spans.ids import SpanIds
from bk_pipeline.spans.jobs import TimedJob
from bk_pipeline.spans.model import Link, Span, SpanKind, SpanStatus
from bk_pipeline.spans.records import Job

HARD_FAILURES = frozenset({"failed", "timed_out", "expired"})
AGENT_LOST = "agent_lost"
LOST_EXIT_STATUS = -1
AGENT_STOPPED = "agent_stop"


def failed_hard(job: Job) -> bool:
    """It failed, timed out, expired or lost its agent, and the pipeline does not forgive it."""
    if job.soft_failed:
        return False
    if job.state == "finished":
        return bool(job.exit_status)
    return job.state in HARD_FAILURES


def agent_was_lost(job: Job) -> bool:
    """It failed because its agent vanished or was stopped, not by its command's doing.

    -1 is also the exit status of what was canceled or timed out, and of what an agent
    refused; the last is known by its `signal_reason`.
    """
    if job.state not in {"failed", "finished"}:
        return False
    unexplained = job.exit_status == LOST_EXIT_STATUS and not job.signal_reason
    return unexplained or job.signal_reason == AGENT_STOPPED


def status(job: Job) -> tuple[SpanStatus, str | None]:
    """The span status, and `error.type` where it is ERROR."""
    if failed_hard(job):
        if agent_was_lost(job):
            return SpanStatus.ERROR, AGENT_LOST
        return SpanStatus.ERROR, "failed" if job.state == "finished" else job.state
    passed = job.state in {"passed", "unblocked"} or (
        job.state == "finished" and job.exit_status == 0
    )
    return (SpanStatus.OK if passed else SpanStatus.UNSET), None


def status_of_all(
    statuses: Iterable[tuple[SpanStatus, str | None]],
) -> tuple[SpanStatus, str | None]:
    """The first error there is, else OK if all are, else UNSET."""
    passed = True
    for code, error_type in statuses:
        if code is SpanStatus.ERROR:
            return code, error_type
        passed = passed and code is SpanStatus.OK
    return (SpanStatus.OK if passed else SpanStatus.UNSET), None


def job_span(timed: TimedJob, step: Span, ids: SpanIds, *, links: bool) -> Span:
    """The span of one attempt, under its step's in the stage where it ran."""
    job = timed.job
    code, error_type = status(job)
    return Span(
        kind=SpanKind.JOB,
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
        links=_links(timed, ids) if links else (),
        adjusted=timed.adjusted,
    )


def _links(timed: TimedJob, ids: SpanIds) -> tuple[Link, ...]:
    """To the attempt that this one replaces, and to the build that it triggered."""
    triggered = timed.job.triggered_build.id if timed.job.triggered_build else None
    if timed.retry is None and not triggered:
        return ()
    links = []
    if timed.retry is not None:
        links.append(Link(ids.trace, ids.job(timed.retry.of)))
    if triggered:
        links.append(Link(plain_ids.trace_id(triggered), plain_ids.root_span_id(triggered)))
    return tuple(links)

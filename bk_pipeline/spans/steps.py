"""Spans of steps, groups and jobs, and of the time that jobs waited for an agent.

A step span covers all attempts, parallel jobs and matrix jobs of one step in one stage.
"""

from __future__ import annotations

from collections.abc import Sequence

from bk_pipeline.spans.critical_path import combined
from bk_pipeline.spans.ids import SpanIds, root_span_id, trace_id
from bk_pipeline.spans.jobs import Outcome, Retries, TimedJob, combined_outcome, last_attempts
from bk_pipeline.spans.model import Group, Link, PathShare, Span, SpanKind, SpanStatus, Stage, Step
from bk_pipeline.spans.records import Job

# The type of a job -> the type of its step in a pipeline file. Jobs of input steps are
# `manual` too, and nothing in the payload tells them from jobs of block steps.
STEP_TYPES = {"script": "command", "manual": "block", "trigger": "trigger"}


def steps(jobs: Sequence[TimedJob], retries: Retries) -> list[tuple[Step, list[TimedJob]]]:
    """Return the steps of one stage, each with its jobs, in order of first appearance."""
    found: dict[str, tuple[Step, list[TimedJob]]] = {}
    groups: dict[str, Group] = {}
    for timed in jobs:
        job = timed.job
        identity = job.step.id if job.step else None
        if not identity:
            identity = _identity(job, retries)
        label = (job.step.label if job.step else None) or job.label or job.name
        entry = found.get(identity)
        if entry is None:
            entry = found[identity] = (_step(job, identity, label, groups), [])
        step, members = entry
        if job.matrix:
            step.matrix = True
        if step.label != label:
            # The names of parallel and matrix jobs hold their own index or values.
            step.label = step.key or step.label
        members.append(timed)
    return list(found.values())


def _identity(job: Job, retries: Retries) -> str:
    """Return the identity of a step without an id: its key, else its first attempt's job id.

    Parallel jobs in old payloads share neither an id nor a key, so their name identifies
    the step.
    """
    key = job.step_key or (job.step.key if job.step else None)
    if key:
        return "\0".join(("key", job.group_key or "", key))
    if job.parallel_group_total:
        name = job.name or job.label or job.command or ""
        return "\0".join(("parallel", job.group_key or "", name))
    return retries.origin(job.id)


def _step(job: Job, identity: str, label: str | None, groups: dict[str, Group]) -> Step:
    group = None
    if job.group_key:
        group = groups.get(job.group_key)
        if group is None:
            group = groups[job.group_key] = Group(job.group_key)
    ref = job.step
    return Step(
        identity=identity,
        id=ref.id if ref else None,
        key=job.step_key or (ref.key if ref else None),
        label=label,
        type=STEP_TYPES.get(job.type, job.type),
        command=job.command,
        group=group,
    )


def step_span(
    step: Step,
    members: Sequence[TimedJob],
    ids: SpanIds,
    *,
    parent_id: str,
    stage: Stage,
    retries: Retries,
) -> Span:
    """Return the span of one step in one stage, a child of its group or of the stage."""
    first = members[0]
    (status, error_type), adjusted = first.outcome, first.adjusted
    start, end, path = _runnable_from(first, stage), first.end_ns, first.path
    if len(members) > 1:
        status, error_type = _outcome(members, retries)
        start = min([_runnable_from(job, stage) for job in members])
        end = max([job.end_ns for job in members])
        adjusted = any(job.adjusted for job in members)
        path = combined([job.path for job in members])
    return Span(
        kind=SpanKind.STEP,
        span_id=ids.derived(SpanKind.STEP, str(stage.number), step.identity),
        parent_id=parent_id,
        start_ns=start,
        end_ns=end,
        status=status,
        error_type=error_type,
        stage=stage,
        group=step.group,
        step=step,
        adjusted=adjusted,
        path=path,
    )


def _outcome(members: Sequence[TimedJob], retries: Retries) -> Outcome:
    """Return the combined outcome of the attempts that were not retried."""
    last = last_attempts([job.job.id for job in members], retries)
    return combined_outcome([job.outcome for job in members if job.job.id in last])


def _runnable_from(job: TimedJob, stage: Stage) -> int:
    """Return when the job became runnable within this stage, or its start if that is earlier."""
    runnable = job.runnable_ns if job.runnable_ns is not None else job.created_ns
    if job.manual or runnable is None or runnable > job.start_ns:
        return job.start_ns
    return runnable if runnable >= stage.start_ns else min(stage.start_ns, job.start_ns)


def group_span(
    group: Group, steps: Sequence[Span], *, span_id: str, parent_id: str, stage: Stage
) -> Span:
    """Return the span of one group in one stage. It spans all of `steps` (not empty)."""
    status, error_type = combined_outcome([(step.status, step.error_type) for step in steps])
    return Span(
        kind=SpanKind.GROUP,
        span_id=span_id,
        parent_id=parent_id,
        start_ns=min(step.start_ns for step in steps),
        end_ns=max(step.end_ns for step in steps),
        status=status,
        error_type=error_type,
        stage=stage,
        group=group,
        step=Step(identity=group.key, key=group.key, type="group", group=group),
        adjusted=any(step.adjusted for step in steps),
        path=combined([step.path for step in steps]),
    )


def job_span(timed: TimedJob, step: Span, ids: SpanIds, *, links: bool) -> Span:
    """Return the span of one attempt, a child of its step's span in the stage where it ran."""
    job = timed.job
    status, error_type = timed.outcome
    return Span(
        kind=SpanKind.JOB,
        span_id=ids.job(job.id),
        parent_id=step.span_id,
        start_ns=timed.start_ns,
        end_ns=timed.end_ns,
        status=status,
        error_type=error_type,
        stage=step.stage,
        group=step.group,
        step=step.step,
        job=job,
        started=timed.started,
        wait_ms=timed.wait_ms,
        links=_links(timed, ids) if links and (timed.retry or job.triggered_build) else (),
        adjusted=timed.adjusted,
        path=timed.path,
    )


def _links(timed: TimedJob, ids: SpanIds) -> tuple[Link, ...]:
    """Link to the attempt that this one retries, and to the build that it triggered."""
    triggered = timed.job.triggered_build.id if timed.job.triggered_build else None
    links = []
    if timed.retry is not None:
        links.append(Link(ids.trace, ids.job(timed.retry.of)))
    if triggered:
        links.append(Link(trace_id(triggered), root_span_id(triggered)))
    return tuple(links)


def wait_span(timed: TimedJob, step: Span, ids: SpanIds) -> Span | None:
    """Return the span of an attempt's wait for an agent, or None if it did not or is unknown."""
    if timed.runnable_ns is None or not timed.wait_ms:
        return None
    of_job = timed.path
    path = of_job and PathShare(None, critical=of_job.critical, ms=of_job.wait_ms)
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
        path=path,
    )

"""Step spans: one for each step in each stage, over its attempts, parallel and matrix jobs."""

from __future__ import annotations

from collections.abc import Sequence

from bk_pipeline.spans import ids as plain_ids
from bk_pipeline.spans.ids import SpanIds
from bk_pipeline.spans.jobs import Outcome, Retries, TimedJob, status_of_all, unreplaced
from bk_pipeline.spans.model import Group, Link, Span, SpanKind, SpanStatus, Stage, Step
from bk_pipeline.spans.records import Job

STEP = SpanKind.STEP
# A job's type, and what its step is called in a pipeline file. An input step's job is
# `manual` too, and nothing in the payload tells it from a block step's.
STEP_TYPES = {"script": "command", "manual": "block", "trigger": "trigger"}


def steps(timed: Sequence[TimedJob], retries: Retries) -> list[tuple[Step, list[TimedJob]]]:
    """The steps of one stage, each with its jobs, in order of first appearance."""
    found: dict[str, tuple[Step, list[TimedJob]]] = {}
    groups: dict[str, Group] = {}
    for one in timed:
        job = one.job
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
            # Parallel and matrix jobs carry their own index or values in their names.
            step.label = step.key or step.label
        members.append(one)
    return list(found.values())


def _identity(job: Job, retries: Retries) -> str:
    """What makes a step without an id the same one: its key, else its first attempt's id.

    Parallel jobs of old payloads have neither id nor key in common; their name is all that
    holds them together.
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
    """The span of one step in one stage, under its group or the stage."""
    first = members[0]
    (code, error_type), adjusted = first.outcome, first.adjusted
    begins, ends = _begin(first, stage), first.end_ns
    if len(members) > 1:
        code, error_type = _outcome(members, retries)
        begins = min([_begin(one, stage) for one in members])
        ends = max([one.end_ns for one in members])
        adjusted = any(one.adjusted for one in members)
    return Span(
        kind=STEP,
        span_id=ids.derived(STEP, str(stage.number), step.identity),
        parent_id=parent_id,
        start_ns=begins,
        end_ns=ends,
        status=code,
        error_type=error_type,
        stage=stage,
        group=step.group,
        step=step,
        adjusted=adjusted,
    )


def _outcome(members: Sequence[TimedJob], retries: Retries) -> Outcome:
    """That of the attempts that no other one replaces."""
    left = unreplaced([one.job.id for one in members], retries)
    return status_of_all([one.outcome for one in members if one.job.id in left])


def _begin(one: TimedJob, stage: Stage) -> int:
    """When the job began to wait for its turn in this stage, or ran, if that is earlier."""
    begin = one.runnable_ns if one.runnable_ns is not None else one.created_ns
    if one.manual or begin is None or begin > one.start_ns:
        return one.start_ns
    return begin if begin >= stage.start_ns else min(stage.start_ns, one.start_ns)


def group_span(
    group: Group, steps: Sequence[Span], *, span_id: str, parent_id: str, stage: Stage
) -> Span:
    """The span of one group in one stage, as long as its `steps` (at least one) together."""
    code, error_type = status_of_all([(step.status, step.error_type) for step in steps])
    return Span(
        kind=SpanKind.GROUP,
        span_id=span_id,
        parent_id=parent_id,
        start_ns=min(step.start_ns for step in steps),
        end_ns=max(step.end_ns for step in steps),
        status=code,
        error_type=error_type,
        stage=stage,
        group=group,
        step=Step(identity=group.key, key=group.key, type="group", group=group),
        adjusted=any(step.adjusted for step in steps),
    )


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

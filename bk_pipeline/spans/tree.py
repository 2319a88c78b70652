"""Builds the span tree of one build: the build, its stages, groups, steps and jobs.

The tree is consistent whatever times the payload holds: one root, every parent present, no
negative duration, no span outside the build. Spans that had to be changed for that are marked.

The root span covers the build from its creation to its finish. A stage is a period in which
the build was active, between pauses: a new one starts when a block step is unblocked, or a
job is retried by hand, while nothing else runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import attrgetter

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.critical_path import set_path_shares
from bk_pipeline.spans.ids import SpanIds, root_span_id, trace_id
from bk_pipeline.spans.jobs import NO_SPAN_STATES, Retries, TimedJob, failed_hard, timed_jobs
from bk_pipeline.spans.model import (
    BuildPath,
    Link,
    PathShare,
    Span,
    SpanKind,
    SpanOptions,
    SpanStatus,
    Stage,
    Trace,
)
from bk_pipeline.spans.records import Build
from bk_pipeline.spans.steps import group_span, job_span, step_span, steps, wait_span
from bk_pipeline.spans.timing import EARLIEST_NS, LATEST_NS, MAX_CLOCK_SKEW_NS, Times
from bk_pipeline.units import NS_PER_MS

STATUSES = {"passed": SpanStatus.OK, "failed": SpanStatus.ERROR}
# A time at one of these was probably clamped when it was parsed.
TIME_LIMITS = (EARLIEST_NS, LATEST_NS)


def build_span(
    build: Build, jobs: Sequence[TimedJob], ids: SpanIds, times: Times, *, links: bool
) -> Span:
    """Return the root span of a build.

    It runs from `created_at` to `finished_at` (`started_at` is not used: it moves when a job
    is retried). Jobs that lie outside by no more than the tolerated clock skew extend it, so
    that they need not be clamped.

    Args:
        build: The build.
        jobs: All jobs of the build, also those without spans: what the payload holds at the
            first finish must not move the start at a later finish.
        ids: The ids of the trace.
        times: The cache of parsed times.
        links: Whether to add links to related builds.

    Raises:
        RecordError: `created_at` or `finished_at` cannot be parsed.
    """
    created, finished = _time(build, "created_at", times), _time(build, "finished_at", times)
    start, end = _extent(created, max(created, finished), jobs)
    status = STATUSES.get(build.state or "", SpanStatus.UNSET)
    return Span(
        kind=SpanKind.BUILD,
        span_id=ids.root,
        parent_id=None,
        start_ns=start,
        end_ns=end,
        status=status,
        error_type="failed" if status is SpanStatus.ERROR else None,
        state=build.state,
        blocked_state=blocked_state(build),
        links=tuple(_links(build, ids)) if links else (),
        adjusted=finished < created or created in TIME_LIMITS or finished in TIME_LIMITS,
    )


def _extent(created: int, finished: int, jobs: Sequence[TimedJob]) -> tuple[int, int]:
    """Return the root span's start and end, extended by jobs within the tolerated skew."""
    start, end = created, finished
    earliest, latest = created - MAX_CLOCK_SKEW_NS, finished + MAX_CLOCK_SKEW_NS
    for job in jobs:
        if job.created_ns is not None and earliest <= job.created_ns < start:
            start = job.created_ns
        if job.has_span:
            if earliest <= job.start_ns < start:
                start = job.start_ns
            if end < job.end_ns <= latest:
                end = job.end_ns
    return max(start, EARLIEST_NS), min(end, LATEST_NS)


def blocked_state(build: Build) -> str | None:
    """Return the state in which the build waits at a block step, or None if it does not wait."""
    return build.blocked_state or (build.state if build.blocked else None)


def _time(build: Build, name: str, times: Times) -> int:
    try:
        ns = times[getattr(build, name)]
    except (ValueError, OverflowError) as exc:
        raise RecordError(f"Expected a time - at `$.{name}`", record_id=build.id) from exc
    if ns is None:
        raise RecordError(f"Expected a time - at `$.{name}`", record_id=build.id)
    return ns


def _links(build: Build, ids: SpanIds) -> dict[Link, None]:
    """Link to the build that triggered this one, to the build it was rebuilt from, and to the span
    whose context it was given in `TRACEPARENT`; each once (the result is an ordered set).
    """
    triggering = build.triggered_from.build_id if build.triggered_from else None
    original = build.rebuilt_from.id if build.rebuilt_from else None
    others = [other for other in (triggering, original) if other]
    links = {Link(trace_id(other), root_span_id(other)): None for other in others}
    if build.traceparent and build.traceparent[0] != ids.trace:
        links[Link(*build.traceparent)] = None
    return links


StageJobs = tuple[Stage, list[TimedJob]]


def stages(
    build: Build, jobs: Sequence[TimedJob], *, start_ns: int, end_ns: int
) -> list[StageJobs]:
    """Return the build's stages in order, each with its jobs in payload order.

    A block step belongs to the stage that it ended; its `start_ns` is set here. A job that
    was never active (canceled before it could run) belongs to the stage before its end, and
    does not extend that stage.

    Args:
        build: The build.
        jobs: The build's jobs that have spans.
        start_ns: The start of the build, where the first stage starts.
        end_ns: The end of the build, where the only stage of a build without jobs ends.
    """
    resumed = resume_times(jobs, start_ns=start_ns)
    found: list[StageJobs] = [
        (Stage(number, start, start), []) for number, start in enumerate((start_ns, *resumed), 1)
    ]
    for job in jobs:
        found[bisect_left(resumed, job.end_ns) if resumed else 0][1].append(job)
    for stage, members in found:
        ends = [job.end_ns for job in members if job.active_ns is not None]
        stage.end_ns = max([stage.start_ns, *ends])
    _end_idle_first_stage(build, *found[0], end_ns=end_ns if len(found) == 1 else start_ns)
    for stage, members in found:
        _set_block_starts(stage, members)
    _set_states(build, found)
    return found


def resume_times(jobs: Sequence[TimedJob], *, start_ns: int) -> list[int]:
    """Return the start times of all stages but the first (which starts at `start_ns`), in order."""
    candidates = sorted({job.resumed_ns for job in jobs if job.resumed_ns is not None})
    if not candidates:
        return []
    active = sorted((job.active_ns, job.end_ns) for job in jobs if job.active_ns is not None)
    after_pause = []
    latest_end = start_ns
    begun = 0
    for moment in candidates:
        while begun < len(active) and active[begun][0] < moment:
            latest_end = max(latest_end, active[begun][1])
            begun += 1
        if latest_end < moment:
            after_pause.append(moment)
    # A pause that no activity followed before the next one starts no stage.
    with_activity = {bisect_left(after_pause, end) for _, end in active}
    return [moment for n, moment in enumerate(after_pause, 1) if n in with_activity]


def _end_idle_first_stage(
    build: Build, stage: Stage, members: list[TimedJob], *, end_ns: int
) -> None:
    """Set the end of a first stage in which no job was ever active.

    If the build starts with a block step, it paused at once and the stage has no length.
    Otherwise it waited until its jobs were canceled, or had nothing to run.
    """
    if any(job.active_ns is not None for job in members):
        return
    first_type = next(
        (
            job.type
            for job in build.jobs or ()
            if job.type != "waiter" and job.state not in NO_SPAN_STATES
        ),
        None,
    )
    if first_type != "manual":
        stage.end_ns = max((job.end_ns for job in members if not job.manual), default=end_ns)


def _set_block_starts(stage: Stage, members: list[TimedJob]) -> None:
    """Set the start of the stage's block steps: the end of the stage.

    A block step behind another one waited from when the other was unblocked. One that was
    unblocked while other jobs were running has no known start: the latest earlier end among
    the jobs before it in the payload is used, and the span is marked as adjusted.
    """
    unblocked = stage.end_ns
    for n, job in enumerate(members):
        if not job.manual:
            continue
        if stage.end_ns <= job.end_ns:
            job.start_ns = unblocked if unblocked <= job.end_ns else stage.end_ns
            unblocked = max(unblocked, job.end_ns)
        else:
            before = (other.end_ns for other in members[:n] if other.end_ns <= job.end_ns)
            job.start_ns = max(before, default=min(stage.start_ns, job.end_ns))
            job.adjusted = True


def _set_states(build: Build, found: Sequence[StageJobs]) -> None:
    """Set the state that the build had at the end of each stage.

    The last stage takes it from the payload. For earlier ones it follows from their jobs:
    `failed` if a hard failure had not been retried by then, else `canceled` by the same rule,
    else `passed`.
    """
    last = found[-1][0]
    last.blocked_state = blocked_state(build)
    if len(found) == 1 and build.state:
        last.state = build.state
        return
    failed: set[str] = set()
    canceled: set[str] = set()
    unblock_times = {job.end_ns for _, members in found for job in members if job.manual}
    for n, (stage, members) in enumerate(found, 1):
        failed |= {job.job.id for job in members if failed_hard(job.job)}
        canceled |= {job.job.id for job in members if job.job.state == "canceled"}
        retried = {job.retry.of for job in members if job.retry}
        failed -= retried
        canceled -= retried
        stage.state = "failed" if failed else "canceled" if canceled else "passed"
        if n < len(found) and found[n][0].start_ns in unblock_times:
            stage.blocked_state = stage.state
    last.state = build.state or last.state
    last.blocked_state = blocked_state(build)


def stage_span(stage: Stage, ids: SpanIds) -> Span:
    """Return the span of one stage, a child of the root span."""
    status = STATUSES.get(stage.state or "", SpanStatus.UNSET)
    return Span(
        kind=SpanKind.STAGE,
        span_id=ids.derived(SpanKind.STAGE, str(stage.number)),
        parent_id=ids.root,
        start_ns=stage.start_ns,
        end_ns=stage.end_ns,
        status=status,
        error_type="failed" if status is SpanStatus.ERROR else None,
        stage=stage,
        state=stage.state,
        blocked_state=stage.blocked_state,
        path=stage.path,
    )


DEFAULTS = SpanOptions()


def spans_for_build(
    build: Build, *, times: Times | None = None, options: SpanOptions = DEFAULTS
) -> Trace | None:
    """Return the build's trace, or None if the build has not finished.

    The root comes first, the other spans by start. Pure: the same payload always gives the
    same spans. A blocked build counts as finished (Buildkite sets `finished_at` when it
    pauses): the jobs that have ended by then have spans.

    Args:
        build: The build as decoded from the API's payload.
        times: A cache of parsed times, if many builds are transformed.
        options: Which optional spans and links to create.

    Raises:
        RecordError: The payload cannot be transformed; the message says why.
    """
    if not build.finished_at:
        return None
    retries = Retries(build.jobs or ())
    times = Times() if times is None else times
    jobs = timed_jobs(build, retries, times)
    with_span = [job for job in jobs if job.has_span]
    ids = SpanIds(build.id, {job.job.id: job.end_ns for job in with_span})
    root = build_span(build, jobs, ids, times, links=options.links)
    for job in with_span:
        job.clamp(root.start_ns, root.end_ns)
    found = stages(build, with_span, start_ns=root.start_ns, end_ns=root.end_ns)
    path = _set_critical_path(found, root) if options.critical_path else None
    spans: list[Span] = []
    run_ns = 0
    for stage, members in found:
        spans += _stage_tree(stage, members, ids, retries, options)
        run_ns += stage.end_ns - stage.start_ns
    spans.sort(key=attrgetter("start_ns"))
    return Trace(
        ids.trace,
        build,
        [root, *spans],
        queue_ms=_queue_ms(with_span, root),
        run_ms=run_ns // NS_PER_MS,
        path=path,
    )


def _set_critical_path(found: Sequence[StageJobs], root: Span) -> BuildPath:
    """Set the shares that stages and jobs have of the critical path, and return that of the build.

    Pauses count as blocked: nothing was active until someone unblocked a step or retried a job. The
    time after the last stage does so only up to the last unblocking.
    """
    origin = root.start_ns
    run = blocked = 0
    ends = [stage.start_ns for stage, _ in found[1:]]
    ends.append(max([job.end_ns for job in found[-1][1] if job.manual], default=origin))
    for (stage, members), pause_end in zip(found, ends, strict=True):
        times = set_path_shares(stage, members, origin_ns=origin)
        run += times.run_ns
        blocked += times.blocked_ns + max(pause_end - stage.end_ns, 0)
        ms = (stage.end_ns - origin) // NS_PER_MS - (stage.start_ns - origin) // NS_PER_MS
        stage.path = PathShare(0, critical=True, ms=ms)
    run_ms, blocked_ms = run // NS_PER_MS, blocked // NS_PER_MS
    length_ms = (root.end_ns - origin) // NS_PER_MS
    return BuildPath(run_ms, length_ms - run_ms - blocked_ms, blocked_ms)


def _stage_tree(
    stage: Stage,
    members: Sequence[TimedJob],
    ids: SpanIds,
    retries: Retries,
    options: SpanOptions,
) -> Iterator[Span]:
    """Yield a stage's span and its descendants: groups, steps and jobs, parents first."""
    top = stage_span(stage, ids)
    yield top
    group_ids: dict[str, str] = {}
    steps_of_group: dict[str, list[Span]] = {}
    descendants: list[Span] = []
    for step, attempts in steps(members, retries):
        parent_id = top.span_id
        if step.group:
            key = step.group.key
            parent_id = group_ids.get(key) or ids.derived(SpanKind.GROUP, str(stage.number), key)
            group_ids[key] = parent_id
        span = step_span(step, attempts, ids, parent_id=parent_id, stage=stage, retries=retries)
        descendants.append(span)
        if step.group:
            steps_of_group.setdefault(step.group.key, []).append(span)
        for job in attempts:
            wait = wait_span(job, span, ids) if options.waits else None
            if wait is not None:
                descendants.append(wait)
            descendants.append(job_span(job, span, ids, links=options.links))
    for key, spans in steps_of_group.items():
        group = spans[0].group
        assert group is not None
        yield group_span(group, spans, span_id=group_ids[key], parent_id=top.span_id, stage=stage)
    yield from descendants


def _queue_ms(jobs: Sequence[TimedJob], root: Span) -> int | None:
    starts = [job.start_ns for job in jobs if job.started and not job.manual]
    return (min(starts) - root.start_ns) // NS_PER_MS if starts else None

"""Builds the span tree of one build: the build, its stages, groups, steps and jobs.

The tree is consistent whatever times the payload holds: one root, every parent present, no
negative duration, no span outside the build. Spans that had to be changed for that are marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from bk_pipeline.spans.ids import SpanIds
from bk_pipeline.spans.jobs import Retries, TimedJob, timed_jobs
from bk_pipeline.spans.kinds.build import build_span, stage_span, stages
from bk_pipeline.spans.kinds.step import group_span, job_span, step_span, steps, wait_span
from bk_pipeline.spans.model import Span, SpanKind, SpanOptions, Stage, Trace
from bk_pipeline.spans.records import Build
from bk_pipeline.spans.timing import Times
from bk_pipeline.units import NS_PER_MS

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
    spans: list[Span] = []
    run_ns = 0
    for stage, members in stages(build, with_span, start_ns=root.start_ns, end_ns=root.end_ns):
        spans += _stage_tree(stage, members, ids, retries, options)
        run_ns += stage.end_ns - stage.start_ns
    spans.sort(key=attrgetter("start_ns"))
    return Trace(
        ids.trace,
        build,
        [root, *spans],
        queue_ms=_queue_ms(with_span, root),
        run_ms=run_ns // NS_PER_MS,
    )


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

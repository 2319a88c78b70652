"""A build's payload as a tree of spans: build, stages, groups, steps, jobs.

Whatever the payload says of times, the tree is whole: one root, every parent present, no
negative duration, nothing outside the build. What had to be moved for that is marked.
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
    """The build's trace, root first and then by start; None while it has not finished.

    Pure: the same payload always gives the same spans. A blocked build counts as finished
    (Buildkite sets `finished_at` where it pauses): what has ended by then gives spans.

    Args:
        build: What the API says.
        times: Known times; for one build alone there is no use in them.
        options: What to leave out.

    Raises:
        RecordError: The payload cannot be made into spans; the reason says why.
    """
    if not build.finished_at:
        return None
    retries = Retries(build.jobs or ())
    times = Times() if times is None else times
    jobs = timed_jobs(build, retries, times)
    timed = [one for one in jobs if one.gives_span]
    ids = SpanIds(build.id, {one.job.id: one.end_ns for one in timed})
    root = build_span(build, jobs, ids, times, links=options.links)
    earliest, latest = root.start_ns, root.end_ns
    for one in timed:
        one.confine(earliest, latest)
    spans: list[Span] = []
    run_ns = 0
    for stage, members in stages(build, timed, start_ns=root.start_ns, end_ns=root.end_ns):
        spans += _stage_tree(stage, members, ids, retries, options)
        run_ns += stage.end_ns - stage.start_ns
    spans.sort(key=attrgetter("start_ns"))
    return Trace(
        ids.trace,
        build,
        [root, *spans],
        queue_ms=_queue_ms(timed, root),
        run_ms=run_ns // NS_PER_MS,
    )


def _stage_tree(
    stage: Stage,
    members: Sequence[TimedJob],
    ids: SpanIds,
    retries: Retries,
    options: SpanOptions,
) -> Iterator[Span]:
    """A stage's span and those below it: groups, steps and jobs, parents first."""
    top = stage_span(stage, ids)
    yield top
    group_ids: dict[str, str] = {}
    grouped: dict[str, list[Span]] = {}
    below: list[Span] = []
    for step, attempts in steps(members, retries):
        above = top.span_id
        if step.group:
            key = step.group.key
            above = group_ids.get(key) or ids.derived(SpanKind.GROUP, str(stage.number), key)
            group_ids[key] = above
        span = step_span(step, attempts, ids, parent_id=above, stage=stage, retries=retries)
        below.append(span)
        if step.group:
            grouped.setdefault(step.group.key, []).append(span)
        for one in attempts:
            wait = wait_span(one, span, ids) if options.waits else None
            if wait is not None:
                below.append(wait)
            below.append(job_span(one, span, ids, links=options.links))
    for key, inside in grouped.items():
        group = inside[0].group
        assert group is not None
        yield group_span(group, inside, span_id=group_ids[key], parent_id=top.span_id, stage=stage)
    yield from below


def _queue_ms(timed: Sequence[TimedJob], root: Span) -> int | None:
    starts = [one.start_ns for one in timed if one.started and not one.manual]
    return (min(starts) - root.start_ns) // NS_PER_MS if starts else None

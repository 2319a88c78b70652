"""The root span: the build from its creation to its first finish."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.ids import SpanIds, root_span_id, trace_id
from bk_pipeline.spans.jobs import NO_SPAN_STATES, TimedJob, failed_hard
from bk_pipeline.spans.model import Link, Span, SpanKind, SpanStatus, Stage
from bk_pipeline.spans.records import Build
from bk_pipeline.spans.timing import DISAGREEMENT_NS, EARLIEST_NS, LATEST_NS, Times

STATUSES = {"passed": SpanStatus.OK, "failed": SpanStatus.ERROR}
EDGES = (EARLIEST_NS, LATEST_NS)


def build_span(
    build: Build, jobs: Sequence[TimedJob], ids: SpanIds, times: Times, *, links: bool
) -> Span:
    """The root span, without a parent.

    From `created_at` to `finished_at` (`started_at` moves when a job is retried, and is not
    used); a job that was created or started a little earlier, or ended a little later,
    widens it, so that no job has to be cut for a disagreement of clocks.

    Args:
        build: Whose root.
        jobs: All its jobs, those without spans as well: what is there at the first finish
            already must not move the start at a later one.
        ids: The trace's.
        times: What texts say.
        links: Whether to link.

    Raises:
        RecordError: A time of the build cannot be read.
    """
    created, finished = _time(build, "created_at", times), _time(build, "finished_at", times)
    start, end = _extent(created, max(created, finished), jobs)
    code = STATUSES.get(build.state or "", SpanStatus.UNSET)
    return Span(
        kind=SpanKind.BUILD,
        span_id=ids.root,
        parent_id=None,
        start_ns=start,
        end_ns=end,
        status=code,
        error_type="failed" if code is SpanStatus.ERROR else None,
        state=build.state,
        blocked_state=blocked_state(build),
        links=tuple(_links(build)) if links else (),
        adjusted=finished < created or created in EDGES or finished in EDGES,
    )


def _extent(created: int, finished: int, jobs: Sequence[TimedJob]) -> tuple[int, int]:
    """When the build began and ended, by its own times and those of its jobs that can be."""
    start, end = created, finished
    earliest, latest = created - DISAGREEMENT_NS, finished + DISAGREEMENT_NS
    for job in jobs:
        if job.created_ns is not None and earliest <= job.created_ns < start:
            start = job.created_ns
        if job.gives_span:
            if earliest <= job.start_ns < start:
                start = job.start_ns
            if end < job.end_ns <= latest:
                end = job.end_ns
    return max(start, EARLIEST_NS), min(end, LATEST_NS)


def blocked_state(build: Build) -> str | None:
    """The state in which the build waits at a block step; None if it does not wait at one."""
    return build.blocked_state or (build.state if build.blocked else None)


def _time(build: Build, name: str, times: Times) -> int:
    try:
        ns = times[getattr(build, name)]
    except (ValueError, OverflowError) as exc:
        raise RecordError(f"Expected a time - at `$.{name}`", record_id=build.id) from exc
    if ns is None:
        raise RecordError(f"Expected a time - at `$.{name}`", record_id=build.id)
    return ns


def _links(build: Build) -> list[Link]:
    """To the build that triggered this one, and to the one that it was rebuilt from."""
    triggering = build.triggered_from.build_id if build.triggered_from else None
    original = build.rebuilt_from.id if build.rebuilt_from else None
    return [Link(trace_id(other), root_span_id(other)) for other in (triggering, original) if other]


Members = list[TimedJob]


def stages(
    build: Build, timed: Sequence[TimedJob], *, start_ns: int, end_ns: int
) -> list[tuple[Stage, Members]]:
    """The stages in order, each with its jobs in payload order.

    A block step stands in the stage that led to it; its `start_ns` is set. A job that was
    never active (canceled before its turn came) stands in the stage before its end, and
    does not lengthen it.

    Args:
        build: Whose stages.
        timed: Its jobs that give spans.
        start_ns: The build's start, where the first stage begins.
        end_ns: The build's end, where the stage of a build without any job ends.
    """
    resumed = openings(timed, start_ns=start_ns)
    found: list[tuple[Stage, Members]] = [
        (Stage(number, start, start), []) for number, start in enumerate((start_ns, *resumed), 1)
    ]
    for one in timed:
        found[bisect_left(resumed, one.end_ns) if resumed else 0][1].append(one)
    for stage, members in found:
        ends = [one.end_ns for one in members if one.active_ns is not None]
        stage.end_ns = max([stage.start_ns, *ends])
    _end_idle_first(build, *found[0], end_ns=end_ns if len(found) == 1 else start_ns)
    for stage, members in found:
        _begin_blocks(stage, members)
    _conclude(build, found)
    return found


def openings(timed: Sequence[TimedJob], *, start_ns: int) -> list[int]:
    """When the stages after the first, which began at `start_ns`, began: in order."""
    moments = sorted({one.resumed_ns for one in timed if one.resumed_ns is not None})
    if not moments:
        return []
    active = sorted((one.active_ns, one.end_ns) for one in timed if one.active_ns is not None)
    pauses_ended = []
    latest_end = start_ns
    begun = 0
    for moment in moments:
        while begun < len(active) and active[begun][0] < moment:
            latest_end = max(latest_end, active[begun][1])
            begun += 1
        if latest_end < moment:
            pauses_ended.append(moment)
    followed = {bisect_left(pauses_ended, end) for _, end in active}
    return [moment for n, moment in enumerate(pauses_ended, 1) if n in followed]


def _end_idle_first(build: Build, stage: Stage, members: Members, *, end_ns: int) -> None:
    """End a first stage in which nothing was ever active.

    Where a block step stands before all else, the build paused at once. Otherwise it
    waited for something until its jobs were canceled, or had nothing to run at all.
    """
    if any(one.active_ns is not None for one in members):
        return
    begins = next(
        (
            job.type
            for job in build.jobs or ()
            if job.type != "waiter" and job.state not in NO_SPAN_STATES
        ),
        None,
    )
    if begins != "manual":
        stage.end_ns = max((one.end_ns for one in members if not one.manual), default=end_ns)


def _begin_blocks(stage: Stage, members: Members) -> None:
    """Set when the stage's block steps began to wait: as the stage ended.

    One that stands behind another waited from that one's unblocking on. One that was
    unblocked while other jobs still ran waited since nobody knows when; what stands before
    it had ended by then.
    """
    unblocked = stage.end_ns
    for n, one in enumerate(members):
        if not one.manual:
            continue
        if stage.end_ns <= one.end_ns:
            one.start_ns = unblocked if unblocked <= one.end_ns else stage.end_ns
            unblocked = max(unblocked, one.end_ns)
        else:
            before = (other.end_ns for other in members[:n] if other.end_ns <= one.end_ns)
            one.start_ns = max(before, default=min(stage.start_ns, one.end_ns))
            one.adjusted = True


def _conclude(build: Build, found: Sequence[tuple[Stage, Members]]) -> None:
    """Set what the build had come to at each stage's end.

    Of the last stage the payload says it; of earlier ones their jobs do: failed if a hard
    failure had not been retried by then, else canceled likewise, else passed.
    """
    last = found[-1][0]
    last.blocked_state = blocked_state(build)
    if len(found) == 1 and build.state:
        last.state = build.state
        return
    failed: set[str] = set()
    canceled: set[str] = set()
    unblockings = {one.end_ns for _, members in found for one in members if one.manual}
    for n, (stage, members) in enumerate(found, 1):
        failed |= {one.job.id for one in members if failed_hard(one.job)}
        canceled |= {one.job.id for one in members if one.job.state == "canceled"}
        retried = {one.retry.of for one in members if one.retry}
        failed -= retried
        canceled -= retried
        stage.state = "failed" if failed else "canceled" if canceled else "passed"
        if n < len(found) and found[n][0].start_ns in unblockings:
            stage.blocked_state = stage.state
    last.state = build.state or last.state
    last.blocked_state = blocked_state(build)


def stage_span(stage: Stage, ids: SpanIds) -> Span:
    """The span of one stage, under the build's root."""
    code = STATUSES.get(stage.state or "", SpanStatus.UNSET)
    return Span(
        kind=SpanKind.STAGE,
        span_id=ids.derived(SpanKind.STAGE, str(stage.number)),
        parent_id=ids.root,
        start_ns=stage.start_ns,
        end_ns=stage.end_ns,
        status=code,
        error_type="failed" if code is SpanStatus.ERROR else None,
        stage=stage,
        state=stage.state,
        blocked_state=stage.blocked_state,
    )

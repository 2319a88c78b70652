"""The root span: the build from its creation to its first finish."""

from __future__ import annotations

from collections.abc import Sequence

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.ids import SpanIds, root_span_id, trace_id
from bk_pipeline.spans.jobs import TimedJob
from bk_pipeline.spans.model import Link, Span, SpanKind, SpanStatus
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

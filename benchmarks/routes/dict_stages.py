"""The stages of a build, for the route with dictionaries: start, end and state.

The rule is ours (`bk_pipeline.spans.tree` says it), told again in plain dicts and
texts: without it a fifth of the corpus would have other spans. Times are as sent, all in one
format, so they compare as text.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import Any

from benchmarks.routes.obvious import FAILED, NO_SPAN

Object = dict[str, Any]
Timed = tuple[Object, str, str]  # a job, its start and its end


def stages_of(build: Object, timed: list[Timed], start: str, end: str) -> list[Object]:
    """Return the stages in order: number, start, end, state, blocked_state, and jobs."""
    openings = _openings(timed, start)
    stages: list[Object] = [
        {"number": n, "start": at, "end": at, "jobs": [], "active": False, "blocked_state": None}
        for n, at in enumerate([start, *openings], 1)
    ]
    for one in timed:
        stage = stages[bisect_left(openings, one[2])]
        stage["jobs"].append(one)
        if _active_from(*one):
            stage["active"] = True
            stage["end"] = max(stage["end"], one[2])
    if not stages[0]["active"]:
        _end_idle(build, stages[0], end if len(stages) == 1 else start)
    for stage in stages:
        if any(job["type"] == "manual" for job, _, _ in stage["jobs"]):
            _begin_blocks(stage)
    _conclude(build, stages)
    return stages


def _openings(timed: list[Timed], start: str) -> list[str]:
    """Return the starts of later stages: an unblocking or manual retry that ended a pause."""
    moments = sorted({at for at in (_resumed(job) for job, _, _ in timed) if at})
    if not moments:
        return []
    spans = [(_active_from(*one), one[2]) for one in timed]
    active = sorted((at, end) for at, end in spans if at)
    paused = [
        moment
        for moment in moments
        if max([end for at, end in active if at < moment], default=start) < moment
    ]
    followed = {bisect_left(paused, end) for _, end in active}
    return [moment for n, moment in enumerate(paused, 1) if n in followed]


def _resumed(job: Object) -> str | None:
    if job["type"] == "manual":
        return str(job["unblocked_at"])
    source = job.get("retry_source")
    if source and source["retry_type"] != "automatic":
        return str(job["created_at"])
    return None


def _active_from(job: Object, _start: str, end: str) -> str | None:
    if job["type"] == "manual":
        return None
    if resumed := _resumed(job):
        return resumed
    known = [at for at in (job["runnable_at"], job["started_at"]) if at]
    if known:
        return str(min(known))
    return end if job["state"] == "passed" or job.get("triggered_build") else None


def _end_idle(build: Object, stage: Object, end: str) -> None:
    begins = [
        j["type"] for j in build["jobs"] if j["type"] != "waiter" and j["state"] not in NO_SPAN
    ]
    if begins[:1] != ["manual"]:
        ends = [at for job, _, at in stage["jobs"] if job["type"] != "manual"]
        stage["end"] = max(ends, default=end)


def _begin_blocks(stage: Object) -> None:
    """Return the start of a block step: the end of the stage or of the block step before it."""
    since = stage["end"]
    jobs = stage["jobs"]
    for n, (job, _, end) in enumerate(jobs):
        if job["type"] != "manual":
            continue
        if stage["end"] <= end:
            jobs[n] = (job, since if since <= end else stage["end"], end)
            since = max(since, end)
        else:
            before = [at for _, _, at in jobs[:n] if at <= end]
            jobs[n] = (job, max(before, default=min(stage["start"], end)), end)


def _conclude(build: Object, stages: list[Object]) -> None:
    failed: set[str] = set()
    canceled: set[str] = set()
    for stage, later in pairwise(stages):
        jobs = [job for job, _, _ in stage["jobs"]]
        failed |= {j["id"] for j in jobs if j["state"] in FAILED and not j.get("soft_failed")}
        canceled |= {j["id"] for j in jobs if j["state"] == "canceled"}
        retried = {j["retry_source"]["job_id"] for j in jobs if j.get("retry_source")}
        failed -= retried
        canceled -= retried
        stage["state"] = "failed" if failed else "canceled" if canceled else "passed"
        if any(j["type"] == "manual" and end == later["start"] for j, _, end in stage["jobs"]):
            stage["blocked_state"] = stage["state"]
    stages[-1]["state"] = build["state"]
    stages[-1]["blocked_state"] = build["blocked_state"] or (
        build["state"] if build["blocked"] else None
    )

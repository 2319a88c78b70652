"""A build as the API shows it at one moment. Pure: the same build and moment, the same answer.

Nothing in an answer is later than its moment. Field names and their order
follow recorded answers.
"""

from __future__ import annotations

from typing import Any

from bk_pipeline.sandbox.blueprint import Step
from bk_pipeline.sandbox.credentials import graphql_id, step_uuid
from bk_pipeline.sandbox.organization import Pipeline
from bk_pipeline.sandbox.pipelines import UPLOAD
from bk_pipeline.sandbox.timeline import FINISHED_JOB_STATES, Build, Job, Reference
from bk_pipeline.sandbox.times import format_optional_time, format_time

# An agent takes a job this long before it starts it (milliseconds).
_ASSIGNED, _ACCEPTED = 900, 300
_HELD = {"manual": "blocked_failed"}


def state_of(job: Job, moment: int) -> str:
    """The job's state at `moment`. Waiter jobs have one too, but the API never shows it."""
    if job.ended is not None and job.ended <= moment:
        return job.end_state
    if job.stopping is not None and job.stopping <= moment:
        return "timing_out" if job.end_state == "timed_out" else "canceling"
    if job.started is not None and job.started <= moment:
        return "running"
    if job.runnable is not None and job.runnable <= moment:
        return _state_before_start(job, moment)
    if job.held is not None and job.held[0] <= moment < (job.held[1] or moment + 1):
        return _HELD.get(job.kind, "waiting_failed")
    return "waiting"


def _state_before_start(job: Job, moment: int) -> str:
    if job.kind == "manual":
        return "blocked"
    if job.started is None or job.started - moment > _ASSIGNED:
        return "scheduled"
    return "accepted" if job.started - moment <= _ACCEPTED else "assigned"


def job_as_of(job: Job, build: Build, moment: int, url: str, web_url: str) -> dict[str, Any]:
    """The API's job object. `url` and `web_url` are the build's."""
    if job.kind == "waiter":
        return {"id": job.id, "graphql_id": graphql_id("Job", job.id), "type": "waiter"}
    if job.kind == "manual":
        return _manual(job, build, moment, url)
    payload = _frame(job, build, moment, url, web_url) | _times(job, moment)
    if job.kind == "trigger":
        return payload | _trigger(job, build, moment)
    return payload | _script(job, moment, url) | _attempts(job, moment) | _place(job, build)


def _manual(job: Job, build: Build, moment: int, url: str) -> dict[str, Any]:
    """A block or input step: a label and no name, no start and no finish, as recorded."""
    unblocked = job.end_state == "unblocked" and (job.ended or 0) <= moment
    state = state_of(job, moment)
    return {
        "id": job.id,
        "graphql_id": graphql_id("Job", job.id),
        "type": "manual",
        "label": job.step.label,
        "step_key": job.step.key,
        "group_key": job.step.group,
        "step": _step(job, build),
        "state": state,
        "web_url": None,
        "unblocked_by": job.unblocked_by.payload if unblocked and job.unblocked_by else None,
        "unblocked_at": format_optional_time(job.ended) if unblocked else None,
        "unblockable": state == "blocked",
        "unblock_url": f"{url}/jobs/{job.id}/unblock",
    }


def _frame(job: Job, build: Build, moment: int, url: str, web_url: str) -> dict[str, Any]:
    return {
        "id": job.id,
        "graphql_id": graphql_id("Job", job.id),
        "type": job.kind,
        "name": _name(job),
        "step_key": job.step.key,
        "group_key": job.step.group,
        "step": _step(job, build),
        "priority": {"number": job.step.priority},
        "state": state_of(job, moment),
        "build_url": url,
        "web_url": f"{web_url}#{job.id}",
    }


def _times(job: Job, moment: int) -> dict[str, Any]:
    ended = job.ended if job.end_state in FINISHED_JOB_STATES else None
    return {
        "created_at": format_time(job.created),
        # Recorded: the uploading job's, or for retries the original's; useless for queueing.
        "scheduled_at": format_time(job.scheduled),
        "runnable_at": _past(job.runnable, moment),
        "started_at": _past(job.started, moment),
        "finished_at": _past(ended, moment),
    }


def _script(job: Job, moment: int, url: str) -> dict[str, Any]:
    """Command, outcome and agent.

    Guesses, for want of a recorded answer: an expired job has both
    `expired_at` and `finished_at`; `broken_reason` stays null.
    """
    job_url = f"{url}/jobs/{job.id}"
    over = job.ended is not None and job.ended <= moment
    taken = job.started is not None and job.started - _ASSIGNED <= moment
    return {
        "agent_query_rules": [f"queue={job.step.queue}"],
        "log_url": f"{job_url}/log",
        "raw_log_url": f"{job_url}/log.txt",
        "artifacts_url": f"{job_url}/artifacts",
        "command": job.step.command,
        "script_path": job.step.command,
        "soft_failed": job.soft_failed and over,
        "exit_status": job.exit_status if over else None,
        "signal": job.signal if over else None,
        "signal_reason": job.signal_reason if over else None,
        "broken_reason": None,
        "artifact_paths": job.step.artifacts,
        "agent": job.agent.payload if job.agent and taken else None,
        "expired_at": format_optional_time(job.ended)
        if over and job.end_state == "expired"
        else None,
        "promised_exit_status": None,
        "promised_exit_status_at": None,
    }


def _attempts(job: Job, moment: int) -> dict[str, Any]:
    """How the job stands among the attempts at its step.

    As recorded: the replaced attempt names the new job, the kind and the
    person; the new one counts, and names what it replaces.
    """
    retry = job.retry if job.retry and job.retry.at <= moment else None
    source = job.replaces
    return {
        "retried": retry is not None,
        "retried_in_job_id": retry.job_id if retry else None,
        "retries_count": job.retries,
        "retry_source": {"job_id": source[0], "retry_type": source[1]} if source else None,
        "retry_type": retry.kind if retry else None,
        "retried_by": retry.person.payload if retry and retry.person else None,
    }


def _place(job: Job, build: Build) -> dict[str, Any]:
    """Where the job stands in its step's grid, and on which cluster."""
    cluster = build.pipeline.cluster
    queue_id = cluster.queue_id(job.step.queue) if cluster else None
    return {
        "parallel_group_index": job.index,
        "parallel_group_total": job.step.parallel if job.index is not None else None,
        "matrix": job.matrix,
        "cluster_id": cluster.id if cluster else None,
        "cluster_url": cluster.url if cluster else None,
        "cluster_queue_id": queue_id,
        "cluster_queue_url": f"{cluster.url}/queues/{queue_id}" if cluster else None,
    }


def _trigger(job: Job, build: Build, moment: int) -> dict[str, Any]:
    child = job.child
    shown = child is not None and job.started is not None and job.started + 30 <= moment
    payload: dict[str, Any] = {"async": job.step.is_async, "triggered_build": None}
    if child is not None and shown:
        # Within one organization the two differ in slug and number only.
        base, web_base = (
            text.removesuffix(build.pipeline.slug)
            for text in (build.pipeline.url, build.pipeline.web_url)
        )
        path = f"{child.slug}/builds/{child.number}"
        payload["triggered_build"] = {
            "id": child.id,
            "number": child.number,
            "url": base + path,
            "web_url": web_base + path,
        }
    return payload


def _step(job: Job, build: Build) -> dict[str, Any]:
    step: dict[str, Any] = {"id": step_uuid(build.ref.id, _ordinal(job.step, build))}
    if job.step.key:
        step["key"] = job.step.key
    if job.step.label:
        step["label"] = job.step.label
    step["signature"] = None
    return step


def _ordinal(step: Step, build: Build) -> int:
    if step is UPLOAD:
        return 0
    steps = build.pipeline.blueprint.steps
    return next(number for number, other in enumerate(steps, 1) if other is step)


def _name(job: Job) -> str | None:
    """The step's label with parallel index and matrix values filled in, as Buildkite does."""
    name = job.step.label
    if not name:
        return name
    if job.index is not None:
        name = name.replace("%n", str(job.index + 1)).replace("%t", str(job.step.parallel))
    for dimension, value in (job.matrix or {}).items():
        name = name.replace(f"{{{{matrix.{dimension}}}}}", value).replace("{{matrix}}", value)
    return name


def _past(time: int | None, moment: int) -> str | None:
    return format_time(time) if time is not None and time <= moment else None


def build_as_of(
    build: Build,
    moment: int,
    *,
    retried_jobs: bool = True,
    jobs: bool = True,
    pipeline: bool = True,
) -> dict[str, Any] | None:
    """The API's build object at `moment` (milliseconds); None if it was not created yet.

    Args:
        build: The whole life of the build.
        moment: When the API is asked.
        retried_jobs: Show attempts that have been replaced, too.
        jobs: Show the jobs at all.
        pipeline: Show the pipeline object.
    """
    phase = build.phase_at(moment)
    if phase is None:
        return None
    url = f"{build.pipeline.url}/builds/{build.ref.number}"
    web_url = f"{build.pipeline.web_url}/builds/{build.ref.number}"
    cluster = build.pipeline.cluster
    payload: dict[str, Any] = {
        "id": build.ref.id,
        "graphql_id": graphql_id("Build", build.ref.id),
        "url": url,
        "web_url": web_url,
        "number": build.ref.number,
        "state": phase.state,
        "cancel_reason": build.cancel_reason if phase.state == "canceled" else None,
        "blocked": phase.blocked,
        "blocked_state": "passed" if phase.blocked else "",
        "message": build.change.message,
        "commit": build.change.commit,
        "branch": build.change.branch,
        "tag": build.change.tag,
        "env": build.change.env,
        "source": build.change.source,
        "author": build.change.author,
        "creator": build.change.creator.payload if build.change.creator else None,
        "created_at": format_time(build.created),
        # Recorded: a little before the build itself.
        "scheduled_at": format_time(build.created - 28 - build.ref.number % 50)
        if build.jobs
        else None,
        "started_at": format_optional_time(phase.started),
        "failing_at": format_optional_time(phase.failing),
        "finished_at": format_optional_time(phase.finished),
        "meta_data": meta_data_as_of(build, moment),
        "pull_request": build.change.pull_request,
        "merge_queue": build.change.merge_queue,
        "rebuilt_from": _rebuilt_from(build.pipeline, build.rebuilt_from),
        "triggered_from": _triggered_from(build.triggered_from),
        "cluster_id": cluster.id if cluster else None,
        "cluster_url": cluster.url if cluster else None,
    }
    if pipeline:
        payload["pipeline"] = build.pipeline.payload
    if jobs:
        payload["jobs"] = [
            job_as_of(job, build, moment, url, web_url)
            for job in build.jobs
            if job.created <= moment
            and (retried_jobs or job.retry is None or job.retry.at > moment)
        ]
    return payload


def meta_data_as_of(build: Build, moment: int) -> dict[str, str]:
    """Meta-data that jobs have written by `moment`, and what people filled in at gates."""
    first = build.jobs[0] if build.jobs else None
    if first is None or first.started is None or first.started > moment:
        return {}
    fields = [
        job.step.fields
        for job in build.jobs
        if job.step.fields and job.end_state == "unblocked" and (job.ended or 0) <= moment
    ]
    if not fields:
        return build.change.meta_data
    return build.change.meta_data | {key: value for pairs in fields for key, value in pairs}


def _rebuilt_from(pipeline: Pipeline, original: Reference | None) -> dict[str, Any] | None:
    if original is None:
        return None
    url = f"{pipeline.url}/builds/{original.number}"
    return {"id": original.id, "number": original.number, "url": url}


def _triggered_from(parent: Reference | None) -> dict[str, Any] | None:
    if parent is None:
        return None
    return {
        "build_id": parent.id,
        "build_number": parent.number,
        "build_pipeline_slug": parent.slug,
    }

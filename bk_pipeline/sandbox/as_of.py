"""The API objects of a build and its jobs as of a given time.

An object depends only on the build and the time, and contains nothing later
than that time. Names and order of the fields follow recorded responses. Times
(`at_ms`) are milliseconds since 1970.
"""

from __future__ import annotations

from typing import Any

from bk_pipeline.sandbox.blueprint import Step
from bk_pipeline.sandbox.credentials import graphql_id, step_uuid
from bk_pipeline.sandbox.organization import Pipeline
from bk_pipeline.sandbox.pipelines import UPLOAD
from bk_pipeline.sandbox.timeline import FINISHED_JOB_STATES, Build, Job, Phase, Reference
from bk_pipeline.sandbox.times import format_optional_time, format_time

# How long before its start a job is assigned to an agent, and accepted by it.
_ASSIGNED_MS, _ACCEPTED_MS = 900, 300
_HELD = {"manual": "blocked_failed"}


def build_as_of(
    build: Build,
    at_ms: int,
    *,
    retried_jobs: bool = True,
    jobs: bool = True,
    pipeline: bool = True,
) -> dict[str, Any] | None:
    """The API's build object at a given time, or None if the build does not exist yet.

    Args:
        build: The complete history of the build.
        at_ms: The time of the request, in milliseconds since 1970.
        retried_jobs: Include jobs that a retry has replaced.
        jobs: Include the jobs.
        pipeline: Include the pipeline object.
    """
    phase = build.phase_at(at_ms)
    if phase is None:
        return None
    url = f"{build.pipeline.url}/builds/{build.ref.number}"
    web_url = f"{build.pipeline.web_url}/builds/{build.ref.number}"
    payload = _build_fields(build, phase, at_ms, url, web_url)
    if pipeline:
        payload["pipeline"] = build.pipeline.payload
    if jobs:
        payload["jobs"] = [
            job_as_of(job, build, at_ms, url, web_url)
            for job in build.jobs
            if job.created_ms <= at_ms
            and (retried_jobs or job.retry is None or job.retry.at_ms > at_ms)
        ]
    return payload


def _build_fields(build: Build, phase: Phase, at_ms: int, url: str, web_url: str) -> dict[str, Any]:
    """The fields of the build itself, without pipeline and jobs."""
    cluster = build.pipeline.cluster
    return {
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
        "created_at": format_time(build.created_ms),
        # As recorded: slightly before `created_at`.
        "scheduled_at": format_time(build.created_ms - 28 - build.ref.number % 50)
        if build.jobs
        else None,
        "started_at": format_optional_time(phase.started_ms),
        "failing_at": format_optional_time(phase.failing_ms),
        "finished_at": format_optional_time(phase.finished_ms),
        "meta_data": meta_data_as_of(build, at_ms),
        "pull_request": build.change.pull_request,
        "merge_queue": build.change.merge_queue,
        "rebuilt_from": _rebuilt_from(build.pipeline, build.rebuilt_from),
        "triggered_from": _triggered_from(build.triggered_from),
        "cluster_id": cluster.id if cluster else None,
        "cluster_url": cluster.url if cluster else None,
    }


def meta_data_as_of(build: Build, at_ms: int) -> dict[str, str]:
    """The build's meta-data at a given time: from its jobs, and entered at input steps."""
    first = build.jobs[0] if build.jobs else None
    if first is None or first.started_ms is None or first.started_ms > at_ms:
        return {}
    fields = [
        job.step.fields
        for job in build.jobs
        if job.step.fields and job.end_state == "unblocked" and (job.ended_ms or 0) <= at_ms
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


def job_as_of(job: Job, build: Build, at_ms: int, url: str, web_url: str) -> dict[str, Any]:
    """The API's job object at a given time. `url` and `web_url` are those of the build."""
    if job.kind == "waiter":
        return {"id": job.id, "graphql_id": graphql_id("Job", job.id), "type": "waiter"}
    if job.kind == "manual":
        return _manual_job(job, build, at_ms, url)
    payload = _common_fields(job, build, at_ms, url, web_url) | _time_fields(job, at_ms)
    if job.kind == "trigger":
        return payload | _trigger_fields(job, build, at_ms)
    return (
        payload
        | _script_fields(job, at_ms, url)
        | _retry_fields(job, at_ms)
        | _placement_fields(job, build)
    )


def job_state(job: Job, at_ms: int) -> str:
    """The job's state at a given time. The API does not show the state of waiter jobs."""
    if job.ended_ms is not None and job.ended_ms <= at_ms:
        return job.end_state
    if job.stopping_ms is not None and job.stopping_ms <= at_ms:
        return "timing_out" if job.end_state == "timed_out" else "canceling"
    if job.started_ms is not None and job.started_ms <= at_ms:
        return "running"
    if job.runnable_ms is not None and job.runnable_ms <= at_ms:
        return _state_before_start(job, at_ms)
    if job.held is not None and job.held[0] <= at_ms < (job.held[1] or at_ms + 1):
        return _HELD.get(job.kind, "waiting_failed")
    return "waiting"


def _state_before_start(job: Job, at_ms: int) -> str:
    if job.kind == "manual":
        return "blocked"
    if job.started_ms is None or job.started_ms - at_ms > _ASSIGNED_MS:
        return "scheduled"
    return "accepted" if job.started_ms - at_ms <= _ACCEPTED_MS else "assigned"


def _manual_job(job: Job, build: Build, at_ms: int, url: str) -> dict[str, Any]:
    """A block or input step. As recorded, it has a label but no name, start or finish."""
    unblocked = job.end_state == "unblocked" and (job.ended_ms or 0) <= at_ms
    state = job_state(job, at_ms)
    return {
        "id": job.id,
        "graphql_id": graphql_id("Job", job.id),
        "type": "manual",
        "label": job.step.label,
        "step_key": job.step.key,
        "group_key": job.step.group,
        "step": _step_object(job, build),
        "state": state,
        "web_url": None,
        "unblocked_by": job.unblocked_by.payload if unblocked and job.unblocked_by else None,
        "unblocked_at": format_optional_time(job.ended_ms) if unblocked else None,
        "unblockable": state == "blocked",
        "unblock_url": f"{url}/jobs/{job.id}/unblock",
    }


def _common_fields(job: Job, build: Build, at_ms: int, url: str, web_url: str) -> dict[str, Any]:
    return {
        "id": job.id,
        "graphql_id": graphql_id("Job", job.id),
        "type": job.kind,
        "name": _job_name(job),
        "step_key": job.step.key,
        "group_key": job.step.group,
        "step": _step_object(job, build),
        "priority": {"number": job.step.priority},
        "state": job_state(job, at_ms),
        "build_url": url,
        "web_url": f"{web_url}#{job.id}",
    }


def _time_fields(job: Job, at_ms: int) -> dict[str, Any]:
    ended_ms = job.ended_ms if job.end_state in FINISHED_JOB_STATES else None
    return {
        "created_at": format_time(job.created_ms),
        # As recorded: the time of the uploading job, or for retries of the original job. It
        # does not say when the job was queued.
        "scheduled_at": format_time(job.scheduled_ms),
        "runnable_at": _time_if_past(job.runnable_ms, at_ms),
        "started_at": _time_if_past(job.started_ms, at_ms),
        "finished_at": _time_if_past(ended_ms, at_ms),
    }


def _script_fields(job: Job, at_ms: int, url: str) -> dict[str, Any]:
    """Command, outcome and agent.

    Guesses, because there is no recorded response: an expired job has both
    `expired_at` and `finished_at`, and `broken_reason` is always null.
    """
    job_url = f"{url}/jobs/{job.id}"
    over = job.ended_ms is not None and job.ended_ms <= at_ms
    taken = job.started_ms is not None and job.started_ms - _ASSIGNED_MS <= at_ms
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
        "expired_at": format_optional_time(job.ended_ms)
        if over and job.end_state == "expired"
        else None,
        "promised_exit_status": None,
        "promised_exit_status_at": None,
    }


def _retry_fields(job: Job, at_ms: int) -> dict[str, Any]:
    """The relation of a job to its retries.

    As recorded, a retried job names the new job, the type of the retry and the
    person, and the new job has a count and names the job that it replaces.
    """
    retry = job.retry if job.retry and job.retry.at_ms <= at_ms else None
    source = job.replaces
    return {
        "retried": retry is not None,
        "retried_in_job_id": retry.job_id if retry else None,
        "retries_count": job.retries,
        "retry_source": {"job_id": source[0], "retry_type": source[1]} if source else None,
        "retry_type": retry.kind if retry else None,
        "retried_by": retry.person.payload if retry and retry.person else None,
    }


def _placement_fields(job: Job, build: Build) -> dict[str, Any]:
    """Parallel index, matrix values and cluster."""
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


def _trigger_fields(job: Job, build: Build, at_ms: int) -> dict[str, Any]:
    child = job.child
    shown = child is not None and job.started_ms is not None and job.started_ms + 30 <= at_ms
    payload: dict[str, Any] = {"async": job.step.is_async, "triggered_build": None}
    if child is not None and shown:
        # Within one organization, URLs of builds differ only in slug and number.
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


def _step_object(job: Job, build: Build) -> dict[str, Any]:
    step: dict[str, Any] = {"id": step_uuid(build.ref.id, _step_ordinal(job.step, build))}
    if job.step.key:
        step["key"] = job.step.key
    if job.step.label:
        step["label"] = job.step.label
    step["signature"] = None
    return step


def _step_ordinal(step: Step, build: Build) -> int:
    if step is UPLOAD:
        return 0
    steps = build.pipeline.blueprint.steps
    return next(number for number, other in enumerate(steps, 1) if other is step)


def _job_name(job: Job) -> str | None:
    """The step's label with parallel index and matrix values filled in, as Buildkite does."""
    name = job.step.label
    if not name:
        return name
    if job.index is not None:
        name = name.replace("%n", str(job.index + 1)).replace("%t", str(job.step.parallel))
    for dimension, value in (job.matrix or {}).items():
        name = name.replace(f"{{{{matrix.{dimension}}}}}", value).replace("{{matrix}}", value)
    return name


def _time_if_past(time_ms: int | None, at_ms: int) -> str | None:
    return format_time(time_ms) if time_ms is not None and time_ms <= at_ms else None

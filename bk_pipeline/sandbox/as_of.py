"""A build as the API shows it at one moment. Pure: the same build and moment, the same answer.

Nothing in an answer is later than its moment. Field names and their order
follow recorded answers.
"""

from __future__ import annotations

from typing import Any

from bk_pipeline.sandbox.identity import graphql_id
from bk_pipeline.sandbox.job_as_of import job_as_of
from bk_pipeline.sandbox.moments import text_of, text_or_none
from bk_pipeline.sandbox.organization import Pipeline
from bk_pipeline.sandbox.timeline import Build, Reference


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
        "created_at": text_of(build.created),
        # Recorded: a little before the build itself.
        "scheduled_at": text_of(build.created - 28 - build.ref.number % 50) if build.jobs else None,
        "started_at": text_or_none(phase.started),
        "failing_at": text_or_none(phase.failing),
        "finished_at": text_or_none(phase.finished),
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

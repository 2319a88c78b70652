"""Columns of the rows of `dict_rows.py`: those of builds, stages, steps and jobs."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from benchmarks.routes.obvious import (
    FAILED,
    STEP_TYPES,
    dump,
    last_digits,
    repository_of,
    result_of,
    span_id,
    task_result,
    task_type,
    unblocker,
)

Object = dict[str, Any]

PERSON = ("id", "graphql_id", "name", "email")


def common_columns(build: Object) -> Object:
    """Return the columns that all spans of a build have."""
    pipeline = build["pipeline"]
    creator = build["creator"] or {}
    request = build["pull_request"] or {}
    queue = build["merge_queue"] or {}
    base = request.get("base") or queue.get("base_branch")
    ref_type = "tag" if build["tag"] else "branch"
    repository, owner, name = repository_of(pipeline["repository"])
    return {
        "trace_id": build["id"].replace("-", ""),
        "links": [],
        "buildkite.organization.slug": build["url"].split("/")[5],
        "buildkite.pipeline.id": pipeline["id"],
        "buildkite.pipeline.graphql_id": pipeline["graphql_id"],
        "buildkite.pipeline.slug": pipeline["slug"],
        "buildkite.pipeline.name": pipeline["name"],
        "buildkite.pipeline.repo": pipeline["repository"],
        "buildkite.pipeline.web_url": pipeline["web_url"],
        "buildkite.cluster.id": build["cluster_id"] or pipeline["cluster_id"],
        "buildkite.build.id": build["id"],
        "buildkite.build.graphql_id": build["graphql_id"],
        "buildkite.build.number": build["number"],
        "buildkite.build.web_url": build["web_url"],
        "buildkite.build.message": build["message"],
        "buildkite.build.commit": build["commit"],
        "buildkite.build.branch": build["branch"],
        "buildkite.build.tag": build["tag"],
        "buildkite.build.source": build["source"],
        "buildkite.build.creator.id": creator.get("id"),
        "buildkite.build.creator.graphql_id": creator.get("graphql_id"),
        "buildkite.build.creator.name": creator.get("name"),
        "buildkite.build.creator.email": creator.get("email"),
        "buildkite.build.pull_request.id": request.get("id"),
        "cicd.pipeline.name": pipeline["name"],
        "cicd.pipeline.run.id": build["id"],
        "cicd.pipeline.run.url.full": build["web_url"],
        "vcs.repository.url.full": repository,
        "vcs.repository.name": name,
        "vcs.owner.name": owner,
        "vcs.provider.name": pipeline["provider"]["id"],
        "vcs.ref.base.name": base,
        "vcs.ref.base.type": "branch" if base else None,
        "vcs.ref.base.revision": queue.get("base_commit"),
        "vcs.ref.type": ref_type,
        "vcs.ref.head.name": build["tag"] or build["branch"],
        "vcs.ref.head.type": ref_type,
        "vcs.ref.head.revision": build["commit"],
        "vcs.change.id": request.get("id"),
        "vcs.change.title": request.get("title"),
    }


def build_columns(build: Object, start: str, end: str, stages: list[Object]) -> Object:
    """Return the root span's columns."""
    author = build["author"] or {}
    if isinstance(author, str):
        author = {"name": author}
    request = build["pull_request"] or {}
    queue = build["merge_queue"]
    rebuilt = build["rebuilt_from"] or {}
    triggered = build["triggered_from"] or {}
    failed = build["state"] == "failed"
    starts = [job["started_at"] for job in build["jobs"] if job.get("started_at")]
    return {
        "span_id": last_digits(build["id"]),
        "name": "buildkite.build",
        "start": start,
        "end": end,
        "links": build_links(build),
        "status": "error" if failed else "ok" if build["state"] == "passed" else "unset",
        "error.type": "failed" if failed else None,
        "buildkite.build.state": build["state"],
        "buildkite.build.blocked_state": stages[-1]["blocked_state"],
        "buildkite.build.author.name": author.get("name"),
        "buildkite.build.author.email": author.get("email"),
        "buildkite.build.cancel_reason": build["cancel_reason"],
        "buildkite.build.created_at": build["created_at"],
        "buildkite.build.scheduled_at": build["scheduled_at"],
        "buildkite.build.started_at": build["started_at"],
        "buildkite.build.failing_at": build["failing_at"],
        "buildkite.build.finished_at": build["finished_at"],
        "buildkite.build.blocked": build["blocked"],
        "buildkite.build.jobs.*": dump(
            Counter(job["state"] for job in build["jobs"] if job.get("state"))
        ),
        "buildkite.build.queue_ms": ms_between(start, min(starts)) if starts else None,
        "buildkite.build.run_ms": sum(ms_between(one["start"], one["end"]) for one in stages),
        "buildkite.build.meta_data.*": dump(build["meta_data"]) if build["meta_data"] else None,
        "buildkite.build.pull_request.base": request.get("base"),
        "buildkite.build.pull_request.repository": request.get("repository"),
        "buildkite.build.merge_queue.*": dump(queue) if queue else None,
        "buildkite.build.rebuilt_from.id": rebuilt.get("id"),
        "buildkite.build.rebuilt_from.number": rebuilt.get("number"),
        "buildkite.build.rebuilt_from.url": rebuilt.get("url"),
        "buildkite.build.triggered_from.build_id": triggered.get("build_id"),
        "buildkite.build.triggered_from.build_number": triggered.get("build_number"),
        "buildkite.build.triggered_from.build_pipeline_slug": triggered.get("build_pipeline_slug"),
        "cicd.pipeline.action.name": "BUILD",
        "cicd.pipeline.result": result_of(build),
    }


def ms_between(start: str, end: str) -> int:
    """Return the milliseconds between two timestamps."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)) // timedelta(
        milliseconds=1
    )


def build_links(build: Object) -> list[Object]:
    """Return the links of the root span."""
    triggered = build["triggered_from"] or {}
    rebuilt = build["rebuilt_from"] or {}
    return [build_link(one) for one in (triggered.get("build_id"), rebuilt.get("id")) if one]


def job_links(job: Object, trace_id: str) -> list[Object]:
    """Return the links of a job's span."""
    links = []
    if job.get("retry_source"):
        links.append({"trace_id": trace_id, "span_id": last_digits(job["retry_source"]["job_id"])})
    if job.get("triggered_build"):
        links.append(build_link(job["triggered_build"]["id"]))
    return links


def build_link(build_id: str) -> Object:
    """Return a link to the root span of another build."""
    return {"trace_id": build_id.replace("-", ""), "span_id": last_digits(build_id)}


def stage_columns(stage: Object, trace_id: str, root_id: str) -> Object:
    """Return a stage span's columns."""
    number, state = stage["number"], stage["state"]
    failed = state == "failed"
    return {
        "span_id": span_id("buildkite.build.stage", trace_id, str(number)),
        "parent_span_id": root_id,
        "name": "buildkite.build.stage",
        "buildkite.build.stage": number,
        "start": stage["start"],
        "end": stage["end"],
        "status": "error" if failed else "ok" if state == "passed" else "unset",
        "error.type": "failed" if failed else None,
        "buildkite.build.state": state,
        "buildkite.build.blocked_state": stage["blocked_state"],
    }


def step_columns(job: Object, number: int, trace_id: str, start: str, end: str) -> Object:
    """Return a step span's columns."""
    step = job["step"]
    return {
        "span_id": span_id("buildkite.step", trace_id, str(number), step["id"]),
        "name": "buildkite.step",
        "start": start,
        "end": end,
        "status": "ok",
        "buildkite.build.stage": number,
        "buildkite.step.id": step["id"],
        "buildkite.step.key": job["step_key"],
        "buildkite.step.label": step.get("label") or job["label" if "label" in job else "name"],
        "buildkite.step.type": STEP_TYPES[job["type"]],
        "buildkite.step.command": job.get("command"),
        "buildkite.step.matrix": True if job.get("matrix") else None,
        "buildkite.step.group.key": job["group_key"],
    }


def job_columns(job: Object, start: str, end: str) -> Object:
    """Return a job span's columns."""
    get = job.get
    agent = get("agent") or {}
    tags = agent.get("meta_data")
    by_key = dict(tag.split("=", 1) for tag in tags) if tags else None
    rules = get("agent_query_rules")
    source = get("retry_source") or {}
    child = get("triggered_build") or {}
    state = job["state"]
    passed = state in {"passed", "unblocked"}
    failed = state in FAILED and not get("soft_failed")
    reason = get("signal_reason")
    lost = state == "failed" and (
        reason == "agent_stop" or (get("exit_status") == -1 and not reason)
    )
    label = get("label") or get("name")
    return {
        "span_id": last_digits(job["id"]),
        "name": "buildkite.job",
        "start": start,
        "end": end,
        "status": "error" if failed else "ok" if passed else "unset",
        "error.type": ("agent_lost" if lost else state) if failed else None,
        "buildkite.job.id": job["id"],
        "buildkite.job.graphql_id": job["graphql_id"],
        "buildkite.job.web_url": job["web_url"],
        "buildkite.job.log_url": get("log_url"),
        "buildkite.job.type": job["type"],
        "buildkite.job.label": label,
        "buildkite.job.command": get("command"),
        "buildkite.job.agent_query_rules": dump(rules) if rules else None,
        "buildkite.job.state": state,
        "buildkite.job.started": passed or bool(get("started_at")),
        "buildkite.job.passed": passed,
        "buildkite.job.soft_failed": get("soft_failed"),
        "buildkite.job.exit_status": get("exit_status"),
        "buildkite.job.signal": get("signal"),
        "buildkite.job.signal_reason": get("signal_reason"),
        "buildkite.job.broken_reason": get("broken_reason"),
        "buildkite.job.cancel_reason": get("cancel_reason"),
        "buildkite.job.runnable_at": get("runnable_at"),
        "buildkite.job.started_at": get("started_at"),
        "buildkite.job.finished_at": get("finished_at"),
        "buildkite.job.concurrency_wait_time_ms": get("concurrency_wait_time_ms"),
        "buildkite.job.priority.number": job["priority"]["number"] if get("priority") else None,
        "buildkite.job.parallel.index": get("parallel_group_index"),
        "buildkite.job.parallel.total": get("parallel_group_total"),
        "buildkite.job.matrix": dump(job["matrix"]) if get("matrix") else None,
        "buildkite.job.retried": get("retried"),
        "buildkite.job.retried_in_job_id": get("retried_in_job_id"),
        "buildkite.job.retries_count": get("retries_count"),
        "buildkite.job.retry_type": get("retry_type"),
        "buildkite.job.retried_by": person(get("retried_by")),
        "buildkite.job.retry_source.job_id": source.get("job_id"),
        "buildkite.job.retry_source.retry_type": source.get("retry_type"),
        "buildkite.job.unblocked_by": unblocker(get("unblocked_by")),
        "buildkite.job.async": get("async"),
        "buildkite.job.triggered_build.id": child.get("id"),
        "buildkite.job.triggered_build.number": child.get("number"),
        "buildkite.job.triggered_build.web_url": child.get("web_url"),
        "buildkite.cluster.queue.id": get("cluster_queue_id"),
        "buildkite.agent.id": agent.get("id"),
        "buildkite.agent.name": agent.get("name"),
        "buildkite.agent.hostname": agent.get("hostname"),
        "buildkite.agent.ip_address": agent.get("ip_address"),
        "buildkite.agent.version": agent.get("version"),
        "buildkite.agent.queue": by_key.get("queue", "default") if by_key else None,
        "buildkite.agent.meta_data": dump(tags) if tags else None,
        "buildkite.agent.meta_data.*": dump(by_key) if by_key else None,
        "cicd.pipeline.task.name": label,
        "cicd.pipeline.task.type": task_type(job),
        "cicd.pipeline.task.run.id": job["id"],
        "cicd.pipeline.task.run.url.full": job["web_url"],
        "cicd.pipeline.task.run.result": task_result(job),
        "cicd.worker.id": agent.get("id"),
        "cicd.worker.name": agent.get("name"),
        "cicd.worker.url.full": agent.get("web_url"),
    }


def person(sent: Object | None) -> str | None:
    """Return a person as JSON, without avatar and dates."""
    return dump({key: sent[key] for key in PERSON if sent.get(key)}) if sent else None

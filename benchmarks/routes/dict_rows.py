"""An obvious way: `json.loads`, a dict a span, one `pandas.DataFrame`.

Written as a competent engineer in a hurry would, and as fast as plain dicts are: a row holds
only the keys that its kind has, what all rows of a build share is put together once, times
stay text until pandas parses whole columns. (A frame for each few builds, concatenated, would
take a tenth less time and half the memory: still more than twice ours.)

Same columns, types, rows and values as ours, on the corpus. Left out is what the corpus does
not ask for: clamping of impossible times and `bk_pipeline.time_adjusted`, what holds attempts
without a step id together, colliding ids, cutting of overlong strings, setting aside a bad
build, old payloads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

import pandas as pd

from benchmarks.routes.columns import COLUMNS
from benchmarks.routes.dict_stages import stages_of
from benchmarks.routes.obvious import (
    ENDED,
    FAILED,
    NO_SPAN,
    RESULTS,
    STEP_TYPES,
    dump,
    last_digits,
    repository_of,
    span_id,
)
from bk_pipeline.spans.fields import FIELDS, FieldType

Object = dict[str, Any]

PERSON = ("id", "graphql_id", "name", "email")

# Integers and booleans that have gaps, which pandas would make floats and objects of.
PANDAS_TYPES = {FieldType.INT: "Int64", FieldType.BOOL: "boolean"}
TYPES = {field.name: PANDAS_TYPES[field.type] for field in FIELDS if field.type in PANDAS_TYPES}


def frame_of_payloads(payloads: Iterable[bytes]) -> pd.DataFrame:
    rows: list[Object] = []
    for build in map(json.loads, payloads):
        if build["finished_at"]:
            rows.extend(rows_of(build))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["start"] = pd.to_datetime(frame["start"], format="ISO8601")
    frame["end"] = pd.to_datetime(frame["end"], format="ISO8601")
    started = pd.to_datetime(frame["buildkite.job.started_at"], format="ISO8601")
    runnable = pd.to_datetime(frame["buildkite.job.runnable_at"], format="ISO8601")
    frame["buildkite.job.wait_time_ms"] = (started - runnable) // pd.Timedelta(milliseconds=1)
    return frame.astype(TYPES)


def rows_of(build: Object) -> list[Object]:
    """The build's span rows: the root, then stages, groups, steps and jobs in order of start."""
    common = common_columns(build)
    timed = [(job, *times) for job in build["jobs"] if (times := start_and_end(job))]
    # Clocks disagree a little: a job may be made before its build, and end after it.
    made = [job["created_at"] for job in build["jobs"] if job.get("created_at")]
    start = min([build["created_at"], *made])
    end = max([build["finished_at"], *(end for _, _, end in timed)])
    stages = stages_of(build, timed, start, end)
    root = {**common, **build_columns(build, start, end, stages)}
    rows: list[Object] = []
    for stage in stages:
        rows.extend(stage_rows(stage, common, root["span_id"]))
    rows.sort(key=itemgetter("start"))
    return [root, *rows]


def stage_rows(stage: Object, common: Object, root_id: str) -> list[Object]:
    """The stage's row, and those of its groups, steps and jobs."""
    number = stage["number"]
    trace_id = common["trace_id"]
    top = {**common, **stage_columns(stage, trace_id, root_id)}
    rows: list[Object] = []
    steps: dict[str, Object] = {}
    replaced = {
        job["retry_source"]["job_id"] for job, _, _ in stage["jobs"] if job.get("retry_source")
    }
    for job, start, end in stage["jobs"]:
        waiting = start
        if job["type"] != "manual":
            since = job["runnable_at"] or job["created_at"]
            waiting = min(max(since, stage["start"]), start) if since else start
        step = steps.get(job["step"]["id"])
        if step is None:
            step = steps[job["step"]["id"]] = {
                **common,
                **step_columns(job, number, trace_id, waiting, end),
                "parent_span_id": top["span_id"],
            }
        elif waiting < step["start"]:
            step["start"] = waiting
        step["end"] = max(step["end"], end)
        row = {**common, **job_columns(job, start, end), "parent_span_id": step["span_id"]}
        row["buildkite.build.stage"] = number
        row["buildkite.step.id"] = step["buildkite.step.id"]
        row["buildkite.step.key"] = step["buildkite.step.key"]
        row["buildkite.step.label"] = step["buildkite.step.label"]
        row["buildkite.step.command"] = step["buildkite.step.command"]
        if links := job_links(job, trace_id):
            row["links"] = links
        rows.append(row)
        if job["id"] not in replaced:
            add_status(step, row)
    return [
        top,
        *group_rows(steps.values(), common, top["span_id"], number),
        *steps.values(),
        *rows,
    ]


def add_status(whole: Object, part: Object) -> None:
    """A step or group is as its first failed part, and ok if all of them are."""
    if whole["status"] == "error" or part["status"] == "ok":
        return
    whole["status"], whole["error.type"] = part["status"], part.get("error.type")


def start_and_end(job: Object) -> tuple[str, str] | None:
    """As sent; None if the job gives no span. All are in one format, so they compare as text."""
    if job["type"] == "waiter" or job["state"] in NO_SPAN:
        return None
    if job["type"] == "manual":
        at = job["unblocked_at"]
        return (at, at) if at else None
    end = job["finished_at"] or job.get("expired_at")
    if not end and job["state"] not in ENDED:
        return None
    start = job["started_at"] or job["runnable_at"] or job["created_at"]
    return start, end or start


def common_columns(build: Object) -> Object:
    pipeline = build["pipeline"]
    creator = build["creator"] or {}
    request = build["pull_request"] or {}
    base = request.get("base")
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
        "vcs.ref.head.name": build["tag"] or build["branch"],
        "vcs.ref.head.type": "tag" if build["tag"] else "branch",
        "vcs.ref.head.revision": build["commit"],
        "vcs.change.id": request.get("id"),
    }


def build_columns(build: Object, start: str, end: str, stages: list[Object]) -> Object:
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
        "cicd.pipeline.result": RESULTS.get(build["state"]),
    }


def ms_between(start: str, end: str) -> int:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)) // timedelta(
        milliseconds=1
    )


def build_links(build: Object) -> list[Object]:
    triggered = build["triggered_from"] or {}
    rebuilt = build["rebuilt_from"] or {}
    return [build_link(one) for one in (triggered.get("build_id"), rebuilt.get("id")) if one]


def job_links(job: Object, trace_id: str) -> list[Object]:
    links = []
    if job.get("retry_source"):
        links.append({"trace_id": trace_id, "span_id": last_digits(job["retry_source"]["job_id"])})
    if job.get("triggered_build"):
        links.append(build_link(job["triggered_build"]["id"]))
    return links


def build_link(build_id: str) -> Object:
    return {"trace_id": build_id.replace("-", ""), "span_id": last_digits(build_id)}


def stage_columns(stage: Object, trace_id: str, root_id: str) -> Object:
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
        "buildkite.job.unblocked_by": person(get("unblocked_by")),
        "buildkite.job.async": get("async"),
        "buildkite.job.triggered_build.id": child.get("id"),
        "buildkite.job.triggered_build.number": child.get("number"),
        "buildkite.job.triggered_build.web_url": child.get("web_url"),
        "buildkite.cluster.queue.id": get("cluster_queue_id"),
        "buildkite.agent.id": agent.get("id"),
        "buildkite.agent.name": agent.get("name"),
        "buildkite.agent.hostname": agent.get("hostname"),
        "buildkite.agent.version": agent.get("version"),
        "buildkite.agent.queue": by_key.get("queue", "default") if by_key else None,
        "buildkite.agent.meta_data": dump(tags) if tags else None,
        "buildkite.agent.meta_data.*": dump(by_key) if by_key else None,
        "cicd.pipeline.task.name": label,
        "cicd.pipeline.task.run.id": job["id"],
        "cicd.pipeline.task.run.url.full": job["web_url"],
        "cicd.pipeline.task.run.result": "error" if lost else RESULTS.get(state),
        "cicd.worker.id": agent.get("id"),
        "cicd.worker.name": agent.get("name"),
        "cicd.worker.url.full": agent.get("web_url"),
    }


def person(sent: Object | None) -> str | None:
    """Without pictures and dates."""
    return dump({key: sent[key] for key in PERSON if sent.get(key)}) if sent else None


def group_rows(
    steps: Iterable[Object], common: Object, stage_id: str, number: int
) -> Iterable[Object]:
    """One row a group key; its steps become its children."""
    groups: dict[str, Object] = {}
    for step in steps:
        key = step["buildkite.step.group.key"]
        if not key:
            continue
        group = groups.get(key)
        if group is None:
            group = groups[key] = {
                **common,
                "span_id": span_id("buildkite.step.group", common["trace_id"], str(number), key),
                "parent_span_id": stage_id,
                "name": "buildkite.step.group",
                "start": step["start"],
                "end": step["end"],
                "status": "ok",
                "buildkite.build.stage": number,
                "buildkite.step.key": key,
                "buildkite.step.type": "group",
                "buildkite.step.group.key": key,
            }
        step["parent_span_id"] = group["span_id"]
        group["start"] = min(group["start"], step["start"])
        group["end"] = max(group["end"], step["end"])
        add_status(group, step)
    return groups.values()

"""Builds payloads like those of the builds API: builds, jobs and timestamps.

Every builder takes further fields by name and puts them over its own.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from bk_pipeline.spans.model import SpanOptions, Trace
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline.spans.tree import spans_for_build

BEGAN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HOUR_S = 3_600
DAY_S = 24 * HOUR_S


def at(after_s: float | None) -> str | None:
    """Return the API's timestamp `after_s` seconds after the build's creation, in milliseconds."""
    if after_s is None:
        return None
    moment = BEGAN + timedelta(milliseconds=round(after_s * 1000))
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def ns_at(after_s: float) -> int:
    """Return the same time in nanoseconds, as in the span table."""
    return int(BEGAN.timestamp()) * 1_000_000_000 + round(after_s * 1000) * 1_000_000


def uid(name: str) -> str:
    """Return the same UUID for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://ci.example/{name}"))


def make_pipeline(slug: str = "shop", **fields: Any) -> dict[str, Any]:
    return {
        "id": uid(f"pipeline {slug}"),
        "graphql_id": f"UGlwZWxpbmU-{slug}",
        "url": f"https://api.buildkite.com/v2/organizations/acme/pipelines/{slug}",
        "web_url": f"https://buildkite.com/acme/{slug}",
        "name": slug.capitalize(),
        "slug": slug,
        "repository": f"git@github.com:acme/{slug}.git",
        "default_branch": "main",
        "cluster_id": None,
        "provider": {"id": "github", "settings": {"build_tags": False}},
        **fields,
    }


def make_person(name: str = "Ines Okafor") -> dict[str, Any]:
    first = name.partition(" ")[0].lower()
    return {
        "id": uid(name),
        "graphql_id": f"VXNlci0-{first}",
        "name": name,
        "email": f"{first}@acme.example",
        "avatar_url": "https://www.gravatar.com/avatar/0",
        "created_at": "2021-05-04T08:00:00.000Z",
    }


def make_agent(name: str = "linux-1", **fields: Any) -> dict[str, Any]:
    return {
        "id": uid(f"agent {name}"),
        "graphql_id": f"QWdlbnQ-{name}",
        "url": f"https://api.buildkite.com/v2/organizations/acme/agents/{uid(f'agent {name}')}",
        "web_url": f"https://buildkite.com/organizations/acme/agents/{uid(f'agent {name}')}",
        "name": name,
        "connection_state": "connected",
        "hostname": f"{name}.ci.acme.example",
        "ip_address": "192.0.2.10",
        "user_agent": "buildkite-agent/3.110.0 (linux; amd64)",
        "version": "3.110.0",
        "meta_data": ["queue=default", "os=linux"],
        **fields,
    }


def make_job(
    name: str = "test",
    *,
    runnable_s: float | None = 1,
    wait_s: float = 2,
    run_s: float | None = 10,
    state: str = "passed",
    created_s: float | None = 0,
    **fields: Any,
) -> dict[str, Any]:
    """A command job that became runnable `runnable_s` seconds after the build's creation.

    `run_s=None`: it never started. `runnable_s=None`: it never became runnable. Fields default
    to null or to the values of a passed job.
    """
    started_s = None if runnable_s is None or run_s is None else runnable_s + wait_s
    finished_s = None if started_s is None or run_s is None else started_s + run_s
    job_id = fields.get("id", uid(f"job {name}"))
    exits = {"passed": 0, "failed": 1}
    return {
        "id": job_id,
        "graphql_id": f"Sm9iLS0-{job_id[:8]}",
        "type": "script",
        "name": name,
        "step_key": name,
        "group_key": None,
        "step": {"id": uid(f"step {fields.get('step_key', name)}"), "signature": None},
        "priority": {"number": 0},
        "agent_query_rules": ["queue=default"],
        "state": state,
        "web_url": f"https://buildkite.com/acme/shop/builds/7#{job_id}",
        "command": f"make {name}",
        "soft_failed": False,
        "exit_status": exits.get(state) if started_s is not None else None,
        "signal": None,
        "signal_reason": None,
        "broken_reason": None,
        "artifact_paths": None,
        "agent": make_agent() if started_s is not None else None,
        "created_at": at(created_s),
        "scheduled_at": at(created_s),
        "runnable_at": at(runnable_s),
        "started_at": at(started_s),
        "finished_at": at(finished_s),
        "expired_at": None,
        "retried": False,
        "retried_in_job_id": None,
        "retries_count": None,
        "retry_source": None,
        "retry_type": None,
        "parallel_group_index": None,
        "parallel_group_total": None,
        "matrix": None,
        "cluster_id": None,
        "cluster_queue_id": None,
        **fields,
    }


def make_retry(
    old: dict[str, Any], *, made_s: float, kind: str = "manual", **fields: Any
) -> dict[str, Any]:
    """A retry of `old`, created `made_s` seconds after the build; updates `old` to match."""
    count = (old["retries_count"] or 0) + 1
    fields.setdefault("runnable_s", made_s + 0.08)
    new = make_job(
        old["name"],
        created_s=made_s,
        id=uid(f"{old['id']} attempt {count}"),
        step_key=old["step_key"],
        group_key=old["group_key"],
        step=old["step"],
        retries_count=count,
        retry_source={"job_id": old["id"], "retry_type": kind},
        **fields,
    )
    old.update(retried=True, retried_in_job_id=new["id"], retry_type=kind)
    old["retried_by"] = make_person() if kind == "manual" else None
    return new


def make_waiter(name: str = "wait") -> dict[str, Any]:
    return {"id": uid(f"job {name}"), "graphql_id": f"Sm9iLS0-{name}", "type": "waiter"}


def make_block(
    label: str = "Release?", *, unblocked_s: float | None = None, **fields: Any
) -> dict[str, Any]:
    """The job of a block or input step, which the API does not distinguish.

    It is blocked if `unblocked_s` is None.
    """
    unblocked = unblocked_s is not None
    return {
        "id": uid(f"job {label}"),
        "graphql_id": f"Sm9iLS0-{label[:4]}",
        "type": "manual",
        "label": label,
        "step_key": None,
        "group_key": None,
        "step": {"id": uid(f"step {label}"), "label": label},
        "state": "unblocked" if unblocked else "blocked",
        "web_url": None,
        "unblocked_by": make_person() if unblocked else None,
        "unblocked_at": at(unblocked_s),
        "unblockable": not unblocked,
        "unblock_url": "https://api.buildkite.com/v2/unblock",
        **fields,
    }


def make_trigger(
    name: str = "deploy", *, triggered: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    """A trigger job, which has no command and no agent in the API."""
    job = make_job(name, wait_s=0.1, **fields)
    for gone in ("command", "agent", "exit_status", "agent_query_rules"):
        del job[gone]
    return {**job, "type": "trigger", "async": False, "triggered_build": triggered}


def make_build(
    jobs: list[dict[str, Any]] | None = None, *, state: str = "passed", **fields: Any
) -> dict[str, Any]:
    """A build that finished 0.2 s after the last of its `jobs`. Default: one job."""
    jobs = [make_job(state=state)] if jobs is None else jobs
    ends = [job.get("finished_at") or job.get("expired_at") for job in jobs]
    last = max((datetime.fromisoformat(end) for end in ends if end), default=BEGAN)
    first_start = min((job["started_at"] for job in jobs if job.get("started_at")), default=None)
    return {
        "id": uid("build 7"),
        "graphql_id": "QnVpbGQtLS03",
        "url": "https://api.buildkite.com/v2/organizations/acme/pipelines/shop/builds/7",
        "web_url": "https://buildkite.com/acme/shop/builds/7",
        "number": 7,
        "state": state,
        "cancel_reason": None,
        "blocked": False,
        "blocked_state": "",
        "message": "Sell more 🛒",
        "commit": "5f1c2b7e0d9a4c3b8a7f6e5d4c3b2a1908f7e6d5",
        "branch": "main",
        "tag": None,
        "env": {"SECRET": "never-exported"},
        "source": "webhook",
        "author": {"username": "tomas", "name": "Tomas Reyes", "email": "tomas@acme.example"},
        "creator": make_person(),
        "created_at": at(0),
        "scheduled_at": at(-0.03),
        "started_at": first_start,
        "failing_at": None,
        "finished_at": at((last - BEGAN).total_seconds() + 0.2),
        "meta_data": {},
        "pull_request": {},
        "merge_queue": None,
        "rebuilt_from": None,
        "triggered_from": None,
        "cluster_id": None,
        "pipeline": make_pipeline(),
        "jobs": jobs,
        **fields,
    }


def make_trace(payload: Any, **options: Any) -> Trace:
    """Return the trace of a finished build."""
    text = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    trace = spans_for_build(decode_build(text), options=SpanOptions(**options))
    assert trace is not None
    return trace


def make_spans(payload: Any, **options: Any) -> list[dict[str, Any]]:
    """Return the payload's spans as plain objects, root first."""
    return list(rows(table_of([make_trace(payload, **options)])))

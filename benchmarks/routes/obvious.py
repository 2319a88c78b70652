"""Shared by the two simple routes: states, ids, JSON text. It uses no code of ours."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any

NO_SPAN = {"broken", "skipped", "waiting", "waiting_failed"}
ENDED = {"passed", "failed", "canceled", "timed_out", "expired", "finished"}
FAILED = {"failed", "timed_out", "expired"}
RESULTS = {
    "passed": "success",
    "unblocked": "success",
    "failed": "failure",
    "timed_out": "timeout",
    "expired": "error",
    "canceled": "cancellation",
    "skipped": "skip",
    "not_run": "skip",
}
SYSTEM_FAILURES = {
    "agent_stop",
    "agent_incompatible",
    "agent_refused",
    "process_run_error",
    "signature_rejected",
    "stack_error",
}
TASK_TYPES = {
    "build": "build builds building",
    "test": "test tests testing",
    "deploy": "deploy deploys deploying deployment deployments",
}
STEP_TYPES = {"script": "command", "manual": "block", "trigger": "trigger"}

dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def repository_of(address: str) -> tuple[str, str, str]:
    """Return URL, owner and name of a repository like `git@github.com:acme/web.git`."""
    host, _, path = address.removeprefix("git@").removesuffix(".git").partition(":")
    owner, _, name = path.partition("/")
    return f"https://{host}/{path}", owner, name


def last_digits(uuid: str) -> str:
    """Return the last 16 hex digits of a UUID."""
    return uuid[19:23] + uuid[24:]


def span_id(*parts: str) -> str:
    """Return the hash of `parts` as a span id."""
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


def task_result(job: dict[str, Any]) -> str | None:
    """Return the value of `cicd.pipeline.task.run.result`."""
    reason = job.get("signal_reason")
    lost = job.get("exit_status") == -1 and not reason
    if job["state"] == "failed" and (lost or reason in SYSTEM_FAILURES):
        return "error"
    return RESULTS.get(job["state"])


def result_of(build: dict[str, Any]) -> str | None:
    """Return the value of `cicd.pipeline.result`."""
    result = RESULTS.get(build["state"])
    if result != "failure":
        return result
    results = {
        task_result(job)
        for job in build["jobs"]
        if job.get("state") in FAILED and not job.get("soft_failed") and not job.get("retried")
    }
    return results.pop() if len(results) == 1 else result


def task_type(job: dict[str, Any]) -> str | None:
    """Return the value of `cicd.pipeline.task.type`."""
    label = (job.get("step") or {}).get("label") or job.get("label") or job.get("name")
    for text in (job.get("step_key"), label) if job["type"] != "manual" else ():
        words = set(re.sub(r"[^a-z]+", " ", (text or "").lower()).split())
        types = [type_ for type_, forms in TASK_TYPES.items() if words & set(forms.split())]
        if types:
            return types[0] if len(types) == 1 else None
    return None


def unblocker(sent: dict[str, Any] | None) -> str | None:
    """Return who unblocked a step as JSON, with the keys of Buildkite's notification service."""
    names = {"uuid": "id", "graphql_id": "graphql_id", "name": "name"}
    return dump({new: sent[old] for new, old in names.items() if sent.get(old)}) if sent else None

"""Values of the `cicd.*` and `vcs.*` attributes of OpenTelemetry's semantic conventions.

Source: open-telemetry/semantic-conventions, registry of attributes, "cicd" and "vcs".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from bk_pipeline.spans.kinds.job import agent_was_lost
from bk_pipeline.spans.model import Span, Trace

# `cicd.pipeline.result` and `cicd.pipeline.task.run.result`, by Buildkite's states.
RESULTS = {
    "passed": "success",
    "unblocked": "success",
    "failed": "failure",
    "timed_out": "timeout",
    "expired": "timeout",
    "canceled": "cancellation",
    "skipped": "skip",
    "not_run": "skip",
}
# Of `pipeline.provider.id`, like `github_enterprise`, what `vcs.provider.name` calls it.
PROVIDERS = ("github", "gitlab", "bitbucket", "gitea")

_URL = re.compile(r"(\w+)(?:\+ssh)?://(?:[^@/]*@)?([^/:@]+)(:\d+)?/+(.+)")
_SCP = re.compile(r"[^@/:\s]+@([^/:@\s]+):/*(.+)")


class Repository(NamedTuple):
    url: str
    owner: str | None
    name: str


@lru_cache(maxsize=4096)
def _repository(address: str) -> Repository | None:
    """What a Git address says of its repository; None if it is none of a host's."""
    scheme = port = ""
    if found := _URL.fullmatch(address):
        scheme, host, port, path = found[1], found[2], found[3], found[4]
    elif found := _SCP.fullmatch(address):
        host, path = found[1], found[2]
    else:
        return None
    path = path.rstrip("/").removesuffix(".git")
    owner, _, name = path.rpartition("/")
    if not name:
        return None
    is_web = scheme in {"http", "https"}
    base = f"{scheme}://{host}{port or ''}" if is_web else f"https://{host}"
    return Repository(f"{base}/{path}", owner or None, name)


def _repository_of(trace: Trace) -> Repository | None:
    pipeline = trace.build.pipeline
    return _repository(pipeline.repository) if pipeline and pipeline.repository else None


def repository_url(trace: Trace) -> str | None:
    """The address for a browser: HTTPS, no `.git`, no credentials."""
    repository = _repository_of(trace)
    return repository.url if repository else None


def repository_name(trace: Trace) -> str | None:
    repository = _repository_of(trace)
    return repository.name if repository else None


def repository_owner(trace: Trace) -> str | None:
    repository = _repository_of(trace)
    return repository.owner if repository else None


def provider(trace: Trace) -> str | None:
    pipeline = trace.build.pipeline
    known = pipeline.provider.id if pipeline and pipeline.provider else None
    return next((name for name in PROVIDERS if (known or "").startswith(name)), None)


def pipeline_name(trace: Trace) -> str | None:
    pipeline = trace.build.pipeline
    return pipeline.name or pipeline.slug if pipeline else None


def pipeline_result(trace: Trace) -> str | None:
    return RESULTS.get(trace.build.state or "")


def head_type(trace: Trace) -> str | None:
    build = trace.build
    return "tag" if build.tag else "branch" if build.branch else None


def head_name(trace: Trace) -> str | None:
    return trace.build.tag or trace.build.branch


def base_type(trace: Trace) -> str | None:
    request = trace.build.pull_request
    return "branch" if request and request.base else None


def task_name(span: Span) -> str | None:
    assert span.job is not None
    return span.job.label or span.job.name or span.job.step_key


def task_result(span: Span) -> str | None:
    """`error` where the CI system failed and not the command: the agent was lost."""
    job = span.job
    assert job is not None
    if agent_was_lost(job):
        return "error"
    if job.state == "finished":
        return "success" if job.exit_status == 0 else "failure"
    return RESULTS.get(job.state or "")

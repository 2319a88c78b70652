"""Values of the `cicd.*` and `vcs.*` attributes of OpenTelemetry's semantic conventions.

Source: open-telemetry/semantic-conventions, registry of attributes, "cicd" and "vcs".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from bk_pipeline.spans.derived import job_label
from bk_pipeline.spans.records import Build, Job, Pipeline, PullRequest
from bk_pipeline.spans.status import agent_was_lost

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


def _repository_of(pipeline: Pipeline) -> Repository | None:
    return _repository(pipeline.repository) if pipeline.repository else None


def repository_url(pipeline: Pipeline) -> str | None:
    """The address for a browser: HTTPS, no `.git`, no credentials."""
    repository = _repository_of(pipeline)
    return repository.url if repository else None


def repository_name(pipeline: Pipeline) -> str | None:
    repository = _repository_of(pipeline)
    return repository.name if repository else None


def repository_owner(pipeline: Pipeline) -> str | None:
    repository = _repository_of(pipeline)
    return repository.owner if repository else None


def provider(pipeline: Pipeline) -> str | None:
    known = (pipeline.provider.id if pipeline.provider else None) or ""
    return next((name for name in PROVIDERS if known.startswith(name)), None)


def pipeline_name(pipeline: Pipeline) -> str | None:
    return pipeline.name or pipeline.slug


def pipeline_result(build: Build) -> str | None:
    return RESULTS.get(build.state or "")


def head_type(build: Build) -> str | None:
    return "tag" if build.tag else "branch" if build.branch else None


def head_name(build: Build) -> str | None:
    return build.tag or build.branch


def base_type(request: PullRequest) -> str | None:
    return "branch" if request.base else None


def task_name(job: Job) -> str | None:
    return job_label(job) or job.step_key


def task_result(job: Job) -> str | None:
    """`error` where the CI system failed and not the command: the agent was lost."""
    if agent_was_lost(job):
        return "error"
    if job.state == "finished":
        return "success" if job.exit_status == 0 else "failure"
    return RESULTS.get(job.state or "")

"""Values of fields that no single place of the payload holds; `fields.py` says which is whose.

A function takes the object that the value belongs to: a build, a job, an agent, a span.
Lists and objects are given as compact JSON text, as they stand in the span table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from bk_pipeline.spans.jobs import agent_was_lost
from bk_pipeline.spans.model import Span
from bk_pipeline.spans.records import Agent, Build, Job, Person, Pipeline, PullRequest
from bk_pipeline.text import VALUE_LIMIT_BYTES, compact, cut

DEFAULT_QUEUE = "default"
QUEUE = "queue="

# `{{matrix}}` or `{{matrix.os}}` in a label, with blanks or without.
MATRIX_VALUE = re.compile(r"\{\{\s*matrix(?:\.([^}\s]+))?\s*\}\}")

_API_URL = re.compile(r"https?://[^/]+/v2/organizations/([^/?#]+)/")
_WEB_URL = re.compile(r"https?://[^/]+/([^/?#]+)/")


def organization_slug(build: Build) -> str | None:
    """From the build's URLs: the payload has it nowhere else."""
    for pattern, url in ((_API_URL, build.url), (_WEB_URL, build.web_url)):
        found = pattern.match(url or "")
        if found:
            return found[1]
    return None


def cluster_id(build: Build) -> str | None:
    """The build's, else its pipeline's; older payloads have it on the jobs alone."""
    own = build.cluster_id or (build.pipeline.cluster_id if build.pipeline else None)
    if own:
        return own
    for job in build.jobs or ():
        if job.cluster_id:
            return job.cluster_id
    return None


def job_counts(build: Build) -> str:
    """How many of the build's jobs are in which state; waiters have none and do not count."""
    counts = Counter([job.state for job in build.jobs or () if job.state])
    return compact(counts)


def build_meta_data(build: Build) -> str | None:
    return _map(build.meta_data)


def merge_queue(build: Build) -> str | None:
    return _map(build.merge_queue)


def _map(values: Mapping[str, str] | None) -> str | None:
    if not values:
        return None
    text = compact(values)
    if len(text) * 4 <= VALUE_LIMIT_BYTES:
        return text
    return compact({key: cut(one) for key, one in values.items()})


def pull_request_id(request: PullRequest) -> str | None:
    return None if request.id is None else str(request.id)


def passed(job: Job) -> bool:
    """Whether the job's command succeeded; a soft failure is none of that."""
    if job.state == "finished":
        return job.exit_status == 0
    return job.state in {"passed", "unblocked"}


def job_label(job: Job) -> str | None:
    label = job.label or job.name
    if not label or not job.matrix or "{{" not in label:
        return label
    values = msgspec.json.decode(job.matrix)
    if not isinstance(values, dict):
        values = {"": values}

    def value_of(placeholder: re.Match[str]) -> str:
        dimension = placeholder[1] or ""
        if not dimension and len(values) == 1:
            [value] = values.values()
        else:
            value = values.get(dimension, placeholder[0])
        return value if isinstance(value, str) else compact(value)

    return MATRIX_VALUE.sub(value_of, label)


def signal(job: Job) -> str | None:
    return None if job.signal is None else str(job.signal)


def agent_query_rules(rules: tuple[str, ...]) -> str | None:
    return compact(rules) if rules else None


def agent_queue(job: Job) -> str | None:
    """The queue that the agent was listening to: the one the job asked for, if it may choose."""
    return _queue(job.agent, job.agent_query_rules or ()) if job.agent else None


@lru_cache(maxsize=4096)
def _queue(agent: Agent, rules: tuple[str, ...]) -> str | None:
    if not _is_named(agent):
        return None
    tags = agent.meta_data
    asked = [rule.removeprefix(QUEUE) for rule in rules if rule.startswith(QUEUE)]
    if tags is None:
        return asked[0] if asked else None
    queues = [tag.removeprefix(QUEUE) for tag in tags if tag.startswith(QUEUE)]
    for queue in asked:
        if queue in queues:
            return queue
    return queues[0] if queues else DEFAULT_QUEUE


def agent_tags(agent: Agent) -> str | None:
    return compact(agent.meta_data) if agent.meta_data and _is_named(agent) else None


def agent_tag_values(agent: Agent) -> str | None:
    """The values of a key that stands more than once get commas."""
    if not agent.meta_data or not _is_named(agent):
        return None
    by_key: dict[str, str] = {}
    for tag in agent.meta_data:
        key, _, value = tag.partition("=")
        by_key[key] = f"{by_key[key]},{value}" if key in by_key else value
    return compact(by_key)


def _is_named(agent: Agent) -> bool:
    """Whether it says which agent it was."""
    return bool(agent.id or agent.name)


def unblocked_by(job: Job) -> str | None:
    return _person(job.unblocked_by)


def retried_by(job: Job) -> str | None:
    return _person(job.retried_by)


def _person(person: Person | str | None) -> str | None:
    """Id, name and address, without pictures and dates."""
    return compact(person) if person else None


def adjusted(span: Span) -> bool | None:
    return span.adjusted or None


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

"""Functions that compute the field values that are not simply read from the payload.

`fields.py` declares which function fills which field. Each function takes the object that
the value belongs to: a build, a job, an agent, a span. Lists and objects are returned as
compact JSON text, as they are stored in the span table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from bk_pipeline.spans.jobs import Retries, failed_hard, system_failed
from bk_pipeline.spans.model import Span, Step
from bk_pipeline.spans.records import Agent, Build, Job, Person, Pipeline, PullRequest
from bk_pipeline.text import VALUE_LIMIT_BYTES, compact_json, truncate
from bk_pipeline.units import INT64

DEFAULT_QUEUE = "default"
QUEUE = "queue="

# `{{matrix}}` or `{{matrix.os}}` in a label, with or without spaces.
MATRIX_PLACEHOLDER = re.compile(r"\{\{\s*matrix(?:\.([^}\s]+))?\s*\}\}")

_API_URL = re.compile(r"https?://[^/]+/v2/organizations/([^/?#]+)/")
_WEB_URL = re.compile(r"https?://[^/]+/([^/?#]+)/")


def organization_slug(build: Build) -> str | None:
    """Return the organization's slug, taken from the build's URLs, its only source."""
    for pattern, url in ((_API_URL, build.url), (_WEB_URL, build.web_url)):
        found = pattern.match(url or "")
        if found:
            return found[1]
    return None


def cluster_id(build: Build) -> str | None:
    """Return the cluster id of the build, else of its pipeline, else (old payloads) of a job."""
    own = build.cluster_id or (build.pipeline.cluster_id if build.pipeline else None)
    if own:
        return own
    for job in build.jobs or ():
        if job.cluster_id:
            return job.cluster_id
    return None


def job_counts(build: Build) -> str:
    """Return the number of jobs in each state. Waiters have no state and are not counted."""
    counts = Counter([job.state for job in build.jobs or () if job.state])
    return compact_json(counts)


def build_meta_data(build: Build) -> str | None:
    """Return the build's meta-data as a JSON object; None if it is empty."""
    return _map(build.meta_data)


def merge_queue(build: Build) -> str | None:
    """Return the build's merge queue as a JSON object; None if there is none."""
    return _map(build.merge_queue)


def _map(values: Mapping[str, str] | None) -> str | None:
    if not values:
        return None
    text = compact_json(values)
    if len(text) * 4 <= VALUE_LIMIT_BYTES:
        return text
    return compact_json({key: truncate(value) for key, value in values.items()})


def pull_request_id(request: PullRequest) -> str | None:
    """Return the number of the pull request as a string."""
    return None if request.id is None else str(request.id)


def passed(job: Job) -> bool:
    """Return whether the job succeeded; a soft failure did not."""
    if job.state == "finished":
        return job.exit_status == 0
    return job.state in {"passed", "unblocked"}


def job_label(job: Job) -> str | None:
    """Return the label of the job, else its name, with matrix placeholders filled in."""
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
        return value if isinstance(value, str) else compact_json(value)

    return MATRIX_PLACEHOLDER.sub(value_of, label)


def signal(job: Job) -> str | None:
    """Return the signal that ended the job's command, by name or number, as a string."""
    return None if job.signal is None else str(job.signal)


def concurrency_wait_ms(job: Job) -> int | None:
    """Return how long a concurrency limit kept the job waiting, in whole milliseconds.

    None if the payload has no number there.
    """
    wait = job.concurrency_wait_time_ms
    if wait is None or isinstance(wait, bool) or not isinstance(wait, int | float):
        return None
    return round(wait) if round(wait) in INT64 else None


def agent_query_rules(rules: tuple[str, ...]) -> str | None:
    """Return the job's agent query rules as a JSON list; None if it has none."""
    return compact_json(rules) if rules else None


def agent_queue(job: Job) -> str | None:
    """Return the agent's queue: of several, the one that the job's query rules ask for."""
    return _queue(job.agent, job.agent_query_rules or ()) if job.agent else None


@lru_cache(maxsize=4096)
def _queue(agent: Agent, rules: tuple[str, ...]) -> str | None:
    if not _is_identified(agent):
        return None
    tags = agent.meta_data
    requested = [rule.removeprefix(QUEUE) for rule in rules if rule.startswith(QUEUE)]
    if tags is None:
        return requested[0] if requested else None
    queues = [tag.removeprefix(QUEUE) for tag in tags if tag.startswith(QUEUE)]
    for queue in requested:
        if queue in queues:
            return queue
    return queues[0] if queues else DEFAULT_QUEUE


def agent_tags(agent: Agent) -> str | None:
    """Return the agent's tags as a JSON list of `key=value`; None if unknown."""
    return compact_json(agent.meta_data) if agent.meta_data and _is_identified(agent) else None


def agent_tag_values(agent: Agent) -> str | None:
    """Return the agent's tags as a JSON object; several values of one key are joined by commas."""
    if not agent.meta_data or not _is_identified(agent):
        return None
    by_key: dict[str, str] = {}
    for tag in agent.meta_data:
        key, _, value = tag.partition("=")
        by_key[key] = f"{by_key[key]},{value}" if key in by_key else value
    return compact_json(by_key)


def _is_identified(agent: Agent) -> bool:
    """Return whether the payload tells which agent it was."""
    return bool(agent.id or agent.name)


def unblocked_by(job: Job) -> str | None:
    """Return the user who unblocked the job, as a JSON object or string.

    The object has the keys of Buildkite's OpenTelemetry notification service.
    """
    person = job.unblocked_by
    if person is None or isinstance(person, str):
        return _person(person)
    values = {"uuid": person.id, "graphql_id": person.graphql_id, "name": person.name}
    return _map({key: value for key, value in values.items() if value is not None})


def retried_by(job: Job) -> str | None:
    """Return the user who retried the job, as a JSON object or string."""
    return _person(job.retried_by)


def _person(person: Person | str | None) -> str | None:
    """Return id, name and email address, without avatar and dates."""
    return compact_json(person) if person else None


def adjusted(span: Span) -> bool | None:
    """Return True if the span's times were adjusted, else None."""
    return span.adjusted or None


def filled_later(_: object) -> None:
    """Return None: the column is filled in the finished table (costs), or in one of its own (details)."""


# Buildkite's states -> `cicd.pipeline.result` and `cicd.pipeline.task.run.result`.
RESULTS = {
    "passed": "success",
    "unblocked": "success",
    "failed": "failure",
    "timed_out": "timeout",
    "canceled": "cancellation",
    "skipped": "skip",
    "not_run": "skip",
}
# What a pipeline run does, of `cicd.pipeline.action.name`: builds do not say more.
ACTION = "BUILD"
# Words in a step's key or label -> `cicd.pipeline.task.type`.
TASK_TYPES = {
    word: type_
    for type_, words in {
        "build": ("build", "builds", "building"),
        "test": ("test", "tests", "testing"),
        "deploy": ("deploy", "deploys", "deploying", "deployment", "deployments"),
    }.items()
    for word in words
}
_WORD_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|[\W\d_]+")
# Values of `vcs.provider.name`; `pipeline.provider.id` starts with one (`github_enterprise`).
PROVIDERS = ("github", "gitlab", "bitbucket", "gitea")

_URL = re.compile(r"(\w+)(?:\+ssh)?://(?:[^@/]*@)?([^/:@]+)(:\d+)?/+(.+)")
_SCP = re.compile(r"[^@/:\s]+@([^/:@\s]+):/*(.+)")


class Repository(NamedTuple):
    """A repository: its address for a browser, its owner if known, and its name."""

    url: str
    owner: str | None
    name: str


@lru_cache(maxsize=4096)
def _repository(address: str) -> Repository | None:
    """Parse the address of a Git remote; None if it names no host and repository."""
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
    """Return the repository's address for a browser: HTTP(S), without `.git` and credentials."""
    repository = _repository_of(pipeline)
    return repository.url if repository else None


def repository_name(pipeline: Pipeline) -> str | None:
    """Return the name of the repository without its owner."""
    repository = _repository_of(pipeline)
    return repository.name if repository else None


def repository_owner(pipeline: Pipeline) -> str | None:
    """Return the owner of the repository: all path segments before its name."""
    repository = _repository_of(pipeline)
    return repository.owner if repository else None


def provider(pipeline: Pipeline) -> str | None:
    """Return the value of `vcs.provider.name`; None for an unknown provider."""
    provider_id = (pipeline.provider.id if pipeline.provider else None) or ""
    return next((name for name in PROVIDERS if provider_id.startswith(name)), None)


def pipeline_name(pipeline: Pipeline) -> str | None:
    """Return the pipeline's name, else its slug."""
    return pipeline.name or pipeline.slug


def pipeline_result(build: Build) -> str | None:
    """Return the value of `cicd.pipeline.result`; None for an unfinished build.

    A failed build is `timeout` or `error` if all its hard failures are. Failures that were
    retried do not count.
    """
    result = RESULTS.get(build.state or "")
    if result != "failure":
        return result
    jobs = {job.id: job for job in build.jobs or ()}
    retries = Retries(jobs.values())
    retried = {retry.of for retry in map(retries.of, jobs) if retry}
    left = [job for job in jobs.values() if failed_hard(job) and job.id not in retried]
    results = set(map(task_result, left))
    return results.pop() if len(results) == 1 else result


def action_name(build: Build) -> str:  # noqa: ARG001  # the getter of a field
    """Return the value of `cicd.pipeline.action.name`, the same for all builds."""
    return ACTION


def head_type(build: Build) -> str | None:
    """Return `tag` or `branch`: what the build was created for."""
    return "tag" if build.tag else "branch" if build.branch else None


def head_name(build: Build) -> str | None:
    """Return the tag that was built, else the branch."""
    return build.tag or build.branch


def base_name(build: Build) -> str | None:
    """Return the branch that the pull request or the merge queue merges into."""
    return (build.pull_request and build.pull_request.base) or _of_queue(build, "base_branch")


def base_type(build: Build) -> str | None:
    """Return `branch` if the build has a base branch."""
    return "branch" if base_name(build) else None


def base_revision(build: Build) -> str | None:
    """Return the commit that the merge queue merges into."""
    return _of_queue(build, "base_commit")


def _of_queue(build: Build, key: str) -> str | None:
    """Return a value of the build's merge queue; null is JSON text there, like all non-strings."""
    value = (build.merge_queue or {}).get(key)
    return None if value in (None, "", "null") else value


def task_name(job: Job) -> str | None:
    """Return the job's label, else the key of its step."""
    return job_label(job) or job.step_key


def task_type(step: Step) -> str | None:
    """Return `cicd.pipeline.task.type` if the words of the step's key, else of its label, name one.

    None if they name several, or if it is a block step.
    """
    if step.type == "block":
        return None
    for text in (step.key, step.label):
        words = map(str.casefold, _WORD_BORDER.split(text or ""))
        types = {TASK_TYPES[word] for word in words if word in TASK_TYPES}
        if types:
            return types.pop() if len(types) == 1 else None
    return None


def task_result(job: Job) -> str | None:
    """Return `cicd.pipeline.task.run.result`; it is `error` if the CI system failed."""
    if system_failed(job):
        return "error"
    if job.state == "finished":
        return "success" if job.exit_status == 0 else "failure"
    return RESULTS.get(job.state or "")

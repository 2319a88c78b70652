"""Declares every attribute of every span; schema, documentation and encoders follow from it.

To add a field, add its row here and its key in `records.py`. `source` is the path of the value
in the API's response, and so tells which object owns it: a field of `build` is read once per
build, one of `job.agent` once per agent. A computed field names its function, and its source
lists the function's inputs. Paths that begin with `organization` or `cluster` are of the API's
objects of that name, which are read once a day (`organizations.py`).

Names and kinds are those of Buildkite's OpenTelemetry notification service, where it has the
attribute; `UNAVAILABLE` lists those of its attributes that the REST API does not have.
`cicd.*` and `vcs.*` are OpenTelemetry semantic conventions, of the version that `SCHEMA_URL` names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from operator import attrgetter
from typing import Any

from bk_pipeline.spans import derived
from bk_pipeline.spans.model import SpanKind, SpanOptions


class FieldType(StrEnum):
    """The type of a value. The last three are stored as compact JSON text."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STRINGS = "string list"
    JSON = "JSON"
    MAP = "map"  # one attribute per key, which replaces the `*` in the field's name


@dataclass(frozen=True, slots=True)
class Field:
    """One attribute: its type, its source, and the kinds of spans that have it.

    Attributes:
        name: The attribute's name, and the column's.
        type: The type of its values.
        kinds: The kinds of spans that have it.
        source: The path of the value in the API's response, or of a computed field's inputs.
        meaning: Its description in the documentation and in Dagster.
        unit: The unit of its values, if they have one.
        value: The function that computes the value; None if it is just read.
        of: The path of the argument of `value`, if it is not the first name in `source`.
        resource: Whether it is a resource attribute rather than a span attribute.
        distinct: Whether nearly every row has a different value.
        holds: Other attributes whose values are part of this one's. Privacy settings for them
            apply to this attribute too.
        may_be: Other attributes whose value this one takes on some spans. Privacy settings for
            them apply to this attribute on those spans.
        entries: Other names of an entry of a list of `key=value`, or of a map.
    """

    name: str
    type: FieldType
    kinds: frozenset[SpanKind]
    source: str
    meaning: str
    unit: str = ""
    value: Callable[[Any], Any] | None = None
    of: str = ""
    resource: bool = False
    distinct: bool = False
    holds: tuple[str, ...] = ()
    may_be: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()

    @property
    def per_build(self) -> bool:
        """Whether all spans of a build that have the field have the same value."""
        return self.source.startswith(("build", "organization", "cluster"))

    @property
    def owner(self) -> str:
        """The path of the object that has the value: `job.agent` for `job.agent.id`."""
        if self.value is None:
            return self.source.rpartition(".")[0]
        return self.of or self.source.partition(".")[0]

    @property
    def getter(self) -> Callable[[Any], Any]:
        """The function that reads or computes the value from its owner."""
        return self.value or attrgetter(self.source.rpartition(".")[2])


# The identity columns, which come before the fields: Arrow's name of the type, and a description.
# `table.py` has their types; this module is imported without pyarrow.
IDENTITY = {
    "trace_id": ("string", "The build's UUID without dashes: 32 hex digits."),
    "span_id": ("string", "16 hex digits; for a job the last ones of its UUID."),
    "parent_span_id": ("string", "The parent's span id; absent on the root."),
    "name": ("string", "The kind: " + ", ".join(f"`{kind}`" for kind in SpanKind) + "."),
    "start": ("timestamp[ns, tz=UTC]", "When the span started."),
    "end": ("timestamp[ns, tz=UTC]", "When the span ended; never before `start`."),
    "status": ("string", "`unset`, `ok` or `error`."),
    "links": ("list", "Spans that caused this one: `trace_id`, `span_id`."),
}

STRING, INT, FLOAT, BOOL, STRINGS, JSON, MAP = FieldType
# Types whose values are not text.
NUMERIC = frozenset({INT, FLOAT, BOOL})
BUILD, STAGE, GROUP, STEP, JOB, WAIT, *_INSIDE = (frozenset({kind}) for kind in SpanKind)
SECTION, COMMAND, SUITE, CASE, THREAD, EVENT = _INSIDE
# The kinds of spans that come from a build's payload, and those inside of jobs.
OF_BUILD = BUILD | STAGE | GROUP | STEP | JOB | WAIT
INSIDE = frozenset(SpanKind) - OF_BUILD
ALL = OF_BUILD | INSIDE
_F = Field
_D = partial(Field, value=derived.filled_later, of="trace")

# The version of OpenTelemetry's semantic conventions that names and values follow.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# Attributes whose values are part of URLs and GraphQL ids.
ORGANIZATION, PIPELINE = "buildkite.organization.slug", "buildkite.pipeline.slug"
BUILD_ID, BUILD_NUMBER, JOB_ID = "buildkite.build.id", "buildkite.build.number", "buildkite.job.id"
BUILD_PAGE = (ORGANIZATION, PIPELINE, "buildkite.pipeline.web_url", BUILD_NUMBER)
COMMANDS = ("buildkite.step.command", "buildkite.job.command")
LABELS = ("buildkite.step.label", "buildkite.job.label")
REPOSITORY = "buildkite.pipeline.repo"

# fmt: off
RESOURCE_FIELDS = (
    _F("buildkite.organization.slug", STRING, ALL, "build.url", "The organization's slug, as in URLs.", value=derived.organization_slug, resource=True),
    _F("buildkite.organization.id", STRING, ALL, "organization.id", "The organization's UUID, if the token has the scope read_organizations.", value=attrgetter("organization_id"), of="trace.origin", resource=True),
    _F("buildkite.organization.name", STRING, ALL, "organization.name", "The organization's name, if the token has the scope read_organizations.", value=attrgetter("organization_name"), of="trace.origin", resource=True),
    _F("buildkite.pipeline.id", STRING, ALL, "build.pipeline.id", "The pipeline's UUID.", resource=True),
    _F("buildkite.pipeline.graphql_id", STRING, ALL, "build.pipeline.graphql_id", "The pipeline's id in the GraphQL API.", resource=True, holds=("buildkite.pipeline.id",)),
    _F("buildkite.pipeline.slug", STRING, ALL, "build.pipeline.slug", "The pipeline's slug, as in URLs.", resource=True),
    _F("buildkite.pipeline.name", STRING, ALL, "build.pipeline.name", "The pipeline's name.", resource=True),
    _F("buildkite.pipeline.repo", STRING, ALL, "build.pipeline.repository", "The pipeline's repository, as configured.", resource=True),
    _F("buildkite.pipeline.web_url", STRING, ALL, "build.pipeline.web_url", "The pipeline's page.", resource=True, holds=(ORGANIZATION, PIPELINE)),
    _F("buildkite.cluster.id", STRING, ALL, "build.cluster_id, else build.pipeline.cluster_id, else job.cluster_id", "UUID of the cluster that the build ran in.", value=derived.cluster_id, resource=True),
    _F("buildkite.cluster.name", STRING, ALL, "cluster.name", "The cluster's name, if the token has the scope read_clusters.", value=attrgetter("cluster_name"), of="trace.origin", resource=True),
    _F("buildkite.cluster.graphql_id", STRING, ALL, "cluster.graphql_id", "The cluster's id in the GraphQL API, if the token has the scope read_clusters.", value=attrgetter("cluster_graphql_id"), of="trace.origin", resource=True, holds=("buildkite.cluster.id",)),
)

BUILD_FIELDS = (
    _F("buildkite.build.id", STRING, ALL, "build.id", "The build's UUID."),
    _F("buildkite.build.graphql_id", STRING, ALL, "build.graphql_id", "The build's id in the GraphQL API.", holds=(BUILD_ID,)),
    _F("buildkite.build.number", INT, ALL, "build.number", "The build's number in its pipeline."),
    _F("buildkite.build.web_url", STRING, ALL, "build.web_url", "The build's page.", holds=BUILD_PAGE),
    _F("buildkite.build.message", STRING, ALL, "build.message", "The build's message; by default that of the commit."),
    _F("buildkite.build.commit", STRING, ALL, "build.commit", "The commit that was built."),
    _F("buildkite.build.branch", STRING, ALL, "build.branch", "The branch that was built."),
    _F("buildkite.build.tag", STRING, ALL, "build.tag", "The tag that was built."),
    _F("buildkite.build.source", STRING, ALL, "build.source", "What created the build: webhook, api, ui, trigger_job or schedule."),
    _F("buildkite.build.creator.id", STRING, ALL, "build.creator.id", "UUID of the user who created the build."),
    _F("buildkite.build.creator.graphql_id", STRING, ALL, "build.creator.graphql_id", "The creator's id in the GraphQL API.", holds=("buildkite.build.creator.id",)),
    _F("buildkite.build.creator.name", STRING, ALL, "build.creator.name", "The creator's name."),
    _F("buildkite.build.creator.email", STRING, ALL, "build.creator.email", "The creator's email address."),
    _F("buildkite.build.author.name", STRING, BUILD, "build.author.name", "The commit's author."),
    _F("buildkite.build.author.email", STRING, BUILD, "build.author.email", "The email address of the commit's author."),
    _F("buildkite.build.cancel_reason", STRING, BUILD, "build.cancel_reason", "Why the build was canceled."),
    _F("buildkite.build.created_at", STRING, BUILD, "build.created_at", "When the build was created, as sent by the API."),
    _F("buildkite.build.scheduled_at", STRING, BUILD, "build.scheduled_at", "When the build was scheduled, as sent by the API."),
    _F("buildkite.build.started_at", STRING, BUILD, "build.started_at", "When the build last started, as sent by the API; it changes when a job is retried."),
    _F("buildkite.build.failing_at", STRING, BUILD, "build.failing_at", "When the build was first known to fail, as sent by the API."),
    _F("buildkite.build.finished_at", STRING, BUILD, "build.finished_at", "When the build finished, as sent by the API."),
    _F("buildkite.build.blocked", BOOL, BUILD, "build.blocked", "Whether the build waits at a block step."),
    _F("buildkite.build.jobs.*", MAP, BUILD, "build.jobs[].state", "The number of jobs in each state.", value=derived.job_counts),
    _F("buildkite.build.queue_ms", INT, BUILD, "build.jobs[].started_at", "Time from the build's creation to the start of its first job.", unit="ms", value=attrgetter("queue_ms"), of="trace"),
    _F("buildkite.build.run_ms", INT, BUILD, "build.jobs[]", "How long the build was active: the total length of its stages, without pauses.", unit="ms", value=attrgetter("run_ms"), of="trace"),
    _F("buildkite.build.meta_data.*", MAP, BUILD, "build.meta_data", "The build's meta-data, one attribute per key.", value=derived.build_meta_data),
    _F("buildkite.build.pull_request.id", STRING, ALL, "build.pull_request.id", "The pull request's number.", value=derived.pull_request_id, of="build.pull_request"),
    _F("buildkite.build.pull_request.base", STRING, BUILD, "build.pull_request.base", "The branch that the pull request is to be merged into."),
    _F("buildkite.build.pull_request.repository", STRING, BUILD, "build.pull_request.repository", "The repository that the pull request comes from."),
    _F("buildkite.build.merge_queue.*", MAP, BUILD, "build.merge_queue", "The merge queue that requested the build, one attribute per key.", value=derived.merge_queue),
    _F("buildkite.build.rebuilt_from.id", STRING, BUILD, "build.rebuilt_from.id", "UUID of the build that this one was rebuilt from.", holds=(BUILD_ID,)),
    _F("buildkite.build.rebuilt_from.number", INT, BUILD, "build.rebuilt_from.number", "Number of the build that this one was rebuilt from.", holds=(BUILD_NUMBER,)),
    _F("buildkite.build.rebuilt_from.url", STRING, BUILD, "build.rebuilt_from.url", "REST API URL of the build that this one was rebuilt from.", holds=(*BUILD_PAGE, "buildkite.build.rebuilt_from.number")),
    _F("buildkite.build.triggered_from.build_id", STRING, BUILD, "build.triggered_from.build_id", "UUID of the build that triggered this one.", holds=(BUILD_ID,)),
    _F("buildkite.build.triggered_from.build_number", INT, BUILD, "build.triggered_from.build_number", "Number of the build that triggered this one.", holds=(BUILD_NUMBER,)),
    _F("buildkite.build.triggered_from.build_pipeline_slug", STRING, BUILD, "build.triggered_from.build_pipeline_slug", "Pipeline slug of the build that triggered this one.", holds=(PIPELINE,)),
)

# On the root the state of the build; on a stage the state it had when the stage ended.
STATE_FIELDS = (
    _F("buildkite.build.state", STRING, BUILD | STAGE, "span.state", "build.state; on stages before the last, the state that follows from the jobs ended by then."),
    _F("buildkite.build.blocked_state", STRING, BUILD | STAGE, "span.blocked_state", "build.blocked_state: the state in which the build waits at a block step."),
)

STEP_FIELDS = (
    _F("buildkite.build.stage", INT, ALL - BUILD, "stage.number", "Number of the stage (a period of the build between pauses), from 1."),
    _F("buildkite.step.id", STRING, STEP | JOB | WAIT | INSIDE, "step.id", "job.step.id: the step's UUID."),
    _F("buildkite.step.key", STRING, GROUP | STEP | JOB | WAIT | INSIDE, "step.key", "job.step_key, else job.step.key: the step's key; for a group job.group_key.", may_be=("buildkite.step.group.key",)),
    _F("buildkite.step.label", STRING, STEP | JOB | WAIT | INSIDE, "step.label", "job.step.label, else job.label or job.name; the step's key if its jobs have different labels.", holds=LABELS, may_be=("buildkite.step.key",)),
    _F("buildkite.step.type", STRING, GROUP | STEP, "step.type", "From job.type: command, trigger, block (also for input steps) or group."),
    _F("buildkite.step.command", STRING, STEP | JOB, "step.command", "job.command: what the step runs.", holds=COMMANDS),
    _F("buildkite.step.matrix", BOOL, STEP, "step.matrix", "True if it is a matrix step (one with job.matrix), else absent."),
    _F("buildkite.step.group.key", STRING, GROUP | STEP, "job.group_key", "The group step's key.", value=attrgetter("key"), of="step.group", holds=("buildkite.step.key",)),
)

JOB_FIELDS = (
    _F("buildkite.job.id", STRING, JOB | WAIT | INSIDE, "job.id", "The job's UUID.", distinct=True),
    _F("buildkite.job.graphql_id", STRING, JOB, "job.graphql_id", "The job's id in the GraphQL API.", distinct=True, holds=(JOB_ID,)),
    _F("buildkite.job.web_url", STRING, JOB | INSIDE, "job.web_url", "URL of the job on the build's page.", distinct=True, holds=(*BUILD_PAGE, "buildkite.build.web_url", JOB_ID)),
    _F("buildkite.job.log_url", STRING, JOB, "job.log_url", "REST API URL of the job's log; reading it takes a token with the scope read_build_logs.", distinct=True, holds=(ORGANIZATION, PIPELINE, BUILD_NUMBER, JOB_ID)),
    _F("buildkite.job.type", STRING, JOB, "job.type", "script, trigger or manual."),
    _F("buildkite.job.label", STRING, JOB | INSIDE, "job.label, else job.name", "The job's label, with its matrix values filled in.", value=derived.job_label, holds=LABELS),
    _F("buildkite.job.command", STRING, JOB, "job.command", "What the job runs.", holds=COMMANDS),
    _F("buildkite.job.agent_query_rules", STRINGS, JOB | WAIT, "job.agent_query_rules", "Which agents may run the job, like queue=default.", value=derived.agent_query_rules, of="job.agent_query_rules", entries=("buildkite.agent.{key}",)),
    _F("buildkite.job.state", STRING, JOB, "job.state", "The state in which the job ended."),
    _F("buildkite.job.started", BOOL, JOB, "span.started", "False if the job ended without starting: it expired or was canceled while it waited."),
    _F("buildkite.job.passed", BOOL, JOB, "job.state, job.exit_status", "Whether the job succeeded.", value=derived.passed),
    _F("buildkite.job.soft_failed", BOOL, JOB, "job.soft_failed", "Whether the job failed and its step allows that (`soft_fail`)."),
    _F("buildkite.job.exit_status", INT, JOB, "job.exit_status", "The command's exit status; -1 if the agent was lost."),
    _F("buildkite.job.signal", STRING, JOB, "job.signal", "The signal that ended the command.", value=derived.signal),
    _F("buildkite.job.signal_reason", STRING, JOB, "job.signal_reason", "Why the signal was sent, like cancel or agent_stop."),
    _F("buildkite.job.broken_reason", STRING, JOB, "job.broken_reason", "Why the job could not run."),
    _F("buildkite.job.cancel_reason", STRING, JOB, "job.cancel_reason", "Why the job was canceled."),
    _F("buildkite.job.runnable_at", STRING, JOB, "job.runnable_at", "When the job began to wait for an agent, as sent by the API.", distinct=True),
    _F("buildkite.job.started_at", STRING, JOB, "job.started_at", "When an agent started the job, as sent by the API.", distinct=True),
    _F("buildkite.job.finished_at", STRING, JOB, "job.finished_at", "When the job ended, as sent by the API.", distinct=True),
    _F("buildkite.job.wait_time_ms", INT, JOB | WAIT, "span.wait_ms", "How long the job waited for an agent: job.started_at - job.runnable_at.", unit="ms"),
    _F("buildkite.job.concurrency_wait_time_ms", INT, JOB, "job.concurrency_wait_time_ms", "How long a concurrency limit kept the job waiting, if the payload has it.", unit="ms", value=derived.concurrency_wait_ms),
    _F("buildkite.job.priority.number", INT, JOB, "job.priority.number", "The job's priority; higher runs first."),
    _F("buildkite.job.parallel.index", INT, JOB, "job.parallel_group_index", "Index among the parallel jobs of the step, from 0."),
    _F("buildkite.job.parallel.total", INT, JOB, "job.parallel_group_total", "The number of parallel jobs of the step."),
    _F("buildkite.job.matrix", JSON, JOB, "job.matrix", "The job's matrix values."),
    _F("buildkite.job.retried", BOOL, JOB, "job.retried", "Whether the job was retried."),
    _F("buildkite.job.retried_in_job_id", STRING, JOB, "job.retried_in_job_id", "UUID of the job that retries this one.", holds=(JOB_ID,)),
    _F("buildkite.job.retries_count", INT, JOB, "job.retries_count", "The number of earlier attempts."),
    _F("buildkite.job.retry_type", STRING, JOB, "job.retry_type", "How the job was retried: automatic or manual."),
    _F("buildkite.job.retried_by", JSON, JOB, "job.retried_by", "The user who retried the job.", value=derived.retried_by),
    _F("buildkite.job.retry_source.job_id", STRING, JOB, "job.retry_source.job_id", "UUID of the job that this one retries.", holds=(JOB_ID,)),
    _F("buildkite.job.retry_source.retry_type", STRING, JOB, "job.retry_source.retry_type", "How that job was retried: automatic or manual."),
    _F("buildkite.job.unblocked_by", JSON, JOB, "job.unblocked_by", "The user who unblocked the block step: uuid, graphql_id and name.", value=derived.unblocked_by),
    _F("buildkite.job.async", BOOL, JOB, "job.async", "Whether the trigger job does not wait for the build that it triggers.", value=attrgetter("async_")),
    _F("buildkite.job.triggered_build.id", STRING, JOB, "job.triggered_build.id", "UUID of the build that the job triggered.", holds=(BUILD_ID,)),
    _F("buildkite.job.triggered_build.number", INT, JOB, "job.triggered_build.number", "Number of the build that the job triggered.", holds=(BUILD_NUMBER,)),
    _F("buildkite.job.triggered_build.web_url", STRING, JOB, "job.triggered_build.web_url", "Page of the build that the job triggered.", holds=(*BUILD_PAGE, "buildkite.job.triggered_build.number")),
    _F("buildkite.cluster.queue.id", STRING, JOB | WAIT, "job.cluster_queue_id", "UUID of the cluster queue that the job waited in."),
    _F("buildkite.agent.id", STRING, JOB, "job.agent.id", "UUID of the agent that ran the job."),
    _F("buildkite.agent.name", STRING, JOB, "job.agent.name", "The agent's name."),
    _F("buildkite.agent.hostname", STRING, JOB, "job.agent.hostname", "The agent's host."),
    _F("buildkite.agent.ip_address", STRING, JOB, "job.agent.ip_address", "The agent's IP address."),
    _F("buildkite.agent.version", STRING, JOB, "job.agent.version", "The agent's version."),
    _F("buildkite.agent.queue", STRING, JOB | WAIT, "job.agent.meta_data, job.agent_query_rules", "The agent's queue.", value=derived.agent_queue, holds=("buildkite.agent.meta_data", "buildkite.agent.meta_data.queue")),
    _F("buildkite.agent.meta_data", STRINGS, JOB, "job.agent.meta_data", "The agent's tags, as key=value.", value=derived.agent_tags, of="job.agent", entries=("buildkite.agent.meta_data.{key}", "buildkite.agent.{key}")),
    _F("buildkite.agent.meta_data.*", MAP, JOB, "job.agent.meta_data", "The agent's tags, one attribute per key.", value=derived.agent_tag_values, of="job.agent", holds=("buildkite.agent.meta_data",), entries=("buildkite.agent.{key}",)),
)

CONVENTION_FIELDS = (
    _F("cicd.pipeline.name", STRING, ALL, "build.pipeline.name, else build.pipeline.slug", "The pipeline's name.", value=derived.pipeline_name, of="build.pipeline", may_be=("buildkite.pipeline.name", PIPELINE)),
    _F("cicd.pipeline.run.id", STRING, ALL, "build.id", "The build's UUID.", holds=(BUILD_ID,)),
    _F("cicd.pipeline.run.url.full", STRING, ALL, "build.web_url", "The build's page.", holds=(*BUILD_PAGE, "buildkite.build.web_url")),
    _F("cicd.pipeline.result", STRING, BUILD, "build.state, build.jobs[].state", "success, failure, cancellation or skip; timeout or error if all hard failures that were not retried are.", value=derived.pipeline_result, holds=("buildkite.build.state",)),
    _F("cicd.pipeline.action.name", STRING, BUILD, "build", "BUILD, the only action that Buildkite's builds have.", value=derived.action_name),
    _F("cicd.pipeline.task.name", STRING, JOB, "job.label, else job.name, else job.step_key", "The job's label.", value=derived.task_name, holds=LABELS, may_be=("buildkite.step.key",)),
    _F("cicd.pipeline.task.type", STRING, JOB, "step.key, step.label", "build, test or deploy, if exactly one of these words (or a form like tests, building or deployment) is in job.step_key, else in job.step.label, job.label or job.name; absent on block steps.", value=derived.task_type, of="step", holds=("buildkite.step.key", *LABELS)),
    _F("cicd.pipeline.task.run.id", STRING, JOB, "job.id", "The job's UUID.", distinct=True, holds=(JOB_ID,)),
    _F("cicd.pipeline.task.run.url.full", STRING, JOB, "job.web_url", "URL of the job on the build's page.", distinct=True, holds=(*BUILD_PAGE, "buildkite.build.web_url", "buildkite.job.web_url", JOB_ID)),
    _F("cicd.pipeline.task.run.result", STRING, JOB, "job.state", "success, failure, timeout, cancellation, or error if the CI system failed: the agent was lost, the job expired, or (by job.signal_reason) the agent could not run it.", value=derived.task_result, holds=("buildkite.job.state",)),
    _F("cicd.worker.id", STRING, JOB, "job.agent.id", "UUID of the agent.", holds=("buildkite.agent.id",)),
    _F("cicd.worker.name", STRING, JOB, "job.agent.name", "The agent's name.", holds=("buildkite.agent.name",)),
    _F("cicd.worker.url.full", STRING, JOB, "job.agent.web_url", "The agent's page.", holds=(ORGANIZATION, "buildkite.agent.id")),
    _F("vcs.repository.url.full", STRING, ALL, "build.pipeline.repository", "The repository's address for a browser: HTTPS, without .git.", value=derived.repository_url, of="build.pipeline", holds=(REPOSITORY,)),
    _F("vcs.repository.name", STRING, ALL, "build.pipeline.repository", "The repository's name without its owner.", value=derived.repository_name, of="build.pipeline", holds=(REPOSITORY,)),
    _F("vcs.owner.name", STRING, ALL, "build.pipeline.repository", "The repository's owner.", value=derived.repository_owner, of="build.pipeline", holds=(REPOSITORY,)),
    _F("vcs.provider.name", STRING, ALL, "build.pipeline.provider.id", "github, gitlab, bitbucket or gitea.", value=derived.provider, of="build.pipeline"),
    _F("vcs.ref.type", STRING, ALL, "build.tag, build.branch", "tag or branch: the type of what was built.", value=derived.head_type),
    _F("vcs.ref.head.name", STRING, ALL, "build.tag, else build.branch", "The tag or branch that was built.", value=derived.head_name, may_be=("buildkite.build.tag", "buildkite.build.branch")),
    _F("vcs.ref.head.type", STRING, ALL, "build.tag, build.branch", "tag or branch.", value=derived.head_type),
    _F("vcs.ref.head.revision", STRING, ALL, "build.commit", "The commit that was built.", holds=("buildkite.build.commit",)),
    _F("vcs.ref.base.name", STRING, ALL, "build.pull_request.base, else build.merge_queue.base_branch", "The branch that the pull request or the merge queue is to be merged into.", value=derived.base_name, holds=("buildkite.build.pull_request.base", "buildkite.build.merge_queue", "buildkite.build.merge_queue.base_branch")),
    _F("vcs.ref.base.type", STRING, ALL, "build.pull_request.base, build.merge_queue.base_branch", "branch, if the pull request or the merge queue has a base branch.", value=derived.base_type),
    _F("vcs.ref.base.revision", STRING, ALL, "build.merge_queue.base_commit", "The commit that the merge queue merges into.", value=derived.base_revision, holds=("buildkite.build.merge_queue", "buildkite.build.merge_queue.base_commit")),
    _F("vcs.change.id", STRING, ALL, "build.pull_request.id", "The pull request's number.", value=derived.pull_request_id, of="build.pull_request", holds=("buildkite.build.pull_request.id",)),
    _F("vcs.change.title", STRING, ALL, "build.pull_request.title", "The pull request's title, if the payload has it."),
)

# Set by `critical_path.py`, from the times of all jobs of a stage.
PATH_FIELDS = (
    _F("bk_pipeline.critical_path.run_ms", INT, BUILD, "build.jobs[]", "The part of the build's length in which a job on the critical path ran.", unit="ms", value=attrgetter("run_ms"), of="trace.path"),
    _F("bk_pipeline.critical_path.wait_ms", INT, BUILD, "build.jobs[]", "The part of the build's length in which the critical path waited, mostly for agents: all time that is neither run nor blocked.", unit="ms", value=attrgetter("wait_ms"), of="trace.path"),
    _F("bk_pipeline.critical_path.blocked_ms", INT, BUILD, "build.jobs[]", "The part of the build's length in which the critical path waited for a person: at a block step, or for a manual retry.", unit="ms", value=attrgetter("blocked_ms"), of="trace.path"),
    _F("bk_pipeline.critical_path", BOOL, OF_BUILD - BUILD, "job.runnable_at, job.started_at, job.finished_at", "Whether the span is on the critical path: the chain of jobs and waits that made the build as long as it was.", value=attrgetter("critical"), of="span.path"),
    _F("bk_pipeline.critical_path_ms", INT, OF_BUILD - BUILD, "job.runnable_at, job.started_at, job.finished_at", "The span's own share of the critical path, waiting included; 0 off the path. Those of the jobs of a stage add up to its length.", unit="ms", value=attrgetter("ms"), of="span.path"),
    _F("bk_pipeline.slack_ms", INT, OF_BUILD - BUILD - WAIT, "job.runnable_at, job.started_at, job.finished_at", "How much later the span could have ended, at least, without the build ending later; absent on jobs that never became runnable.", unit="ms", value=attrgetter("slack_ms"), of="span.path"),
)

# Filled by `costs.py`, from the columns of the finished table.
COST_FIELDS = (
    _F("bk_pipeline.cost", FLOAT, BUILD | JOB, "job.started_at, job.finished_at", "What the job cost: the time from its start to its end, times the first price in BK_PIPELINE_COSTS that matches it. On a build the sum of all attempts of its jobs that have ended.", value=derived.filled_later, of="trace", unit="bk_pipeline.currency"),
    _F("bk_pipeline.currency", STRING, BUILD | JOB, "BK_PIPELINE_COSTS", "The currency of the costs, like USD.", value=derived.filled_later, of="trace"),
    _F("bk_pipeline.retries_cost", FLOAT, BUILD, "build.jobs[]", "The part of the build's cost that attempts cost that were retried.", value=derived.filled_later, of="trace", unit="bk_pipeline.currency"),
    _F("bk_pipeline.failures_cost", FLOAT, BUILD, "build.jobs[]", "The part of the build's cost that attempts cost that failed (not softly), retried or not.", value=derived.filled_later, of="trace", unit="bk_pipeline.currency"),
)

# Set by the modules of `sources/`, by these names. The source is a file: `log`, `junit` or `profile`.
DETAIL_FIELDS = (
    _D("buildkite.job.section.name", STRING, SECTION, "log", "The section's header in the job's log, without its prefix and colors; absent on what is before the first header."),
    _D("buildkite.job.section.index", INT, SECTION, "log", "The section's place in the log, from 0."),
    _D("buildkite.job.section.phase", STRING, SECTION, "log", "environment, checkout, plugins, command or artifacts: what the agent did; other if its headers do not tell."),
    _D("buildkite.job.section.bytes", INT, SECTION, "log", "Length of the section in the log.", unit="By"),
    _D("buildkite.job.section.lines", INT, SECTION, "log", "Lines of the section in the log."),
    _D("buildkite.job.section.command", STRING, COMMAND, "log", "A command that the log shows: a line that begins with `$` or, from `set -x`, with `+`."),
    _D("test.suite.name", STRING, SUITE | CASE, "junit", "The test suite's name."),
    _D("test.suite.run.status", STRING, SUITE, "junit", "success, failure or skipped."),
    _D("test.case.name", STRING, CASE, "junit", "The test case's name."),
    _D("test.case.result.status", STRING, CASE, "junit", "pass or fail; absent if the case was skipped."),
    _D("bk_pipeline.test.result", STRING, CASE, "junit", "passed, failed, error or skipped."),
    _D("bk_pipeline.test.failed_before", INT, CASE, "junit", "How often the case failed before its last result; absent if never."),
    _D("bk_pipeline.test.class", STRING, CASE, "junit", "The case's class name, as the file has it."),
    _D("bk_pipeline.test.file", STRING, CASE, "junit", "The source file of the case, if the file has it."),
    _D("bk_pipeline.test.cases", INT, SUITE, "junit", "The number of cases of the suite, with those of suites in it."),
    _D("bk_pipeline.test.failures", INT, SUITE, "junit", "The number of cases that failed."),
    _D("bk_pipeline.test.errors", INT, SUITE, "junit", "The number of cases that ended with an error."),
    _D("bk_pipeline.test.skipped", INT, SUITE, "junit", "The number of cases that were skipped."),
    _D("thread.name", STRING, THREAD, "profile", "The thread's name."),
    _D("thread.id", INT, THREAD, "profile", "The thread's id."),
    _D("process.pid", INT, THREAD, "profile", "The id of the thread's process."),
    _D("bk_pipeline.profile.name", STRING, EVENT, "profile", "The event's name."),
    _D("bk_pipeline.profile.category", STRING, EVENT, "profile", "The event's categories."),
    _D("bk_pipeline.profile.depth", INT, EVENT, "profile", "How many events of its thread contain the event."),
    _D("bk_pipeline.artifact.path", STRING, SUITE | THREAD, "junit, profile", "The path of the artifact that the span was read from."),
    _D("bk_pipeline.failure.kind", STRING, SECTION, "log", "Why the job failed, by the lines of its log: test, build, infrastructure, timeout or unknown."),
    _D("bk_pipeline.failure.message", STRING, SECTION | CASE, "log, junit", "The line of the log, or the message of the test, that says why it failed."),
    _D("bk_pipeline.failure.signature", STRING, SECTION | CASE, "log, junit", "16 hex digits that failures with the same message have in common, but for numbers, paths, ids, addresses and times."),
    _D("bk_pipeline.time_guessed", BOOL, INSIDE, "log, junit, profile", "True if the file did not have the span's times, or they did not fit into the job, else absent."),
)

SPAN_FIELDS = (
    _F("error.type", STRING, ALL, "span.error_type", "On spans with status error: failed, timed_out, expired or agent_lost."),
    _F("bk_pipeline.time_adjusted", BOOL, OF_BUILD, "span.adjusted", "True if the payload's times were missing or impossible and were clamped, else absent.", value=derived.adjusted),
)
# fmt: on

FIELDS: tuple[Field, ...] = (
    *RESOURCE_FIELDS,
    *BUILD_FIELDS,
    *STATE_FIELDS,
    *STEP_FIELDS,
    *JOB_FIELDS,
    *CONVENTION_FIELDS,
    *PATH_FIELDS,
    *COST_FIELDS,
    *DETAIL_FIELDS,
    *SPAN_FIELDS,
)

CONVENTIONS = frozenset(field.name for field in CONVENTION_FIELDS)
CRITICAL_PATH = frozenset(field.name for field in PATH_FIELDS)
COSTS = frozenset(field.name for field in COST_FIELDS)
DETAILS = frozenset(field.name for field in DETAIL_FIELDS)


def fields_left_out(options: SpanOptions) -> frozenset[str]:
    """Return the names of the fields that `options` turn off."""
    without: frozenset[str] = frozenset()
    if not options.conventions:
        without |= CONVENTIONS
    if not options.critical_path:
        without |= CRITICAL_PATH
    return without


@dataclass(frozen=True, slots=True)
class Unavailable:
    """An attribute of the notification service, the spans that have it there, and why ours do not."""

    name: str
    on: str
    reason: str


_U = Unavailable

# fmt: off
UNAVAILABLE = (
    _U("buildkite.step.id", "buildkite.step.group", "A job has only the key of its group; its step object describes its own step."),
    _U("buildkite.step.label", "buildkite.step.group", "A job has only the key of its group."),
    _U("buildkite.step.group.label", "buildkite.step, buildkite.step.group", "A job has only the key of its group."),
    _U("buildkite.step.matrix", "buildkite.step.group", "Jobs have it for their own step, not for their group."),
    _U("buildkite.step.web_url", "buildkite.step, buildkite.step.group", "The API has URLs of builds and jobs, but not of steps."),
    _U("buildkite.job.concurrency.group", "buildkite.job", "The API's jobs do not have it."),
    _U("buildkite.job.concurrency.limit", "buildkite.job", "The API's jobs do not have it."),
)
# fmt: on

"""The declared table: every attribute of every span, once.

The schema of the span table, the documentation and the encoders follow from these rows. To
add a field, add its row (and its key in `records.py`). `source` is where the value stands
in the API's answer, and so whose value it is: what begins with `build` is read once a
build, with `job.agent` once an agent. A row whose value has to be worked out names the
function that does it, and its source says from what.

Names and kinds are those of Buildkite's OpenTelemetry notification service where it has
the attribute (what it has and the REST API cannot fill: `unavailable.py`); `cicd.*` and
`vcs.*` are OpenTelemetry semantic conventions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any

from bk_pipeline.spans import derived
from bk_pipeline.spans.model import SpanKind


class FieldType(StrEnum):
    """What a value is. The last three stand in the table as compact JSON text."""

    STRING = "string"
    INT = "int"
    BOOL = "bool"
    STRINGS = "string list"
    JSON = "JSON"
    MAP = "map"  # one attribute a key: the `*` in the field's name


@dataclass(frozen=True, slots=True)
class Field:
    """One row: an attribute, where it comes from, and on which spans it stands.

    Attributes:
        value: The function that works the value out; None if it is just read.
        of: What `value` is given, where it is not what `source` begins with.
        distinct: Nearly every row has a value of its own.
        holds: Other attributes whose values this one shows, in whole or as a part of it. What
            the privacy settings take out of them they take out here.
        may_be: Other attributes that this one has the value of on some spans: the same there.
        entries: What else an entry of a list of `key=value`, or of a map, is called.
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
        """Whether all spans of a build that have the field share its value."""
        return self.source.startswith("build")

    @property
    def owner(self) -> str:
        """What has the value: the path of an object, `job.agent` for `job.agent.id`."""
        if self.value is None:
            return self.source.rpartition(".")[0]
        return self.of or self.source.partition(".")[0]

    @property
    def getter(self) -> Callable[[Any], Any]:
        """What reads the value of its owner."""
        return self.value or attrgetter(self.source.rpartition(".")[2])


STRING, INT, BOOL, STRINGS, JSON, MAP = FieldType
BUILD, STAGE, GROUP, STEP, JOB, WAIT = (frozenset({kind}) for kind in SpanKind)
ALL = frozenset(SpanKind)
_F = Field

# What addresses and ids show.
ORGANIZATION, PIPELINE = "buildkite.organization.slug", "buildkite.pipeline.slug"
BUILD_ID, BUILD_NUMBER, JOB_ID = "buildkite.build.id", "buildkite.build.number", "buildkite.job.id"
BUILD_PAGE = (ORGANIZATION, PIPELINE, "buildkite.pipeline.web_url", BUILD_NUMBER)
COMMANDS = ("buildkite.step.command", "buildkite.job.command")
LABELS = ("buildkite.step.label", "buildkite.job.label")
REPOSITORY = "buildkite.pipeline.repo"

# fmt: off
RESOURCE_FIELDS = (
    _F("buildkite.organization.slug", STRING, ALL, "build.url", "The organization, as in URLs.", value=derived.organization_slug, resource=True),
    _F("buildkite.pipeline.id", STRING, ALL, "build.pipeline.id", "The pipeline's UUID.", resource=True),
    _F("buildkite.pipeline.graphql_id", STRING, ALL, "build.pipeline.graphql_id", "The pipeline's id in the GraphQL API.", resource=True, holds=("buildkite.pipeline.id",)),
    _F("buildkite.pipeline.slug", STRING, ALL, "build.pipeline.slug", "The pipeline, as in URLs.", resource=True),
    _F("buildkite.pipeline.name", STRING, ALL, "build.pipeline.name", "The pipeline's name.", resource=True),
    _F("buildkite.pipeline.repo", STRING, ALL, "build.pipeline.repository", "The repository it builds.", resource=True),
    _F("buildkite.pipeline.web_url", STRING, ALL, "build.pipeline.web_url", "The pipeline's page.", resource=True, holds=(ORGANIZATION, PIPELINE)),
    _F("buildkite.cluster.id", STRING, ALL, "build.cluster_id, else build.pipeline.cluster_id, else job.cluster_id", "UUID of the cluster that the build ran in.", value=derived.cluster_id, resource=True),
)

BUILD_FIELDS = (
    _F("buildkite.build.id", STRING, ALL, "build.id", "The build's UUID."),
    _F("buildkite.build.graphql_id", STRING, ALL, "build.graphql_id", "The build's id in the GraphQL API.", holds=(BUILD_ID,)),
    _F("buildkite.build.number", INT, ALL, "build.number", "The build's number in its pipeline."),
    _F("buildkite.build.web_url", STRING, ALL, "build.web_url", "The build's page.", holds=BUILD_PAGE),
    _F("buildkite.build.message", STRING, ALL, "build.message", "The commit's or the person's message."),
    _F("buildkite.build.commit", STRING, ALL, "build.commit", "The commit that was built."),
    _F("buildkite.build.branch", STRING, ALL, "build.branch", "The branch that was built."),
    _F("buildkite.build.tag", STRING, ALL, "build.tag", "The tag that was built."),
    _F("buildkite.build.source", STRING, ALL, "build.source", "What made the build: webhook, api, ui, trigger_job or schedule."),
    _F("buildkite.build.creator.id", STRING, ALL, "build.creator.id", "UUID of whoever made the build."),
    _F("buildkite.build.creator.graphql_id", STRING, ALL, "build.creator.graphql_id", "Their id in the GraphQL API.", holds=("buildkite.build.creator.id",)),
    _F("buildkite.build.creator.name", STRING, ALL, "build.creator.name", "Their name."),
    _F("buildkite.build.creator.email", STRING, ALL, "build.creator.email", "Their address."),
    _F("buildkite.build.author.name", STRING, BUILD, "build.author.name", "The commit's author."),
    _F("buildkite.build.author.email", STRING, BUILD, "build.author.email", "The author's address."),
    _F("buildkite.build.cancel_reason", STRING, BUILD, "build.cancel_reason", "Why the build was canceled."),
    _F("buildkite.build.created_at", STRING, BUILD, "build.created_at", "When it was created, as sent."),
    _F("buildkite.build.scheduled_at", STRING, BUILD, "build.scheduled_at", "When it was scheduled, as sent."),
    _F("buildkite.build.started_at", STRING, BUILD, "build.started_at", "When it last started, as sent: moves when a job is retried."),
    _F("buildkite.build.failing_at", STRING, BUILD, "build.failing_at", "When it was first known to fail, as sent."),
    _F("buildkite.build.finished_at", STRING, BUILD, "build.finished_at", "When it finished, as sent."),
    _F("buildkite.build.blocked", BOOL, BUILD, "build.blocked", "Whether it waits at a block step."),
    _F("buildkite.build.jobs.*", MAP, BUILD, "build.jobs[].state", "How many jobs are in each state.", value=derived.job_counts),
    _F("buildkite.build.queue_ms", INT, BUILD, "build.jobs[].started_at", "From the build's creation to its first job's start.", unit="ms", value=attrgetter("queue_ms"), of="trace"),
    _F("buildkite.build.run_ms", INT, BUILD, "build.jobs[]", "How long it was active: its stages together, without pauses.", unit="ms", value=attrgetter("run_ms"), of="trace"),
    _F("buildkite.build.meta_data.*", MAP, BUILD, "build.meta_data", "The build's meta-data, one attribute a key.", value=derived.build_meta_data),
    _F("buildkite.build.pull_request.id", STRING, ALL, "build.pull_request.id", "The pull request's number.", value=derived.pull_request_id, of="build.pull_request"),
    _F("buildkite.build.pull_request.base", STRING, BUILD, "build.pull_request.base", "The branch it is to be merged into."),
    _F("buildkite.build.pull_request.repository", STRING, BUILD, "build.pull_request.repository", "The repository it comes from."),
    _F("buildkite.build.merge_queue.*", MAP, BUILD, "build.merge_queue", "The merge queue that asked for it, one attribute a key.", value=derived.merge_queue),
    _F("buildkite.build.rebuilt_from.id", STRING, BUILD, "build.rebuilt_from.id", "UUID of the build that this repeats.", holds=(BUILD_ID,)),
    _F("buildkite.build.rebuilt_from.number", INT, BUILD, "build.rebuilt_from.number", "Number of the build that this repeats.", holds=(BUILD_NUMBER,)),
    _F("buildkite.build.rebuilt_from.url", STRING, BUILD, "build.rebuilt_from.url", "Its address in the REST API.", holds=(*BUILD_PAGE, "buildkite.build.rebuilt_from.number")),
    _F("buildkite.build.triggered_from.build_id", STRING, BUILD, "build.triggered_from.build_id", "UUID of the build that triggered this.", holds=(BUILD_ID,)),
    _F("buildkite.build.triggered_from.build_number", INT, BUILD, "build.triggered_from.build_number", "Its number.", holds=(BUILD_NUMBER,)),
    _F("buildkite.build.triggered_from.build_pipeline_slug", STRING, BUILD, "build.triggered_from.build_pipeline_slug", "Its pipeline.", holds=(PIPELINE,)),
)

# On the root the build's own; on a stage, what the build had come to as the stage ended.
STATE_FIELDS = (
    _F("buildkite.build.state", STRING, BUILD | STAGE, "span.state", "build.state; of stages before the last, what the jobs had come to by then."),
    _F("buildkite.build.blocked_state", STRING, BUILD | STAGE, "span.blocked_state", "build.blocked_state: the state in which it waits at a block step."),
)

STEP_FIELDS = (
    _F("buildkite.build.stage", INT, ALL - BUILD, "stage.number", "Which of the build's periods between pauses, from 1."),
    _F("buildkite.step.id", STRING, STEP | JOB | WAIT, "step.id", "job.step.id: the step's UUID."),
    _F("buildkite.step.key", STRING, GROUP | STEP | JOB | WAIT, "step.key", "job.step_key, else job.step.key: the step's key; a group's is job.group_key.", may_be=("buildkite.step.group.key",)),
    _F("buildkite.step.label", STRING, STEP | JOB | WAIT, "step.label", "job.step.label, else job.label or job.name; if the step's jobs differ in that, its key.", holds=LABELS, may_be=("buildkite.step.key",)),
    _F("buildkite.step.type", STRING, GROUP | STEP, "step.type", "By job.type: command, trigger, block (an input step is not told apart); or group."),
    _F("buildkite.step.command", STRING, STEP | JOB, "step.command", "job.command: what the step runs.", holds=COMMANDS),
    _F("buildkite.step.matrix", BOOL, STEP, "step.matrix", "True, and else absent, where job.matrix says that it is a matrix step."),
    _F("buildkite.step.group.key", STRING, GROUP | STEP, "job.group_key", "The group step's key.", value=attrgetter("key"), of="step.group", holds=("buildkite.step.key",)),
)

JOB_FIELDS = (
    _F("buildkite.job.id", STRING, JOB | WAIT, "job.id", "The job's UUID.", distinct=True),
    _F("buildkite.job.graphql_id", STRING, JOB, "job.graphql_id", "The job's id in the GraphQL API.", distinct=True, holds=(JOB_ID,)),
    _F("buildkite.job.web_url", STRING, JOB, "job.web_url", "The job's place on the build's page.", distinct=True, holds=(*BUILD_PAGE, "buildkite.build.web_url", JOB_ID)),
    _F("buildkite.job.type", STRING, JOB, "job.type", "script, trigger or manual."),
    _F("buildkite.job.label", STRING, JOB, "job.label, else job.name", "The job's label, with its matrix values filled in.", value=derived.job_label, holds=LABELS),
    _F("buildkite.job.command", STRING, JOB, "job.command", "What the job runs.", holds=COMMANDS),
    _F("buildkite.job.agent_query_rules", STRINGS, JOB | WAIT, "job.agent_query_rules", "Which agents may run it, like queue=default.", value=derived.agent_query_rules, of="job.agent_query_rules", entries=("buildkite.agent.{key}",)),
    _F("buildkite.job.state", STRING, JOB, "job.state", "How the job ended."),
    _F("buildkite.job.started", BOOL, JOB, "span.started", "False if it ended without ever starting: expired or canceled while it waited."),
    _F("buildkite.job.passed", BOOL, JOB, "job.state, job.exit_status", "Whether it succeeded.", value=derived.passed),
    _F("buildkite.job.soft_failed", BOOL, JOB, "job.soft_failed", "Whether it failed and was forgiven."),
    _F("buildkite.job.exit_status", INT, JOB, "job.exit_status", "The command's exit status; -1 if the agent was lost."),
    _F("buildkite.job.signal", STRING, JOB, "job.signal", "The signal that ended the command.", value=derived.signal),
    _F("buildkite.job.signal_reason", STRING, JOB, "job.signal_reason", "Why it was signalled, like cancel or agent_stop."),
    _F("buildkite.job.broken_reason", STRING, JOB, "job.broken_reason", "Why it could not run."),
    _F("buildkite.job.cancel_reason", STRING, JOB, "job.cancel_reason", "Why it was canceled."),
    _F("buildkite.job.runnable_at", STRING, JOB, "job.runnable_at", "When it began to wait for an agent, as sent.", distinct=True),
    _F("buildkite.job.started_at", STRING, JOB, "job.started_at", "When an agent started it, as sent.", distinct=True),
    _F("buildkite.job.finished_at", STRING, JOB, "job.finished_at", "When it ended, as sent.", distinct=True),
    _F("buildkite.job.wait_time_ms", INT, JOB | WAIT, "span.wait_ms", "How long it waited for an agent: job.started_at - job.runnable_at.", unit="ms"),
    _F("buildkite.job.priority.number", INT, JOB, "job.priority.number", "Its priority; higher goes first."),
    _F("buildkite.job.parallel.index", INT, JOB, "job.parallel_group_index", "Which of its parallel jobs, from 0."),
    _F("buildkite.job.parallel.total", INT, JOB, "job.parallel_group_total", "How many parallel jobs its step has."),
    _F("buildkite.job.matrix", JSON, JOB, "job.matrix", "Its matrix values."),
    _F("buildkite.job.retried", BOOL, JOB, "job.retried", "Whether a later attempt replaced it."),
    _F("buildkite.job.retried_in_job_id", STRING, JOB, "job.retried_in_job_id", "UUID of the attempt that replaced it.", holds=(JOB_ID,)),
    _F("buildkite.job.retries_count", INT, JOB, "job.retries_count", "How many attempts came before it."),
    _F("buildkite.job.retry_type", STRING, JOB, "job.retry_type", "How it was replaced: automatic or manual."),
    _F("buildkite.job.retried_by", JSON, JOB, "job.retried_by", "Who retried it.", value=derived.retried_by),
    _F("buildkite.job.retry_source.job_id", STRING, JOB, "job.retry_source.job_id", "UUID of the attempt that it replaces.", holds=(JOB_ID,)),
    _F("buildkite.job.retry_source.retry_type", STRING, JOB, "job.retry_source.retry_type", "How that one was retried: automatic or manual."),
    _F("buildkite.job.unblocked_by", JSON, JOB, "job.unblocked_by", "Who unblocked a block step.", value=derived.unblocked_by),
    _F("buildkite.job.async", BOOL, JOB, "job.async", "Whether a trigger job does not wait for the build that it triggers.", value=attrgetter("async_")),
    _F("buildkite.job.triggered_build.id", STRING, JOB, "job.triggered_build.id", "UUID of the build that it triggered.", holds=(BUILD_ID,)),
    _F("buildkite.job.triggered_build.number", INT, JOB, "job.triggered_build.number", "Its number.", holds=(BUILD_NUMBER,)),
    _F("buildkite.job.triggered_build.web_url", STRING, JOB, "job.triggered_build.web_url", "Its page.", holds=(*BUILD_PAGE, "buildkite.job.triggered_build.number")),
    _F("buildkite.cluster.queue.id", STRING, JOB | WAIT, "job.cluster_queue_id", "UUID of the cluster queue that it waited in."),
    _F("buildkite.agent.id", STRING, JOB, "job.agent.id", "UUID of the agent that ran it."),
    _F("buildkite.agent.name", STRING, JOB, "job.agent.name", "The agent's name."),
    _F("buildkite.agent.hostname", STRING, JOB, "job.agent.hostname", "The agent's host."),
    _F("buildkite.agent.version", STRING, JOB, "job.agent.version", "The agent's version."),
    _F("buildkite.agent.queue", STRING, JOB | WAIT, "job.agent.meta_data, job.agent_query_rules", "The queue that the agent served.", value=derived.agent_queue, holds=("buildkite.agent.meta_data", "buildkite.agent.meta_data.queue")),
    _F("buildkite.agent.meta_data", STRINGS, JOB, "job.agent.meta_data", "The agent's tags, as key=value.", value=derived.agent_tags, of="job.agent", entries=("buildkite.agent.meta_data.{key}", "buildkite.agent.{key}")),
    _F("buildkite.agent.meta_data.*", MAP, JOB, "job.agent.meta_data", "The agent's tags, one attribute a key.", value=derived.agent_tag_values, of="job.agent", holds=("buildkite.agent.meta_data",), entries=("buildkite.agent.{key}",)),
)

CONVENTION_FIELDS = (
    _F("cicd.pipeline.name", STRING, ALL, "build.pipeline.name, else build.pipeline.slug", "The pipeline's name.", value=derived.pipeline_name, of="build.pipeline", may_be=("buildkite.pipeline.name", PIPELINE)),
    _F("cicd.pipeline.run.id", STRING, ALL, "build.id", "The build's UUID.", holds=(BUILD_ID,)),
    _F("cicd.pipeline.run.url.full", STRING, ALL, "build.web_url", "The build's page.", holds=(*BUILD_PAGE, "buildkite.build.web_url")),
    _F("cicd.pipeline.result", STRING, BUILD, "build.state", "success, failure, cancellation or skip.", value=derived.pipeline_result, holds=("buildkite.build.state",)),
    _F("cicd.pipeline.task.name", STRING, JOB, "job.label, else job.name, else job.step_key", "The job's label.", value=derived.task_name, holds=LABELS, may_be=("buildkite.step.key",)),
    _F("cicd.pipeline.task.run.id", STRING, JOB, "job.id", "The job's UUID.", distinct=True, holds=(JOB_ID,)),
    _F("cicd.pipeline.task.run.url.full", STRING, JOB, "job.web_url", "The job's place on the build's page.", distinct=True, holds=(*BUILD_PAGE, "buildkite.build.web_url", "buildkite.job.web_url", JOB_ID)),
    _F("cicd.pipeline.task.run.result", STRING, JOB, "job.state", "success, failure, timeout, cancellation, or error: the agent was lost.", value=derived.task_result, holds=("buildkite.job.state",)),
    _F("cicd.worker.id", STRING, JOB, "job.agent.id", "UUID of the agent.", holds=("buildkite.agent.id",)),
    _F("cicd.worker.name", STRING, JOB, "job.agent.name", "The agent's name.", holds=("buildkite.agent.name",)),
    _F("cicd.worker.url.full", STRING, JOB, "job.agent.web_url", "The agent's page.", holds=(ORGANIZATION, "buildkite.agent.id")),
    _F("vcs.repository.url.full", STRING, ALL, "build.pipeline.repository", "The repository's address for a browser: HTTPS, without .git.", value=derived.repository_url, of="build.pipeline", holds=(REPOSITORY,)),
    _F("vcs.repository.name", STRING, ALL, "build.pipeline.repository", "The repository's name without its owner.", value=derived.repository_name, of="build.pipeline", holds=(REPOSITORY,)),
    _F("vcs.owner.name", STRING, ALL, "build.pipeline.repository", "The repository's owner.", value=derived.repository_owner, of="build.pipeline", holds=(REPOSITORY,)),
    _F("vcs.provider.name", STRING, ALL, "build.pipeline.provider.id", "github, gitlab, bitbucket or gitea.", value=derived.provider, of="build.pipeline"),
    _F("vcs.ref.head.name", STRING, ALL, "build.tag, else build.branch", "The tag or branch that was built.", value=derived.head_name, may_be=("buildkite.build.tag", "buildkite.build.branch")),
    _F("vcs.ref.head.type", STRING, ALL, "build.tag, build.branch", "tag or branch.", value=derived.head_type),
    _F("vcs.ref.head.revision", STRING, ALL, "build.commit", "The commit that was built.", holds=("buildkite.build.commit",)),
    _F("vcs.ref.base.name", STRING, ALL, "build.pull_request.base", "The branch that the pull request is to be merged into.", holds=("buildkite.build.pull_request.base",)),
    _F("vcs.ref.base.type", STRING, ALL, "build.pull_request.base", "branch, where there is one.", value=derived.base_type, of="build.pull_request"),
    _F("vcs.change.id", STRING, ALL, "build.pull_request.id", "The pull request's number.", value=derived.pull_request_id, of="build.pull_request", holds=("buildkite.build.pull_request.id",)),
)

SPAN_FIELDS = (
    _F("error.type", STRING, ALL, "span.error_type", "On spans with an error status: failed, timed_out, expired or agent_lost."),
    _F("bk_pipeline.time_adjusted", BOOL, ALL, "span.adjusted", "True, and else absent, where the payload's times were missing or impossible and were clamped.", value=derived.adjusted),
)
# fmt: on

FIELDS: tuple[Field, ...] = (
    *RESOURCE_FIELDS,
    *BUILD_FIELDS,
    *STATE_FIELDS,
    *STEP_FIELDS,
    *JOB_FIELDS,
    *CONVENTION_FIELDS,
    *SPAN_FIELDS,
)

# What a setting leaves out.
CONVENTIONS = frozenset(field.name for field in CONVENTION_FIELDS)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """One attribute of the service's, the spans it stands on there, and why not on ours."""

    name: str
    on: str
    reason: str


_U = Unavailable

# fmt: off
UNAVAILABLE = (
    _U("buildkite.organization.name", "resource", "A build names its organization by slug alone, in its URLs."),
    _U("buildkite.organization.id", "resource", "A build names its organization by slug alone, in its URLs."),
    _U("buildkite.cluster.name", "resource", "A build names its cluster by UUID alone."),
    _U("buildkite.cluster.graphql_id", "resource", "A build names its cluster by UUID alone."),
    _U("buildkite.step.id", "buildkite.step.group", "A job names its group by key alone; its step object is its own step's."),
    _U("buildkite.step.label", "buildkite.step.group", "A job names its group by key alone."),
    _U("buildkite.step.group.label", "buildkite.step, buildkite.step.group", "A job names its group by key alone."),
    _U("buildkite.step.matrix", "buildkite.step.group", "Jobs say it of their own step, not of the group around it."),
    _U("buildkite.step.web_url", "buildkite.step, buildkite.step.group", "The API gives builds and jobs addresses, but not steps."),
    _U("buildkite.job.concurrency.group", "buildkite.job", "Not among a job's fields."),
    _U("buildkite.job.concurrency.limit", "buildkite.job", "Not among a job's fields."),
    _U("buildkite.job.concurrency_wait_time_ms", "buildkite.job", "Jobs do not say when they began or ceased to be limited."),
)
# fmt: on

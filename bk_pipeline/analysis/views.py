"""Declares the views that `bk-pipeline sql` queries; `docs/sql.md` follows from it.

`spans` has every column of the span table under its own name, which has dots and so needs double
quotes. `builds`, `steps`, `jobs`, and for what is inside of jobs `sections` and `tests`, have the
columns that people ask for, under short names.
"""

from __future__ import annotations

from dataclasses import dataclass

from bk_pipeline.spans.fields import FIELDS, IDENTITY
from bk_pipeline.spans.model import SpanKind

# SQL names of the types.
TEXT, INT, REAL, BOOL, TIME, DATE = "VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "TIMESTAMPTZ", "DATE"


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column of a view: its type, its expression over the view `spans`, and its meaning."""

    name: str
    type: str
    expression: str
    meaning: str


@dataclass(frozen=True, slots=True)
class View:
    """A view with one row per span of a kind, and the columns in their order."""

    name: str
    kind: SpanKind
    meaning: str
    columns: tuple[ViewColumn, ...]

    @property
    def statement(self) -> str:
        """The statement that creates the view."""
        columns = ", ".join(f'{one.expression} AS "{one.name}"' for one in self.columns)
        rows = f"spans WHERE name = '{self.kind}'"
        return f"CREATE VIEW {self.name} AS SELECT {columns} FROM {rows}"  # noqa: S608  # our names


MEANINGS = {field.name: field.meaning for field in FIELDS}


def _text(name: str, field: str, meaning: str = "") -> ViewColumn:
    return ViewColumn(name, TEXT, f'"{field}"', meaning or MEANINGS[field])


def _int(name: str, field: str, meaning: str = "") -> ViewColumn:
    return ViewColumn(name, INT, f'"{field}"', meaning or MEANINGS[field])


def _flag(name: str, field: str, meaning: str = "") -> ViewColumn:
    return ViewColumn(name, BOOL, f'coalesce("{field}", false)', meaning or MEANINGS[field])


def _time(name: str, field: str, meaning: str) -> ViewColumn:
    return ViewColumn(name, TIME, f'try_cast("{field}" AS TIMESTAMPTZ)', meaning)


def _seconds(name: str, field: str, meaning: str) -> ViewColumn:
    return ViewColumn(name, REAL, f'"{field}" / 1e3', meaning)


def _real(name: str, field: str, meaning: str = "") -> ViewColumn:
    return ViewColumn(name, REAL, f'"{field}"', meaning or MEANINGS[field])


LENGTH = "(end_ns - start_ns) / 1e9"
# Jobs that no agent accepted have only the rules that agents must meet, as a JSON list.
QUEUE = (
    'coalesce("buildkite.agent.queue", nullif(regexp_extract('
    '"buildkite.job.agent_query_rules", \'"queue=([^"]*)"\', 1), \'\'))'
)
DAY = ViewColumn("day", DATE, "day", "The daily partition: the day of the build's creation.")
IDS = (
    _text("organization", "buildkite.organization.slug"),
    _text("pipeline", "buildkite.pipeline.slug"),
)
BUILD = (
    _text("build_id", "buildkite.build.id"),
    _int("build_number", "buildkite.build.number"),
    _text("branch", "buildkite.build.branch"),
    _text("commit", "buildkite.build.commit"),
)
SPAN = (
    ViewColumn("status", TEXT, "status", IDENTITY["status"][1]),
    _text("error_type", "error.type"),
)
STEP_NAME = ViewColumn(
    "step",
    TEXT,
    "coalesce(nullif(\"buildkite.step.key\", ''), nullif(\"buildkite.step.label\", ''), "
    "\"buildkite.step.command\", '')",
    "The step's key, or its label if it has no key, or its command.",
)
STEP = (
    STEP_NAME,
    _text("step_key", "buildkite.step.key", "The step's key."),
    _text("step_label", "buildkite.step.label", "The step's label."),
    _int("stage", "buildkite.build.stage"),
)
PATH = (
    ViewColumn(
        "on_critical_path",
        BOOL,
        '"bk_pipeline.critical_path"',
        "Whether it is on the chain of jobs and waits that made the build as long as it was.",
    ),
    _seconds(
        "critical_path_s",
        "bk_pipeline.critical_path_ms",
        "The own share of the critical path, waiting included; 0 off the path.",
    ),
    _seconds(
        "slack_s",
        "bk_pipeline.slack_ms",
        "How much later it could have ended, at least, without the build ending later.",
    ),
)
CURRENCY = _text("currency", "bk_pipeline.currency")
NANOSECONDS = (
    ViewColumn("trace_id", TEXT, "trace_id", IDENTITY["trace_id"][1]),
    ViewColumn("span_id", TEXT, "span_id", IDENTITY["span_id"][1]),
    ViewColumn("start_ns", INT, "start_ns", "Start of the span, in Unix nanoseconds."),
    ViewColumn("end_ns", INT, "end_ns", "End of the span, in Unix nanoseconds."),
)

BUILDS = View(
    "builds",
    SpanKind.BUILD,
    "One row per build that has finished.",
    (
        DAY,
        *IDS,
        _int("number", "buildkite.build.number"),
        _text("state", "buildkite.build.state", "passed, failed, canceled and so on."),
        _flag("blocked", "buildkite.build.blocked"),
        *SPAN,
        _text("branch", "buildkite.build.branch"),
        _text("commit", "buildkite.build.commit"),
        _text("tag", "buildkite.build.tag"),
        _text("source", "buildkite.build.source"),
        _text("message", "buildkite.build.message"),
        _text("creator", "buildkite.build.creator.name"),
        _text("author", "buildkite.build.author.name"),
        _text("pull_request", "buildkite.build.pull_request.id"),
        _text("cluster", "buildkite.cluster.name", "The cluster's name, if it is known."),
        _text("repository", "buildkite.pipeline.repo"),
        _time("created_at", "buildkite.build.created_at", "When the build was created."),
        _time(
            "started_at",
            "buildkite.build.started_at",
            "When the build last started; it changes when a job is retried.",
        ),
        _time("finished_at", "buildkite.build.finished_at", "When the build finished."),
        ViewColumn(
            "duration_s", REAL, LENGTH, "From creation to end, with the pauses at block steps."
        ),
        _seconds("run_s", "buildkite.build.run_ms", "The same without pauses."),
        _seconds(
            "queue_s",
            "buildkite.build.queue_ms",
            "From the build's creation to the start of its first job.",
        ),
        _seconds(
            "critical_run_s",
            "bk_pipeline.critical_path.run_ms",
            "The part of `duration_s` in which a job on the critical path ran.",
        ),
        _seconds(
            "critical_wait_s",
            "bk_pipeline.critical_path.wait_ms",
            "The part of `duration_s` in which the critical path waited, mostly for agents.",
        ),
        _seconds(
            "critical_blocked_s",
            "bk_pipeline.critical_path.blocked_ms",
            "The part of `duration_s` in which the critical path waited for a person.",
        ),
        _real(
            "cost", "bk_pipeline.cost", "What all attempts of its jobs cost; null without prices."
        ),
        _real("retries_cost", "bk_pipeline.retries_cost"),
        _real("failures_cost", "bk_pipeline.failures_cost"),
        CURRENCY,
        _text("job_counts", "buildkite.build.jobs.*", "Number of jobs by state, as JSON."),
        _text("meta_data", "buildkite.build.meta_data.*", "The build's meta-data, as JSON."),
        _text("url", "buildkite.build.web_url"),
        _text("build_id", "buildkite.build.id"),
        *NANOSECONDS,
    ),
)

JOBS = View(
    "jobs",
    SpanKind.JOB,
    "One row per job that has ended; each attempt of a retried job is a row.",
    (
        DAY,
        *IDS,
        *BUILD,
        *STEP,
        _text("label", "buildkite.job.label"),
        _text("type", "buildkite.job.type"),
        _text("state", "buildkite.job.state"),
        *SPAN,
        _flag("started", "buildkite.job.started"),
        _flag("passed", "buildkite.job.passed"),
        _flag("soft_failed", "buildkite.job.soft_failed"),
        _int("exit_status", "buildkite.job.exit_status"),
        _text("signal_reason", "buildkite.job.signal_reason"),
        ViewColumn("queue", TEXT, QUEUE, "The agent's queue; without an agent, the one asked for."),
        _text("agent", "buildkite.agent.name"),
        _text("agent_hostname", "buildkite.agent.hostname"),
        _text("cluster", "buildkite.cluster.name", "The cluster's name, if it is known."),
        _text("cluster_id", "buildkite.cluster.id", "The cluster's UUID."),
        _int("priority", "buildkite.job.priority.number"),
        _int("parallel_index", "buildkite.job.parallel.index"),
        _text("matrix", "buildkite.job.matrix", "The job's matrix values, as JSON."),
        _flag("retried", "buildkite.job.retried"),
        _int("retries_count", "buildkite.job.retries_count"),
        _text("retry_type", "buildkite.job.retry_type"),
        _text("retried_in_job_id", "buildkite.job.retried_in_job_id"),
        _text("retries_job_id", "buildkite.job.retry_source.job_id"),
        _text("triggered_build_id", "buildkite.job.triggered_build.id"),
        _time(
            "runnable_at", "buildkite.job.runnable_at", "When the job began to wait for an agent."
        ),
        _time("started_at", "buildkite.job.started_at", "When an agent started the job."),
        _time("finished_at", "buildkite.job.finished_at", "When the job ended."),
        ViewColumn(
            "duration_s",
            REAL,
            f'CASE WHEN "buildkite.job.started" THEN {LENGTH} END',
            "How long it ran; null if it never started.",
        ),
        _seconds("queue_s", "buildkite.job.wait_time_ms", "How long it waited for an agent."),
        _seconds(
            "concurrency_wait_s",
            "buildkite.job.concurrency_wait_time_ms",
            "How long a concurrency limit kept it waiting, if the API told.",
        ),
        *PATH,
        _real("cost", "bk_pipeline.cost", "What the job cost; null without a price."),
        CURRENCY,
        _text("command", "buildkite.job.command"),
        _text("url", "buildkite.job.web_url"),
        _text("job_id", "buildkite.job.id"),
        *NANOSECONDS,
    ),
)

STEPS = View(
    "steps",
    SpanKind.STEP,
    "One row per step of a build, and per stage in which it ran.",
    (
        DAY,
        *IDS,
        *BUILD,
        *STEP,
        _text("type", "buildkite.step.type"),
        _text("group_key", "buildkite.step.group.key"),
        *SPAN,
        ViewColumn("started_at", TIME, '"start"', "When its first job could run, or started."),
        ViewColumn("finished_at", TIME, '"end"', "When its last job ended."),
        ViewColumn(
            "duration_s", REAL, LENGTH, "From `started_at` to `finished_at`, waits included."
        ),
        *PATH,
        _text("command", "buildkite.step.command"),
        *NANOSECONDS,
    ),
)

# What a span inside of a job has of its job.
JOB = (
    ViewColumn(
        "step",
        TEXT,
        "coalesce(nullif(\"buildkite.step.key\", ''), nullif(\"buildkite.step.label\", ''), "
        "\"buildkite.job.label\", '')",
        "The step's key, or its label if it has no key.",
    ),
    _text("label", "buildkite.job.label"),
)
INSIDE = (
    ViewColumn("started_at", TIME, '"start"', "When it started."),
    ViewColumn("duration_s", REAL, LENGTH, "How long it took."),
    _flag(
        "time_guessed",
        "bk_pipeline.time_guessed",
        "Whether its times were not in the data, or did not fit into the job.",
    ),
)
OF_JOB = (
    _text("url", "buildkite.job.web_url", "The job's page."),
    _text("job_id", "buildkite.job.id", "The UUID of the job, as in `jobs`."),
    *NANOSECONDS,
)

SECTIONS = View(
    "sections",
    SpanKind.SECTION,
    "One row per section of a job's log, where job details are read.",
    (
        DAY,
        *IDS,
        *BUILD,
        *JOB,
        _text("name", "buildkite.job.section.name"),
        _int("index", "buildkite.job.section.index"),
        _text("phase", "buildkite.job.section.phase"),
        ViewColumn("status", TEXT, "status", "`error` if the job failed in it, else `unset`."),
        _text("failure_kind", "bk_pipeline.failure.kind"),
        _text("failure_message", "bk_pipeline.failure.message"),
        _text("failure_signature", "bk_pipeline.failure.signature"),
        *INSIDE,
        _int("bytes", "buildkite.job.section.bytes"),
        _int("lines", "buildkite.job.section.lines"),
        *OF_JOB,
    ),
)

TESTS = View(
    "tests",
    SpanKind.CASE,
    "One row per test that the job details have: those that failed or were slow, or all, as the "
    "policy says.",
    (
        DAY,
        *IDS,
        *BUILD,
        *JOB,
        _text("suite", "test.suite.name"),
        _text("class", "bk_pipeline.test.class"),
        _text("name", "test.case.name"),
        _text("file", "bk_pipeline.test.file"),
        _text("result", "bk_pipeline.test.result"),
        _text("failure_message", "bk_pipeline.failure.message"),
        _text("failure_signature", "bk_pipeline.failure.signature"),
        *INSIDE,
        *OF_JOB,
    ),
)

VIEWS = (BUILDS, JOBS, STEPS, SECTIONS, TESTS)

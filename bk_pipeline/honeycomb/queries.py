"""What `bk-pipeline honeycomb` sets up: the board's panels, calculated fields, triggers and the SLO.

To add a query, add a row; columns and calculated fields are created before the queries that need
them, and a query whose columns are not sent is left out. docs/honeycomb.md is made of these tables.

Texts of calculations are `OP` or `OP column`, filters `column`, operator and value. Times are in
seconds. Sources: Honeycomb's API description and its reference of calculated field formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bk_pipeline.spans.model import SpanKind

DAY_S, WEEK_S = 86_400, 604_800
BUILD, JOB, SECTION = SpanKind.BUILD.value, SpanKind.JOB.value, SpanKind.SECTION.value

Filter = tuple[str, str] | tuple[str, str, Any]


@dataclass(frozen=True, slots=True)
class Calculated:
    """A calculated field of the dataset. `$column` in the formula stands for a column's value."""

    alias: str
    formula: str
    description: str


@dataclass(frozen=True, slots=True)
class Query:
    """A query on the spans of one kind.

    Attributes:
        name: Its name on the board.
        description: What it shows, and what to do with that.
        of: The kind of spans.
        calculations: What is calculated, the first one descending in tables.
        by: The columns to group by.
        where: Further filters.
        having: A calculation, operator and value that groups must meet.
        style: `graph`, `table`, or `combo` for both.
        chart: The type of the graph of the first calculation.
        limit: Most groups.
        range_s: The period before now, for a query by itself; a board has its own.
        ordered: Whether it may be ordered; by a concurrency Honeycomb cannot.
    """

    name: str
    description: str
    of: str
    calculations: tuple[str, ...]
    by: tuple[str, ...] = ()
    where: tuple[Filter, ...] = ()
    having: tuple[str, str, float] | None = None
    style: str = "combo"
    chart: str = "default"
    limit: int = 50
    range_s: int = WEEK_S
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Text:
    """A text panel in Markdown. Its first line, a heading, identifies it."""

    content: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """An alert on a query with one calculation."""

    name: str
    description: str
    query: Query
    op: str
    value: float
    every_s: int


@dataclass(frozen=True, slots=True)
class Slo:
    """A service level objective: the share of events whose calculated field `sli` is true."""

    name: str
    description: str
    sli: Calculated
    target_per_million: int
    days: int


PIPELINE, BRANCH, STATE = (
    "buildkite.pipeline.slug",
    "buildkite.build.branch",
    "buildkite.build.state",
)
STEP, QUEUE, WAIT = (
    "buildkite.step.label",
    "buildkite.agent.queue",
    "buildkite.job.wait_time_ms",
)
RUN = "buildkite.build.run_ms"
COMMAND: Filter = ("buildkite.job.type", "=", "script")
FAILED: Filter = ("error", "=", True)

BUILD_FAILED = Calculated(
    "bk_pipeline.build_failed",
    'IF(EQUALS($name, "buildkite.build"), IF(EQUALS($buildkite.build.state, "failed"), 1, 0))',
    "1 on a build that failed, 0 on others: its average is the failure rate.",
)
JOB_FAILED = Calculated(
    "bk_pipeline.job_failed",
    'IF(EQUALS($name, "buildkite.job"), IF(EQUALS($error, true), 1, 0))',
    "1 on an attempt of a job that failed, 0 on others: its average is the failure rate.",
)
PASSED_ON_RETRY = Calculated(
    "bk_pipeline.passed_on_retry",
    "IF(EXISTS($buildkite.job.passed), "
    "IF(AND($buildkite.job.passed, GT($buildkite.job.retries_count, 0)), 1, 0))",
    "1 on a job that passed after an earlier attempt had not, 0 on other jobs.",
)
AGENT_IN_TIME = Calculated(
    "bk_pipeline.agent_in_time",
    'IF(AND(EQUALS($name, "buildkite.job"), EXISTS($buildkite.job.wait_time_ms)), '
    "LTE($buildkite.job.wait_time_ms, 300000))",
    "Whether a job waited at most 5 minutes for an agent; absent on other spans.",
)
CALCULATED = (BUILD_FAILED, JOB_FAILED, PASSED_ON_RETRY, AGENT_IN_TIME)

# The panels in order: texts fill a row, queries stand in pairs.
PANELS: tuple[Text | Query, ...] = (
    Text(
        "# Buildkite\n\nEach trace is a build. Click a point or a row to see its traces, or run BubbleUp on "
        "it. Made by `bk-pipeline honeycomb apply`, which restores these panels and keeps panels "
        "that you add."
    ),
    Query(
        "Builds by result",
        "How many builds ended in which state.",
        BUILD,
        ("COUNT",),
        (STATE,),
        chart="stacked",
    ),
    Query(
        "Failure rate by pipeline",
        "The share of builds that failed.",
        BUILD,
        ("AVG bk_pipeline.build_failed", "COUNT"),
        (PIPELINE,),
    ),
    Query(
        "Build duration by pipeline",
        "How long builds were active, in ms, without pauses at block steps.",
        BUILD,
        (f"P95 {RUN}", f"P50 {RUN}"),
        (PIPELINE,),
    ),
    Query(
        "Queue time by queue",
        "How long jobs waited for an agent, in ms. If p95 is high at some hours only, agents come "
        "too late; if p50 is too, there are too few.",
        JOB,
        (f"P95 {WAIT}", f"P50 {WAIT}", "COUNT"),
        (QUEUE,),
        (COMMAND,),
    ),
    Text(
        "## Where the time goes\n\nThe critical path is the chain of jobs and waits that made a build as long as "
        "it was. Making other steps faster does not shorten builds."
    ),
    Query(
        "Critical path composition",
        "Average time per build in which the critical path ran, waited for agents, or was blocked.",
        BUILD,
        tuple(f"AVG bk_pipeline.critical_path.{part}_ms" for part in ("run", "wait", "blocked")),
        (PIPELINE,),
    ),
    Query(
        "Steps on the critical path",
        "Total time that each step, waiting included, added to the length of builds, in ms.",
        JOB,
        ("SUM bk_pipeline.critical_path_ms", "P95 bk_pipeline.critical_path_ms", "COUNT"),
        (PIPELINE, STEP),
        (("bk_pipeline.critical_path", "=", True),),
        style="table",
    ),
    Query(
        "Slowest steps",
        "How long the attempts of each step ran, in ms.",
        JOB,
        ("P95 duration_ms", "P50 duration_ms", "COUNT"),
        (PIPELINE, STEP),
        (COMMAND,),
        style="table",
    ),
    Text("## What fails\n\nAn attempt of a job is a span of its own, so retries count."),
    Query(
        "Failures by error type",
        "Attempts that failed (not softly), by reason: failed is the command's own exit status.",
        JOB,
        ("COUNT",),
        ("error.type",),
        (FAILED,),
        chart="stacked",
    ),
    Query(
        "Failing steps",
        "The steps that fail most, with the exit status.",
        JOB,
        ("COUNT",),
        (PIPELINE, STEP, "buildkite.job.exit_status"),
        (FAILED,),
        style="table",
    ),
    Query(
        "Flaky steps",
        "Jobs that passed on a retry, and their share of all attempts. bk-pipeline flaky also finds "
        "what passed in another build of the same commit.",
        JOB,
        ("SUM bk_pipeline.passed_on_retry", "AVG bk_pipeline.passed_on_retry", "COUNT"),
        (PIPELINE, STEP),
        (COMMAND,),
        ("SUM bk_pipeline.passed_on_retry", ">", 0),
        style="table",
    ),
    Query(
        "Retries",
        "Attempts that were retried, by pipeline and by who retried them.",
        JOB,
        ("COUNT",),
        (PIPELINE, "buildkite.job.retry_type"),
        (("buildkite.job.retried", "=", True),),
    ),
    Text(
        "## Inside jobs\n\nWhat the logs of jobs say, where job details are read "
        "(`BK_PIPELINE_JOB_DETAILS`). `bk-pipeline failures` tells which failures are new."
    ),
    Query(
        "Why jobs fail",
        "Failed jobs by the kind of the failure and its signature, which failures with the same message "
        "share. Click on a row and look at bk_pipeline.failure.message.",
        SECTION,
        ("COUNT",),
        ("bk_pipeline.failure.kind", "bk_pipeline.failure.signature"),
        (("bk_pipeline.failure.kind", "exists"),),
        chart="stacked",
    ),
    Query(
        "Slowest sections",
        "How long the sections of logs took, in ms: in all, and in one of twenty jobs.",
        SECTION,
        ("SUM duration_ms", "P95 duration_ms", "COUNT"),
        (PIPELINE, STEP, "buildkite.job.section.name"),
        style="table",
    ),
    Text("## Agents and cost"),
    Query(
        "Jobs at once by queue",
        "How many jobs ran at the same time, and so how many agents were busy.",
        JOB,
        ("CONCURRENCY",),
        (QUEUE,),
        (COMMAND,),
        ordered=False,
    ),
    Query(
        "Agents whose jobs fail",
        "A host with a higher rate than the others may be broken.",
        JOB,
        ("AVG bk_pipeline.job_failed", "COUNT"),
        ("buildkite.agent.hostname", QUEUE),
        (COMMAND,),
        style="table",
    ),
    Query(
        "Cost by pipeline",
        "What builds cost, and the parts for retried and for failed attempts, by your prices.",
        BUILD,
        ("SUM bk_pipeline.cost", "SUM bk_pipeline.retries_cost", "SUM bk_pipeline.failures_cost"),
        (PIPELINE, "bk_pipeline.currency"),
    ),
    Query(
        "Builds by branch",
        "Which branches the builds are of, and how they ended.",
        BUILD,
        ("COUNT", f"P95 {RUN}"),
        (BRANCH, STATE),
        style="table",
    ),
)

# Filters offered at the top of the board: column and label.
PRESET_FILTERS = ((PIPELINE, "Pipeline"), (BRANCH, "Branch"), (QUEUE, "Queue"))

TRIGGERS = (
    Trigger(
        "Jobs wait long for agents",
        "More than one in twenty jobs of a queue waited 10 minutes for an agent. Add recipients here.",
        Query("", "", JOB, (f"P95 {WAIT}",), (QUEUE,), (COMMAND,), range_s=3_600),
        ">",
        600_000,
        900,
    ),
    Trigger(
        "Main branch fails",
        "A build of the main branch, begun in the last two hours, failed. Add recipients here.",
        Query(
            "",
            "",
            BUILD,
            ("COUNT",),
            (PIPELINE,),
            ((BRANCH, "in", ("main", "master")), (STATE, "=", "failed")),
            range_s=7_200,
        ),
        ">",
        0,
        1_800,
    ),
)

SLO = Slo(
    "Jobs get an agent in time",
    "95 % of jobs wait at most 5 minutes for an agent.",
    AGENT_IN_TIME,
    950_000,
    30,
)

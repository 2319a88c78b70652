"""Declares the tables of statistics and their columns.

Parquet schemas, `docs/stats.md` and the column descriptions in Dagster follow from these
declarations. `summary.py` computes the values: change both together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# Arrow's names of the types.
TEXT, COUNT, NUMBER, FLAG, TIME = "string", "int64", "double", "bool", "timestamp[us, UTC]"
TEXTS = "list<string>"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. The suffix of its name is its unit; rates go from 0 to 1."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class StatsTable:
    """One table, stored in one file per day: `<data dir>/stats/<name>/<day>.parquet`."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the table."""
        # The Dagster definitions import this module; only runs need pyarrow.
        import pyarrow as pa  # noqa: PLC0415

        types = {TIME: pa.timestamp("us", tz="UTC"), TEXTS: pa.list_(pa.string())}
        return pa.schema([(one.name, types.get(one.type, one.type)) for one in self.columns])


def _quantiles(name: str, meaning: str) -> tuple[Column, ...]:
    first = Column(f"{name}_p50_s", NUMBER, f"{meaning} Median, in seconds.")
    return (
        first,
        Column(f"{name}_p90_s", NUMBER, "90th percentile of the same."),
        Column(f"{name}_p99_s", NUMBER, "99th percentile of the same."),
    )


DAY = Column("day", TEXT, "The partition.")
PIPELINE = Column("pipeline", TEXT, "The pipeline's slug.")
AGENT_MINUTES = Column(
    "agent_minutes",
    NUMBER,
    "Total time that agents ran command jobs, from start to end, over all attempts.",
)
COST = Column(
    "cost",
    NUMBER,
    "What the jobs cost, over all attempts, in the currency of BK_PIPELINE_COSTS; null if none of them "
    "has a price.",
)
SOFT_FAILURES = Column(
    "soft_failures", COUNT, "Attempts that failed and are allowed to (`soft_fail`)."
)
RETRIES = Column("retries", COUNT, "Attempts that were retried.")
FLAKY = Column(
    "flaky_failures",
    COUNT,
    "Attempts that failed (also softly, but not because their agent was lost) although the same "
    "job passed later on the same commit, as a retry or in another build of that day. Jobs are "
    "the same if their pipeline, step, parallel index and matrix values are equal.",
)

PIPELINES = StatsTable(
    "pipelines",
    "One row per pipeline.",
    (
        DAY,
        PIPELINE,
        Column(
            "builds", COUNT, "Builds created that day that have finished, in their latest state."
        ),
        Column("passed", COUNT, "Builds that passed."),
        Column("failed", COUNT, "Builds that failed."),
        Column("canceled", COUNT, "Builds that were canceled."),
        Column("blocked", COUNT, "Builds that wait at a block step, whatever their state so far."),
        Column("other", COUNT, "Builds in any other state: skipped, not run."),
        Column("failure_rate", NUMBER, "failed / (passed + failed); null without either."),
        *_quantiles(
            "duration",
            "How long passed and failed builds were active: from creation to end, without the "
            "pauses at block steps and before late retries.",
        ),
        *_quantiles("queue", "Time from a build's creation to the start of its first job."),
        Column("jobs", COUNT, "Attempts of command and trigger steps that have ended."),
        SOFT_FAILURES,
        RETRIES,
        Column("retries_by_hand", COUNT, "Attempts that a user retried, not an automatic rule."),
        FLAKY,
        AGENT_MINUTES,
        COST,
    ),
)

STEPS = StatsTable(
    "steps",
    "One row per command step of a pipeline.",
    (
        DAY,
        PIPELINE,
        Column("step", TEXT, "The step's key, or its label if it has no key."),
        Column("label", TEXT, "The step's latest label."),
        Column("jobs", COUNT, "Attempts that have ended, including all parallel and matrix jobs."),
        Column("failures", COUNT, "Attempts that failed hard."),
        SOFT_FAILURES,
        Column("failure_rate", NUMBER, "failures / (failures + attempts that passed)."),
        RETRIES,
        FLAKY,
        Column("flaky_commits", COUNT, "Number of commits with flaky failures."),
        *_quantiles("duration", "How long attempts that passed or failed ran."),
        *_quantiles("wait", "How long attempts waited for an agent."),
        AGENT_MINUTES,
        COST,
    ),
)

QUEUES = StatsTable(
    "queues",
    "One row per agent queue of a cluster.",
    (
        DAY,
        Column("cluster", TEXT, "The cluster's UUID; null without clusters."),
        Column("queue", TEXT, "The agent's queue, or the queue that the job asked for."),
        Column("jobs", COUNT, "Command jobs that an agent started."),
        Column("never_started", COUNT, "Jobs that expired or were canceled while they waited."),
        *_quantiles("wait", "Time from when a job could run to when an agent started it."),
        Column("wait_max_s", NUMBER, "The longest wait."),
        Column("waited_minutes", NUMBER, "Total of all waits."),
        AGENT_MINUTES,
        COST,
    ),
)

CHANGES = StatsTable(
    "changes",
    "One row per change that was found in the 30 days that end with the partition; the asset "
    "`changes` makes it. changes.md says how.",
    (
        Column("day", TEXT, "The partition: the last of the 30 days."),
        PIPELINE,
        Column("step", TEXT, "The step's key, or its label; null for whole builds."),
        Column("measure", TEXT, "`duration_s`, `queue_s`, `failure_rate` or `cost`."),
        Column("before", NUMBER, "The median, or the rate, since the last change before."),
        Column("after", NUMBER, "The same from this change to the next one."),
        Column("change", NUMBER, "after / before - 1; for rates the difference."),
        Column("worse", FLAG, "Whether it is a change for the worse."),
        Column("confidence", NUMBER, "1 - p, corrected for the number of tests."),
        Column("began_at", TIME, "When the first build on the new side was created."),
        Column("number", COUNT, "The number of that build."),
        Column("commit", TEXT, "Its commit."),
        Column("branch", TEXT, "Its branch."),
        Column("build_id", TEXT, "Its UUID."),
        Column("url", TEXT, "Its page."),
        Column("builds_before", COUNT, "Observed builds since the last change before."),
        Column("builds_after", COUNT, "Observed builds from this change to the next one."),
        Column(
            "recovered_at", TIME, "When it went back to what it was before; null if it did not."
        ),
        Column("decided_by", TEXT, "How it was decided."),
    ),
)

TABLES = (PIPELINES, STEPS, QUEUES)

# Of the asset `deployments`, which exists if there are rules.
DEPLOYMENTS = StatsTable(
    "deployments",
    "One row per deployment and rollback that the rules of `BK_PIPELINE_DEPLOYMENTS` find "
    "([deployments.md](deployments.md)).",
    (
        DAY,
        Column("environment", TEXT, "The environment, by the rule's template."),
        Column("service", TEXT, "The service, by the rule's template."),
        Column("rule", TEXT, "The id of the rule."),
        Column("kind", TEXT, "deployment or rollback."),
        Column("outcome", TEXT, "succeeded or failed."),
        PIPELINE,
        Column("build_number", COUNT, "The number of the build that deployed."),
        Column("build_id", TEXT, "Its UUID."),
        Column("url", TEXT, "The page of the job or build that deployed."),
        Column("branch", TEXT, "The branch of the build."),
        Column("repository", TEXT, "The repository of the change."),
        Column(
            "commit",
            TEXT,
            "The commit that was deployed: that of the build which triggered the one that "
            "deployed, if there is one.",
        ),
        Column("started_at", TIME, "When the deployment started."),
        Column("finished_at", TIME, "When it ended."),
        Column("cost", NUMBER, "What its jobs, or the build, cost; null without prices."),
        Column("currency", TEXT, "The currency of the cost."),
        Column("committed_at", TIME, "The time of the commit, if the rule finds it."),
        Column(
            "change_failed",
            FLAG,
            "Whether it is a deployment that failed, or a rollback of one that had succeeded.",
        ),
        Column(
            "lead_time_s",
            NUMBER,
            "From the earliest known time of the change to the end of its first successful "
            "deployment; null otherwise.",
        ),
        Column(
            "lead_time_from",
            TEXT,
            "Where the lead time begins: commit, first_build (of the commit), triggering_build, or "
            "build (that deployed).",
        ),
        Column(
            "restore_s",
            NUMBER,
            "If it ended a time of failure: from the end of the deployment that failed, or was "
            "rolled back, to its end.",
        ),
        Column("organization", TEXT, "The organization's slug."),
        Column("trace_id", TEXT, "The trace of the build that deployed."),
        Column(
            "span_ids",
            TEXTS,
            "The spans of the jobs that deployed, the first one first; or of the build.",
        ),
        Column(
            "rolled_back",
            TEXTS,
            "The spans of the deployment that it rolled back, if that had succeeded: trace id, "
            "slash, span id.",
        ),
        Column(
            "restored",
            TEXTS,
            "The spans of the deployments and rollbacks that had failed, or been rolled back, "
            "until it ended the time of failure.",
        ),
    ),
)

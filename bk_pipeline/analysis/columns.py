"""The statistics, declared: every table and every number in it, once.

Parquet schemas, `docs/stats.md` and the column descriptions in Dagster follow from these
rows. `summary.py` computes what is said here; who changes one changes the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

TEXT, COUNT, NUMBER = pa.string(), pa.int64(), pa.float64()


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its unit is the end of its name; fractions go from 0 to 1."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True, slots=True)
class StatsTable:
    """One table, kept as a file a day: `<data dir>/stats/<name>/<day>.parquet`."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(one.name, one.type) for one in self.columns])


def _quantiles(name: str, meaning: str) -> tuple[Column, ...]:
    first = Column(f"{name}_p50_s", NUMBER, f"{meaning} Half of them took no longer.")
    return (
        first,
        Column(f"{name}_p90_s", NUMBER, "The same: nine in ten took no longer."),
        Column(f"{name}_p99_s", NUMBER, "The same: 99 in 100 took no longer."),
    )


DAY = Column("day", TEXT, "The partition.")
PIPELINE = Column("pipeline", TEXT, "The pipeline's slug.")
AGENT_MINUTES = Column(
    "agent_minutes",
    NUMBER,
    "How long agents ran command jobs: every attempt, each from its start to its end.",
)
RETRIES = Column("retries", COUNT, "Attempts that another attempt has replaced.")
FLAKY = Column(
    "flaky_failures",
    COUNT,
    "Attempts that failed (softly too, but not by losing their agent) where the same job of the "
    "same commit passed later, by a retry or in another build of that day. The same job: of the "
    "same pipeline, step, parallel index and matrix values.",
)

PIPELINES = StatsTable(
    "pipelines",
    "A row a pipeline.",
    (
        DAY,
        PIPELINE,
        Column("builds", COUNT, "Builds created that day that have finished, as they are now."),
        Column("passed", COUNT, "Builds that passed."),
        Column("failed", COUNT, "Builds that failed."),
        Column("canceled", COUNT, "Builds that were canceled."),
        Column("blocked", COUNT, "Builds that wait at a block step, whatever they came to so far."),
        Column("other", COUNT, "Builds in any other state: skipped, not run."),
        Column("failure_rate", NUMBER, "failed / (passed + failed); null without either."),
        *_quantiles(
            "duration",
            "How long passed and failed builds were active: from creation to end, without the "
            "pauses at block steps and before late retries.",
        ),
        *_quantiles("queue", "From a build's creation to its first job's start."),
        Column("jobs", COUNT, "Attempts of command and trigger steps that have ended."),
        Column("soft_failures", COUNT, "Attempts that failed and were forgiven."),
        RETRIES,
        Column("retries_by_hand", COUNT, "Those of them that a person asked for."),
        FLAKY,
        AGENT_MINUTES,
    ),
)

STEPS = StatsTable(
    "steps",
    "A row a command step of a pipeline.",
    (
        DAY,
        PIPELINE,
        Column("step", TEXT, "The step's key; its label, if it has no key."),
        Column("label", TEXT, "The step's label, as it last was."),
        Column("jobs", COUNT, "Attempts that have ended, all parallel and matrix jobs."),
        Column("failures", COUNT, "Attempts that failed hard."),
        Column("soft_failures", COUNT, "Attempts that failed and were forgiven."),
        Column("failure_rate", NUMBER, "failures / (failures + attempts that passed)."),
        RETRIES,
        FLAKY,
        Column("flaky_commits", COUNT, "On how many commits that happened."),
        *_quantiles("duration", "How long attempts that passed or failed ran."),
        *_quantiles("wait", "How long attempts waited for an agent."),
        AGENT_MINUTES,
    ),
)

QUEUES = StatsTable(
    "queues",
    "A row an agent queue of a cluster.",
    (
        DAY,
        Column("cluster", TEXT, "The cluster's UUID; null without clusters."),
        Column("queue", TEXT, "The queue that the agent served, or that the job asked for."),
        Column("jobs", COUNT, "Command jobs that an agent took."),
        Column("never_started", COUNT, "Jobs that expired or were canceled while they waited."),
        *_quantiles("wait", "From when a job could run to when an agent started it."),
        Column("wait_max_s", NUMBER, "The longest wait."),
        Column("waited_minutes", NUMBER, "All waits together."),
        AGENT_MINUTES,
    ),
)

TABLES = (PIPELINES, STEPS, QUEUES)

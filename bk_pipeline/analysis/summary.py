"""Computes the tables of statistics that `columns.py` declares, from the frames of a day."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from bk_pipeline.analysis.columns import PIPELINES, QUEUES, STEPS, TEXT, StatsTable
from bk_pipeline.analysis.frames import BLOCKED, Frames, frames_of
from bk_pipeline.spans.costs import DECIMALS

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
# Builds in another state have no meaningful duration.
DECIDED_STATES = ("passed", "failed")
JOB_KEYS = ["pipeline", "step", "parallel", "matrix", "subject"]
ALL_PIPELINES = "all pipelines"
COUNTS = (
    "jobs",
    "failures",
    "soft_failures",
    "passed_jobs",
    "retries",
    "retries_by_hand",
    "flaky_failures",
    "agent_minutes",
)


@dataclass(frozen=True, slots=True)
class DayStats:
    """The statistics of a day.

    Attributes:
        day: The partition.
        builds: The builds, as in `Frames.builds`.
        pipelines: The table `PIPELINES`.
        steps: The table `STEPS`.
        queues: The table `QUEUES`.
        totals: The columns of `PIPELINES` over all pipelines; empty without builds.
    """

    day: str
    builds: pd.DataFrame
    pipelines: pd.DataFrame
    steps: pd.DataFrame
    queues: pd.DataFrame
    totals: pd.Series[float]

    def tables(self) -> dict[StatsTable, pa.Table]:
        """Return the tables to store, with the declared columns and types."""
        frames = {PIPELINES: self.pipelines, STEPS: self.steps, QUEUES: self.queues}
        return {
            table: pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False)
            for table, frame in frames.items()
        }


def summarize(day: str, spans: Iterable[pa.Table]) -> DayStats:
    """Compute the statistics of a day from its spans.

    Args:
        day: The partition.
        spans: Span tables, as for `frames_of`.
    """
    builds, jobs = frames_of(spans)
    jobs = jobs.assign(flaky=flaky(jobs))
    combined = Frames(builds.assign(pipeline=ALL_PIPELINES), jobs.assign(pipeline=ALL_PIPELINES))
    totals = pipelines_table(day, combined)
    return DayStats(
        day=day,
        builds=builds,
        pipelines=pipelines_table(day, Frames(builds, jobs)),
        steps=steps_table(day, jobs),
        queues=queues_table(day, jobs),
        totals=totals.iloc[0] if len(totals) else pd.Series(dtype=float),
    )


def flaky(jobs: pd.DataFrame) -> pd.Series[bool]:
    """Return for each job whether it failed and the same job passed later on the same commit."""
    passes = jobs.assign(last_pass=jobs["end"].where(jobs["passed"]))
    last_pass: pd.Series[Any] = _by(passes, JOB_KEYS)["last_pass"].transform("max")
    return jobs["command_failed"] & (last_pass >= jobs["end"])


def pipelines_table(day: str, frames: Frames) -> pd.DataFrame:
    """Compute the table `PIPELINES`, sorted by pipeline."""
    builds, jobs = frames
    by_state = pd.crosstab(builds["pipeline"], builds["state"])
    states = by_state.reindex(columns=[*DECIDED_STATES, "canceled", BLOCKED], fill_value=0)
    found = states.assign(builds=by_state.sum(axis=1))
    found["other"] = found["builds"] - states.sum(axis=1)
    found["failure_rate"] = _rate(found["failed"], found["passed"])
    decided = builds[builds["state"].isin(DECIDED_STATES)]
    found = found.join(_quantiles(decided, ["pipeline"], "run_s", "duration"))
    found = found.join(_quantiles(builds, ["pipeline"], "queue_s", "queue"))
    found = found.join(_job_counts(jobs, ["pipeline"])).fillna(dict.fromkeys(COUNTS, 0))
    return _declared(found, PIPELINES, day, by="pipeline", largest_first=False)


def steps_table(day: str, jobs: pd.DataFrame) -> pd.DataFrame:
    """Compute the table `STEPS`, the step with the most agent minutes first."""
    keys = ["pipeline", "step"]
    jobs = jobs[jobs["command"]]
    found = _job_counts(jobs, keys)
    found["label"] = _by(jobs.sort_values("start"), keys)["label"].last()
    found["failure_rate"] = _rate(found["failures"], found["passed_jobs"])
    flaky_commits = _by(jobs[jobs["flaky"]], keys)["subject"].nunique()
    found["flaky_commits"] = flaky_commits.reindex(found.index, fill_value=0)
    ended = jobs[jobs["started"] & (jobs["passed"] | jobs["error"] | jobs["soft_failed"])]
    found = found.join(_quantiles(ended, keys, "run_s", "duration"))
    found = found.join(_quantiles(jobs, keys, "wait_s", "wait"))
    return _declared(found, STEPS, day, by="agent_minutes")


def queues_table(day: str, jobs: pd.DataFrame) -> pd.DataFrame:
    """Compute the table `QUEUES`, the queue with the longest total wait first."""
    keys = ["cluster", "queue"]
    jobs = jobs[jobs["command"]]
    started = jobs[jobs["started"]]
    found = _job_counts(jobs, keys)[["agent_minutes", "cost"]]
    found["jobs"] = _by(jobs, keys)["started"].sum()
    found["never_started"] = _by(jobs, keys)["started"].count() - found["jobs"]
    found = found.join(_quantiles(started, keys, "wait_s", "wait"))
    waits = _by(started, keys)["wait_s"]
    found["wait_max_s"] = waits.max()
    found["waited_minutes"] = waits.sum().reindex(found.index, fill_value=0.0) / 60
    found = found.rename(index={"": None}, level="cluster")
    return _declared(found, QUEUES, day, by="waited_minutes")


def _job_counts(jobs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the `COUNTS` of each group, and its `cost`, which is null if no job has one."""
    with_counts = jobs.assign(
        jobs=1,
        failures=jobs["error"],
        soft_failures=jobs["soft_failed"],
        passed_jobs=jobs["passed"],
        retries=jobs["retried"],
        retries_by_hand=jobs["retried"] & jobs["retried_manually"],
        flaky_failures=jobs["flaky"],
        agent_minutes=jobs["run_s"].where(jobs["command"] & jobs["started"], 0.0) / 60,
    )
    groups = _by(with_counts, keys)
    sums: pd.DataFrame = groups[list(COUNTS)].sum()
    return sums.assign(cost=groups["cost"].sum(min_count=1).round(DECIMALS))


def _quantiles(rows: pd.DataFrame, keys: list[str], value: str, name: str) -> pd.DataFrame:
    """Return `<name>_p50_s` and so on, interpolated linearly; nulls are ignored."""
    values = _by(rows, keys)[value]
    return pd.DataFrame({f"{name}_{label}_s": values.quantile(q) for label, q in QUANTILES.items()})


def _rate(part: pd.Series[int], rest: pd.Series[int]) -> pd.Series[float]:
    return part / (part + rest).where(lambda total: total > 0)


def _by(rows: pd.DataFrame, keys: list[str]) -> Any:
    return rows.groupby(keys, observed=True)


def _declared(
    found: pd.DataFrame, table: StatsTable, day: str, *, by: str, largest_first: bool = True
) -> pd.DataFrame:
    """Return the declared columns in their order, with the rows sorted."""
    found = found.reset_index().assign(day=day)
    text_types = {column.name: object for column in table.columns if column.type == TEXT}
    declared = found[[column.name for column in table.columns]].astype(text_types)
    return declared.sort_values(by, ascending=not largest_first, ignore_index=True)

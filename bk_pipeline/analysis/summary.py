"""Frames to the tables that `columns.py` declares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from bk_pipeline.analysis.columns import PIPELINES, QUEUES, STEPS, TEXT, StatsTable
from bk_pipeline.analysis.frames import BLOCKED, Frames, frames_of

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
VERDICTS = ("passed", "failed")
SAME_JOB = ["pipeline", "step", "parallel", "matrix", "subject"]
ALL = "all pipelines"
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
    """A day's tables, and the builds that they were made of."""

    day: str
    builds: pd.DataFrame
    pipelines: pd.DataFrame
    steps: pd.DataFrame
    queues: pd.DataFrame
    whole: pd.Series[float]

    def tables(self) -> dict[StatsTable, pa.Table]:
        """What is kept, in the declared columns and types."""
        frames = {PIPELINES: self.pipelines, STEPS: self.steps, QUEUES: self.queues}
        return {
            table: pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False)
            for table, frame in frames.items()
        }


def summarize(day: str, spans: Iterable[pa.Table]) -> DayStats:
    """The statistics of one day's spans, as `frames_of` takes them."""
    builds, jobs = frames_of(spans)
    jobs = jobs.assign(flaky=flaky(jobs))
    together = Frames(builds.assign(pipeline=ALL), jobs.assign(pipeline=ALL))
    whole = pipelines_table(day, together)
    return DayStats(
        day=day,
        builds=builds,
        pipelines=pipelines_table(day, Frames(builds, jobs)),
        steps=steps_table(day, jobs),
        queues=queues_table(day, jobs),
        whole=whole.iloc[0] if len(whole) else pd.Series(dtype=float),
    )


def flaky(jobs: pd.DataFrame) -> pd.Series[bool]:
    """Whether each job failed where the same job of the same commit passed later."""
    passes = jobs.assign(last_pass=jobs["end"].where(jobs["passed"]))
    last_pass: pd.Series[Any] = _by(passes, SAME_JOB)["last_pass"].transform("max")
    return jobs["flunked"] & (last_pass >= jobs["end"])


def pipelines_table(day: str, frames: Frames) -> pd.DataFrame:
    builds, jobs = frames
    by_state = pd.crosstab(builds["pipeline"], builds["state"])
    states = by_state.reindex(columns=[*VERDICTS, "canceled", BLOCKED], fill_value=0)
    found = states.assign(builds=by_state.sum(axis=1))
    found["other"] = found["builds"] - states.sum(axis=1)
    found["failure_rate"] = _share(found["failed"], found["passed"])
    came_to_an_end = builds[builds["state"].isin(VERDICTS)]
    found = found.join(_quantiles(came_to_an_end, ["pipeline"], "run_s", "duration"))
    found = found.join(_quantiles(builds, ["pipeline"], "queue_s", "queue"))
    found = found.join(_job_counts(jobs, ["pipeline"])).fillna(dict.fromkeys(COUNTS, 0))
    return _declared(found, PIPELINES, day, by="pipeline", largest_first=False)


def steps_table(day: str, jobs: pd.DataFrame) -> pd.DataFrame:
    keys = ["pipeline", "step"]
    jobs = jobs[jobs["command"]]
    found = _job_counts(jobs, keys)
    found["label"] = _by(jobs.sort_values("start"), keys)["label"].last()
    found["failure_rate"] = _share(found["failures"], found["passed_jobs"])
    failed_and_passed = _by(jobs[jobs["flaky"]], keys)["subject"].nunique()
    found["flaky_commits"] = failed_and_passed.reindex(found.index, fill_value=0)
    ended = jobs[jobs["started"] & (jobs["passed"] | jobs["error"] | jobs["soft_failed"])]
    found = found.join(_quantiles(ended, keys, "run_s", "duration"))
    found = found.join(_quantiles(jobs, keys, "wait_s", "wait"))
    return _declared(found, STEPS, day, by="agent_minutes")


def queues_table(day: str, jobs: pd.DataFrame) -> pd.DataFrame:
    keys = ["cluster", "queue"]
    jobs = jobs[jobs["command"]]
    taken = jobs[jobs["started"]]
    found = _job_counts(jobs, keys)[["agent_minutes"]]
    found["jobs"] = _by(jobs, keys)["started"].sum()
    found["never_started"] = _by(jobs, keys)["started"].count() - found["jobs"]
    found = found.join(_quantiles(taken, keys, "wait_s", "wait"))
    waits = _by(taken, keys)["wait_s"]
    found["wait_max_s"] = waits.max()
    found["waited_minutes"] = waits.sum().reindex(found.index, fill_value=0.0) / 60
    found = found.rename(index={"": None}, level="cluster")
    return _declared(found, QUEUES, day, by="waited_minutes")


def _job_counts(jobs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """`COUNTS` of each group."""
    counted = jobs.assign(
        jobs=1,
        failures=jobs["error"],
        soft_failures=jobs["soft_failed"],
        passed_jobs=jobs["passed"],
        retries=jobs["retried"],
        retries_by_hand=jobs["retried"] & jobs["by_hand"],
        flaky_failures=jobs["flaky"],
        agent_minutes=jobs["run_s"].where(jobs["command"] & jobs["started"], 0.0) / 60,
    )
    sums: pd.DataFrame = _by(counted, keys)[list(COUNTS)].sum()
    return sums


def _quantiles(rows: pd.DataFrame, keys: list[str], value: str, name: str) -> pd.DataFrame:
    """`<name>_p50_s` and so on, between two values in proportion; nulls do not count."""
    values = _by(rows, keys)[value]
    return pd.DataFrame({f"{name}_{label}_s": values.quantile(q) for label, q in QUANTILES.items()})


def _share(of: pd.Series[int], rest: pd.Series[int]) -> pd.Series[float]:
    return of / (of + rest).where(lambda both: both > 0)


def _by(rows: pd.DataFrame, keys: list[str]) -> Any:
    return rows.groupby(keys, observed=True)


def _declared(
    found: pd.DataFrame, table: StatsTable, day: str, *, by: str, largest_first: bool = True
) -> pd.DataFrame:
    """The declared columns, in their order, sorted."""
    found = found.reset_index().assign(day=day)
    words = {one.name: object for one in table.columns if one.type == TEXT}
    chosen = found[[one.name for one in table.columns]].astype(words)
    return chosen.sort_values(by, ascending=not largest_first, ignore_index=True)

"""Another simple route: `json.loads` and `pandas.json_normalize`, then whole columns.

Builds and jobs are flattened by pandas, renamed, and made into span rows with merges and
groupings. Same columns, ids, jobs, steps and groups as `dict_rows.py`, and the same is left
out: stages, clamping, links, block steps' waiting, overlong strings, bad builds, old payloads.
Integers with gaps become floats.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from benchmarks.routes.columns import COLUMNS
from benchmarks.routes.flat_names import BUILD, JOB, SHARED, STEP
from benchmarks.routes.obvious import (
    ENDED,
    FAILED,
    NO_SPAN,
    STEP_TYPES,
    dump,
    last_digits,
    repository_of,
    result_of,
    span_id,
    task_result,
    task_type,
    unblocker,
)

MS = pd.Timedelta(milliseconds=1)


def frame_of_payloads(payloads: Iterable[bytes]) -> pd.DataFrame:
    """Return the spans of payloads as a DataFrame."""
    found = []
    for build in map(json.loads, payloads):
        if build["finished_at"]:
            _make_flat(build)
            found.append(build)
    jobs = pd.json_normalize(found, "jobs", "id", meta_prefix="build.")
    for build in found:
        del build["jobs"]
    builds = pd.json_normalize(found)
    del found
    return _spans(builds, jobs)


def _make_flat(build: dict[str, Any]) -> None:
    """Convert values that stay JSON to text before pandas flattens them."""
    del build["env"]
    states = (job["state"] for job in build["jobs"] if job.get("state"))
    build["job_counts"] = dump(Counter(states))
    build["result"] = result_of(build)
    queue, request = build["merge_queue"] or {}, build["pull_request"] or {}
    build["base_branch"] = request.get("base") or queue.get("base_branch")
    build["base_commit"] = queue.get("base_commit")
    for name in ("meta_data", "merge_queue"):
        build[name] = dump(build[name]) if build[name] else None
    page, build["owner"], build["repository_name"] = repository_of(build["pipeline"]["repository"])
    build["repository"] = page
    if isinstance(build["author"], str):
        build["author"] = {"name": build["author"]}
    for job in build["jobs"]:
        job["unblocked_by"] = unblocker(job.get("unblocked_by"))
        if job["type"] != "waiter":
            job["task_type"], job["result"] = task_type(job), task_result(job)
        for name in ("matrix", "retried_by", "agent_query_rules"):
            if job.get(name):
                job[name] = dump(job[name])
        if job.get("agent"):
            tags = job["agent"]["meta_data"]
            by_key = dict(tag.split("=", 1) for tag in tags)
            job["agent"] |= {
                "meta_data": dump(tags),
                "tags": dump(by_key),
                "queue": by_key.get("queue", "default"),
            }


def _spans(builds: pd.DataFrame, jobs: pd.DataFrame) -> pd.DataFrame:
    builds["trace_id"] = builds["id"].str.replace("-", "")
    roots = _root_spans(builds)
    stages = _stage_spans(roots)
    jobs = _with_times(jobs)
    jobs["trace_id"] = jobs["build.id"].str.replace("-", "")
    job_spans = _job_spans(jobs)
    steps = _step_spans(jobs, job_spans)
    step_ids = steps.set_index("buildkite.step.id")["span_id"]
    job_spans["parent_span_id"] = jobs["step.id"].map(step_ids)
    groups = _group_spans(steps)
    # A group's steps are its children; all others are children of the build's one stage.
    stage_ids = stages.set_index("trace_id")["span_id"]
    groups["parent_span_id"] = groups["trace_id"].map(stage_ids)
    steps["parent_span_id"] = steps["group_id"].fillna(steps["trace_id"].map(stage_ids))
    below = pd.concat([job_spans, steps, groups])
    below["buildkite.build.stage"] = 1
    spans = pd.concat([roots, stages, below]).merge(_shared(builds), on="trace_id")
    return spans.reindex(columns=COLUMNS)


def _with_times(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return the jobs that have spans, with `start` and `end`."""
    manual = jobs["type"] == "manual"
    start = jobs["started_at"].fillna(jobs["runnable_at"]).fillna(jobs["created_at"])
    end = jobs["finished_at"].fillna(jobs["expired_at"])
    jobs["start"] = start.mask(manual, jobs["unblocked_at"])
    jobs["end"] = end.mask(manual, jobs["unblocked_at"])
    over = jobs["end"].notna() | (jobs["state"].isin(ENDED) & ~manual)
    spans = (jobs["type"] != "waiter") & ~jobs["state"].isin(NO_SPAN) & over
    jobs = jobs[spans].reset_index(drop=True)
    jobs["start"] = pd.to_datetime(jobs["start"], format="ISO8601")
    jobs["end"] = pd.to_datetime(jobs["end"], format="ISO8601").fillna(jobs["start"])
    return jobs


def _renamed(frame: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({new: frame[old] for new, old in names.items() if old in frame})


def _shared(builds: pd.DataFrame) -> pd.DataFrame:
    shared = _renamed(builds, {"trace_id": "trace_id"} | SHARED)
    shared["buildkite.organization.slug"] = builds["url"].str.split("/").str[5]
    shared["buildkite.cluster.id"] = builds["cluster_id"].fillna(builds["pipeline.cluster_id"])
    shared["vcs.ref.base.type"] = shared["vcs.ref.base.name"].notna().map({True: "branch"})
    shared["vcs.ref.head.name"] = builds["tag"].fillna(builds["branch"])
    shared["vcs.ref.head.type"] = builds["tag"].isna().map({True: "branch", False: "tag"})
    shared["vcs.ref.type"] = shared["vcs.ref.head.type"]
    return shared


def _root_spans(builds: pd.DataFrame) -> pd.DataFrame:
    spans = _renamed(builds, {"trace_id": "trace_id"} | BUILD)
    spans["span_id"] = builds["id"].map(last_digits)
    spans["name"] = "buildkite.build"
    spans["start"] = pd.to_datetime(spans["start"], format="ISO8601")
    spans["end"] = pd.to_datetime(spans["end"], format="ISO8601")
    began = pd.to_datetime(builds["started_at"], format="ISO8601")
    spans["buildkite.build.queue_ms"] = (began - spans["start"]) // MS  # type: ignore[operator]  # pandas-stubs know no such division
    spans["buildkite.build.run_ms"] = (spans["end"] - began) // MS
    spans["status"] = builds["state"].map({"passed": "ok", "failed": "error"}).fillna("unset")
    spans["error.type"] = builds["state"].where(builds["state"] == "failed")
    spans["cicd.pipeline.action.name"] = "BUILD"
    return spans


def _stage_spans(roots: pd.DataFrame) -> pd.DataFrame:
    taken = ["trace_id", "start", "end", "status", "error.type"]
    spans = roots[[*taken, "buildkite.build.state", "buildkite.build.blocked_state"]].copy()
    spans["name"] = "buildkite.build.stage"
    spans["parent_span_id"] = roots["span_id"]
    spans["span_id"] = [span_id("buildkite.build.stage", trace, "1") for trace in roots["trace_id"]]
    spans["buildkite.build.stage"] = 1
    return spans


def _job_spans(jobs: pd.DataFrame) -> pd.DataFrame:
    jobs["job_label"] = jobs["label"].fillna(jobs["name"])
    jobs["step_label"] = jobs["step.label"].fillna(jobs["job_label"])
    spans = _renamed(jobs, {"trace_id": "trace_id", "start": "start", "end": "end"} | JOB)
    spans["span_id"] = jobs["id"].map(last_digits)
    spans["name"] = "buildkite.job"
    state = jobs["state"]
    passed = state.isin(["passed", "unblocked"])
    failed = state.isin(FAILED) & ~jobs["soft_failed"].eq(True)  # noqa: FBT003  # a column's value
    spans["status"] = "unset"
    spans.loc[passed, "status"] = "ok"
    spans.loc[failed, "status"] = "error"
    spans["error.type"] = state.mask(jobs["exit_status"] == -1, "agent_lost").where(failed)
    spans["buildkite.job.passed"] = passed
    spans["buildkite.job.started"] = passed | jobs["started_at"].notna()
    started = pd.to_datetime(jobs["started_at"], format="ISO8601")
    runnable = pd.to_datetime(jobs["runnable_at"], format="ISO8601")
    spans["buildkite.job.wait_time_ms"] = (started - runnable) // MS
    spans["cicd.pipeline.task.run.result"] = jobs["result"]
    return spans


def _step_spans(jobs: pd.DataFrame, job_spans: pd.DataFrame) -> pd.DataFrame:
    """Return one row per step over its attempts; failed if an attempt failed that was not retried."""
    first = jobs.drop_duplicates("step.id")
    steps = _renamed(first, {"trace_id": "trace_id"} | STEP)
    steps["buildkite.step.type"] = first["type"].map(STEP_TYPES)
    steps["buildkite.step.matrix"] = first["matrix"].notna().map({True: True})
    steps["buildkite.step.group.key"] = first["group_key"]
    steps["name"] = "buildkite.step"
    ids = zip(steps["trace_id"], steps["buildkite.step.id"], strict=True)
    steps["span_id"] = [span_id("buildkite.step", trace, "1", step) for trace, step in ids]
    steps["group_id"] = [
        span_id("buildkite.step.group", trace, "1", key) if isinstance(key, str) else None
        for trace, key in zip(steps["trace_id"], steps["buildkite.step.group.key"], strict=True)
    ]
    times = jobs.groupby("step.id").agg({"start": "min", "end": "max"})
    steps["start"] = steps["buildkite.step.id"].map(times["start"])
    steps["end"] = steps["buildkite.step.id"].map(times["end"])
    final = job_spans[~job_spans["buildkite.job.retried"].eq(True)]  # noqa: FBT003  # a column's value
    failed = final.dropna(subset="error.type").drop_duplicates("buildkite.step.id")
    errors = failed.set_index("buildkite.step.id")["error.type"]
    steps["error.type"] = steps["buildkite.step.id"].map(errors)
    steps["status"] = steps["error.type"].isna().map({True: "ok", False: "error"})
    return steps


def _group_spans(steps: pd.DataFrame) -> pd.DataFrame:
    grouped = steps.dropna(subset="group_id").groupby("group_id")
    groups = grouped.agg(
        {
            "trace_id": "first",
            "buildkite.step.group.key": "first",
            "start": "min",
            "end": "max",
            "error.type": "first",
        }
    )
    groups = groups.rename_axis("span_id").reset_index()
    groups["name"] = "buildkite.step.group"
    groups["buildkite.step.key"] = groups["buildkite.step.group.key"]
    groups["buildkite.step.type"] = "group"
    groups["status"] = groups["error.type"].isna().map({True: "ok", False: "error"})
    return groups

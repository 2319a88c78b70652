"""A simple route: `json.loads`, one dict per span, one `pandas.DataFrame`.

Written as a competent engineer in a hurry would, and as fast as plain dicts are: a row holds
only the keys that its kind has, what all rows of a build share is put together once, times
stay text until pandas parses whole columns. (A frame for each few builds, concatenated, would
take a tenth less time and half the memory: still more than twice ours.)

Same columns, types, rows and values as ours, on the corpus. Left out is what the corpus does
not ask for: clamping of impossible times and `bk_pipeline.time_adjusted`, what holds attempts
without a step id together, colliding ids, truncation of long strings, quarantine of bad
builds, old payloads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from operator import itemgetter

import pandas as pd

from benchmarks.routes.columns import COLUMNS
from benchmarks.routes.dict_columns import (
    Object,
    build_columns,
    common_columns,
    job_columns,
    job_links,
    stage_columns,
    step_columns,
)
from benchmarks.routes.dict_stages import stages_of
from benchmarks.routes.obvious import ENDED, NO_SPAN, span_id
from bk_pipeline.spans.fields import FIELDS, FieldType

# Integers and booleans with gaps, which pandas would convert to floats and objects.
PANDAS_TYPES = {FieldType.INT: "Int64", FieldType.FLOAT: "Float64", FieldType.BOOL: "boolean"}
TYPES = {field.name: PANDAS_TYPES[field.type] for field in FIELDS if field.type in PANDAS_TYPES}


def frame_of_payloads(payloads: Iterable[bytes]) -> pd.DataFrame:
    """Return the spans of payloads as a DataFrame."""
    rows: list[Object] = []
    for build in map(json.loads, payloads):
        if build["finished_at"]:
            rows.extend(rows_of(build))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["start"] = pd.to_datetime(frame["start"], format="ISO8601")
    frame["end"] = pd.to_datetime(frame["end"], format="ISO8601")
    started = pd.to_datetime(frame["buildkite.job.started_at"], format="ISO8601")
    runnable = pd.to_datetime(frame["buildkite.job.runnable_at"], format="ISO8601")
    frame["buildkite.job.wait_time_ms"] = (started - runnable) // pd.Timedelta(milliseconds=1)
    return frame.astype(TYPES)


def rows_of(build: Object) -> list[Object]:
    """Return the rows of a build: the root, then all other spans in order of start."""
    common = common_columns(build)
    timed = [(job, *times) for job in build["jobs"] if (times := start_and_end(job))]
    # Clock skew: a job may be created before its build, and end after it.
    made = [job["created_at"] for job in build["jobs"] if job.get("created_at")]
    start = min([build["created_at"], *made])
    end = max([build["finished_at"], *(end for _, _, end in timed)])
    stages = stages_of(build, timed, start, end)
    root = {**common, **build_columns(build, start, end, stages)}
    rows: list[Object] = []
    for stage in stages:
        rows.extend(stage_rows(stage, common, root["span_id"]))
    rows.sort(key=itemgetter("start"))
    return [root, *rows]


def stage_rows(stage: Object, common: Object, root_id: str) -> list[Object]:
    """Return the rows of a stage, its groups, steps and jobs."""
    number = stage["number"]
    trace_id = common["trace_id"]
    top = {**common, **stage_columns(stage, trace_id, root_id)}
    rows: list[Object] = []
    steps: dict[str, Object] = {}
    replaced = {
        job["retry_source"]["job_id"] for job, _, _ in stage["jobs"] if job.get("retry_source")
    }
    for job, start, end in stage["jobs"]:
        waiting = start
        if job["type"] != "manual":
            since = job["runnable_at"] or job["created_at"]
            waiting = min(max(since, stage["start"]), start) if since else start
        step = steps.get(job["step"]["id"])
        if step is None:
            step = steps[job["step"]["id"]] = {
                **common,
                **step_columns(job, number, trace_id, waiting, end),
                "parent_span_id": top["span_id"],
            }
        elif waiting < step["start"]:
            step["start"] = waiting
        step["end"] = max(step["end"], end)
        row = {**common, **job_columns(job, start, end), "parent_span_id": step["span_id"]}
        row["buildkite.build.stage"] = number
        row["buildkite.step.id"] = step["buildkite.step.id"]
        row["buildkite.step.key"] = step["buildkite.step.key"]
        row["buildkite.step.label"] = step["buildkite.step.label"]
        row["buildkite.step.command"] = step["buildkite.step.command"]
        if links := job_links(job, trace_id):
            row["links"] = links
        rows.append(row)
        if job["id"] not in replaced:
            add_status(step, row)
    return [
        top,
        *group_rows(steps.values(), common, top["span_id"], number),
        *steps.values(),
        *rows,
    ]


def add_status(whole: Object, part: Object) -> None:
    """Update the status of a step or group by one of its parts: error wins, ok needs all."""
    if whole["status"] == "error" or part["status"] == "ok":
        return
    whole["status"], whole["error.type"] = part["status"], part.get("error.type")


def start_and_end(job: Object) -> tuple[str, str] | None:
    """Return start and end as sent, comparable as text; None if the job has no span."""
    if job["type"] == "waiter" or job["state"] in NO_SPAN:
        return None
    if job["type"] == "manual":
        at = job["unblocked_at"]
        return (at, at) if at else None
    end = job["finished_at"] or job.get("expired_at")
    if not end and job["state"] not in ENDED:
        return None
    start = job["started_at"] or job["runnable_at"] or job["created_at"]
    return start, end or start


def group_rows(
    steps: Iterable[Object], common: Object, stage_id: str, number: int
) -> Iterable[Object]:
    """Return one row per group key, with its steps as children."""
    groups: dict[str, Object] = {}
    for step in steps:
        key = step["buildkite.step.group.key"]
        if not key:
            continue
        group = groups.get(key)
        if group is None:
            group = groups[key] = {
                **common,
                "span_id": span_id("buildkite.step.group", common["trace_id"], str(number), key),
                "parent_span_id": stage_id,
                "name": "buildkite.step.group",
                "start": step["start"],
                "end": step["end"],
                "status": "ok",
                "buildkite.build.stage": number,
                "buildkite.step.key": key,
                "buildkite.step.type": "group",
                "buildkite.step.group.key": key,
            }
        step["parent_span_id"] = group["span_id"]
        group["start"] = min(group["start"], step["start"])
        group["end"] = max(group["end"], step["end"])
        add_status(group, step)
    return groups.values()

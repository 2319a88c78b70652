"""Converts the span table to two pandas frames: one of builds, one of jobs.

Only the columns that are needed are read. Text becomes plain strings, not categories: pandas
refuses to align two categorical indexes whose codes have different widths, which happens as
soon as a day has 128 distinct steps. Values that the privacy settings remove are null, and
`UNKNOWN` in columns that rows are grouped by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.spans.jobs import AGENT_LOST, AGENT_STOPPED, LOST_EXIT_STATUS
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline.spans.table import SCHEMA

UNKNOWN = "(unknown)"
BLOCKED = "blocked"
DEFAULT_QUEUE = "default"
QUEUE_RULE = r'"queue=(?P<queue>[^"]*)"'
# The commits of builds whose commit is unknown: HEAD of one that was created in the UI or by the
# API, until an agent has checked it out.
NO_COMMIT = ("HEAD", "", None)
RAN_AND_FAILED = ("failed", "timed_out", "finished")

BUILD_COLUMNS = {
    "trace_id": "trace_id",
    "start": "start",
    "end": "end",
    "pipeline": "buildkite.pipeline.slug",
    "number": "buildkite.build.number",
    "url": "buildkite.build.web_url",
    "message": "buildkite.build.message",
    "branch": "buildkite.build.branch",
    "state": "buildkite.build.state",
    "blocked": "buildkite.build.blocked",
    "queue_ms": "buildkite.build.queue_ms",
    "run_ms": "buildkite.build.run_ms",
}
JOB_COLUMNS = {
    "trace_id": "trace_id",
    "start": "start",
    "end": "end",
    "status": "status",
    "error_type": "error.type",
    "pipeline": "buildkite.pipeline.slug",
    "cluster": "buildkite.cluster.id",
    "commit": "buildkite.build.commit",
    "key": "buildkite.step.key",
    "label": "buildkite.step.label",
    "step_command": "buildkite.step.command",
    "type": "buildkite.job.type",
    "state": "buildkite.job.state",
    "started": "buildkite.job.started",
    "passed": "buildkite.job.passed",
    "soft_failed": "buildkite.job.soft_failed",
    "exit_status": "buildkite.job.exit_status",
    "signal_reason": "buildkite.job.signal_reason",
    "wait_ms": "buildkite.job.wait_time_ms",
    "parallel": "buildkite.job.parallel.index",
    "matrix": "buildkite.job.matrix",
    "retried": "buildkite.job.retried",
    "retried_in": "buildkite.job.retried_in_job_id",
    "retry_type": "buildkite.job.retry_type",
    "queue": "buildkite.agent.queue",
    "rules": "buildkite.job.agent_query_rules",
    "cost": "bk_pipeline.cost",
}
# The columns of the span table to read, and the kinds of spans.
COLUMNS = tuple(dict.fromkeys(["name", *BUILD_COLUMNS.values(), *JOB_COLUMNS.values()]))
KINDS = (SpanKind.BUILD, SpanKind.JOB)


class Frames(NamedTuple):
    """The builds and the jobs of a day.

    Attributes:
        builds: `BUILD_COLUMNS`; `state` is "blocked" while a build waits at a block step;
            `queue_s` and `run_s` are in seconds.
        jobs: All jobs but block steps: `trace_id`, `start`, `end`, `pipeline`, `cluster`,
            `step`, `label`, `parallel`, `matrix`, `queue`, `subject` (the commit, or the build
            if the commit is unknown), `run_s`, `wait_s`, `cost`; and the booleans `command` (an agent
            ran it, or should have), `started`, `passed`, `error`, `soft_failed`,
            `command_failed` (it ran and failed, softly or not, and did not lose its agent),
            `retried`, `retried_manually`.
    """

    builds: pd.DataFrame
    jobs: pd.DataFrame


def frames_of(spans: Iterable[pa.Table]) -> Frames:
    """Return the frames of span tables.

    Args:
        spans: Tables with at least the columns `COLUMNS`; each build occurs once.
    """
    empty = pa.schema([SCHEMA.field(name) for name in COLUMNS]).empty_table()
    builds, jobs = [_builds(empty)], [_jobs(empty)]
    for table in spans:
        builds.append(_builds(table))
        jobs.append(_jobs(table))
    return Frames(_frame(builds), _frame(jobs))


def _frame(tables: list[pa.Table]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.concat_tables(map(_decoded, tables)).to_pandas()
    return frame


def _decoded(table: pa.Table) -> pa.Table:
    """Return the table with dictionary columns decoded."""
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            values = table.column(at).cast(field.type.value_type)
            table = table.set_column(at, field.name, values)
    return table


def _builds(table: pa.Table) -> pa.Table:
    found = _columns(table, SpanKind.BUILD, BUILD_COLUMNS)
    blocked = _filled(found.pop("blocked"))
    found["state"] = _filled_text(pc.if_else(blocked, BLOCKED, _text(found["state"])))
    found["pipeline"] = _filled_text(found["pipeline"])
    for name in ("queue", "run"):
        found[f"{name}_s"] = _seconds(found.pop(f"{name}_ms"))
    return pa.table(found)


def _jobs(table: pa.Table) -> pa.Table:
    found = _columns(table, SpanKind.JOB, JOB_COLUMNS)
    jobs = pa.table(found).filter(pc.not_equal(_text(found["type"]), "manual"))
    found = {name: jobs[name] for name in jobs.column_names}
    started, passed = _filled(found["started"]), _filled(found["passed"])
    commit = _text(found["commit"])
    known = pc.invert(pc.is_in(commit, value_set=pa.array(NO_COMMIT)))
    requested = pc.struct_field(pc.extract_regex(_text(found["rules"]), QUEUE_RULE), "queue")
    return pa.table(
        {
            "trace_id": found["trace_id"],
            "start": found["start"],
            "end": found["end"],
            "pipeline": _filled_text(found["pipeline"]),
            "cluster": _filled_text(found["cluster"], unknown=""),
            "step": _first_text(found["key"], found["label"], found["step_command"]),
            "label": _first_text(found["label"], found["key"], found["step_command"]),
            "parallel": pc.fill_null(found["parallel"], -1),
            "matrix": _filled_text(found["matrix"], unknown=""),
            "queue": _filled_text(
                pc.coalesce(_text(found["queue"]), requested), unknown=DEFAULT_QUEUE
            ),
            "subject": pc.if_else(known, commit, _text(found["trace_id"])),
            "run_s": _seconds(_ns(found["end"], found["start"]), per_second=1e9),
            "wait_s": _seconds(found["wait_ms"]),
            "cost": found["cost"],
            "command": pc.equal(_text(found["type"]), "script"),
            "started": started,
            "passed": passed,
            "error": pc.equal(_text(found["status"]), SpanStatus.ERROR.value),
            "soft_failed": pc.and_(_filled(found["soft_failed"]), pc.invert(passed)),
            "command_failed": _command_failed(found, started, passed),
            "retried": pc.or_(_filled(found["retried"]), pc.is_valid(found["retried_in"])),
            "retried_manually": _equals(found["retry_type"], "manual"),
        }
    )


def _command_failed(found: Mapping[str, Any], started: Any, passed: Any) -> Any:
    reason, exit_status = found["signal_reason"], found["exit_status"]
    vanished = pc.and_(_filled(pc.equal(exit_status, LOST_EXIT_STATUS)), pc.is_null(reason))
    lost = pc.or_(
        _equals(found["error_type"], AGENT_LOST),
        pc.and_(
            pc.invert(_equals(found["state"], "timed_out")),
            pc.or_(vanished, _equals(reason, AGENT_STOPPED)),
        ),
    )
    states = pa.array(RAN_AND_FAILED)
    ran_and_failed = pc.and_(
        pc.and_(started, pc.invert(passed)), pc.is_in(_text(found["state"]), value_set=states)
    )
    return pc.and_(ran_and_failed, pc.invert(lost))


def _columns(table: pa.Table, kind: SpanKind, names: Mapping[str, str]) -> dict[str, Any]:
    selected = table.filter(pc.equal(_text(table["name"]), kind.value))
    return {name: selected[column] for name, column in names.items()}


def _text(values: Any) -> Any:
    return values.cast(pa.string())


def _first_text(*columns: Any) -> Any:
    """Return the first text that is neither null nor empty: a step's label may be empty."""
    null = pa.scalar(None, pa.string())
    texts = [pc.if_else(pc.equal(text, ""), null, text) for text in map(_text, columns)]
    return _filled_text(pc.coalesce(*texts))


def _filled_text(values: Any, *, unknown: str = UNKNOWN) -> Any:
    return pc.fill_null(_text(values), unknown)


def _equals(values: Any, text: str) -> Any:
    return _filled(pc.equal(_text(values), text))


def _filled(values: Any) -> Any:
    """Return booleans with False for null."""
    return pc.fill_null(values, False)  # noqa: FBT003  # Arrow's argument


def _ns(later: Any, earlier: Any) -> Any:
    return pc.subtract(later.cast(pa.int64()), earlier.cast(pa.int64()))


def _seconds(values: Any, *, per_second: float = 1e3) -> Any:
    # An unsafe cast: nanoseconds of more than 104 days are rounded, by less than a millisecond.
    return pc.divide(values.cast(pa.float64(), safe=False), per_second)

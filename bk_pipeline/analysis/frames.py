"""The span table as people in notebooks want it: a frame of builds, a frame of jobs.

Only the columns that are needed are read. Text becomes plain strings, not categories: pandas
refuses to align two categorical indexes whose codes have different widths, which happens as
soon as a day has 128 distinct steps. What the privacy settings leave out of the table is null,
and `UNKNOWN` where rows are grouped by it.
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
# Until an agent has checked it out, a build made by hand or by the API is of no known commit.
NO_COMMIT = "HEAD"
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
    "does": "buildkite.step.command",
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
}
# What has to be read of the span table, and of which kinds of spans.
COLUMNS = tuple(dict.fromkeys(["name", *BUILD_COLUMNS.values(), *JOB_COLUMNS.values()]))
KINDS = (SpanKind.BUILD, SpanKind.JOB)


class Frames(NamedTuple):
    """The builds and the jobs of a day.

    Attributes:
        builds: `BUILD_COLUMNS`; `state` is "blocked" while a build waits at a block step,
            `queue_s` and `run_s` are in seconds.
        jobs: All but block steps: `trace_id`, `start`, `end`, `pipeline`, `cluster`, `step`,
            `label`, `parallel`, `matrix`, `queue`, `subject` (the commit; if it is not
            known, the build), `run_s`, `wait_s`; and as truths `command` (an agent ran it,
            or was to), `started`, `passed`, `error`, `soft_failed`, `flunked` (it ran and
            failed by its own doing, softly or not), `retried`, `by_hand`.
    """

    builds: pd.DataFrame
    jobs: pd.DataFrame


def frames_of(spans: Iterable[pa.Table]) -> Frames:
    """The frames of tables that have at least `COLUMNS`, each build in one revision only."""
    nothing = pa.schema([SCHEMA.field(name) for name in COLUMNS]).empty_table()
    builds, jobs = [_builds(nothing)], [_jobs(nothing)]
    for table in spans:
        builds.append(_builds(table))
        jobs.append(_jobs(table))
    return Frames(_frame(builds), _frame(jobs))


def _frame(tables: list[pa.Table]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.concat_tables(map(_decoded, tables)).to_pandas()
    return frame


def _decoded(table: pa.Table) -> pa.Table:
    """The table without dictionary columns."""
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            values = table.column(at).cast(field.type.value_type)
            table = table.set_column(at, field.name, values)
    return table


def _builds(table: pa.Table) -> pa.Table:
    found = _columns(table, SpanKind.BUILD, BUILD_COLUMNS)
    waits = _true(found.pop("blocked"))
    found["state"] = _words(pc.if_else(waits, BLOCKED, _text(found["state"])))
    found["pipeline"] = _words(found["pipeline"])
    for name in ("queue", "run"):
        found[f"{name}_s"] = _seconds(found.pop(f"{name}_ms"))
    return pa.table(found)


def _jobs(table: pa.Table) -> pa.Table:
    found = _columns(table, SpanKind.JOB, JOB_COLUMNS)
    jobs = pa.table(found).filter(pc.not_equal(_text(found["type"]), "manual"))
    found = {name: jobs[name] for name in jobs.column_names}
    started, passed = _true(found["started"]), _true(found["passed"])
    commit = _text(found["commit"])
    known = pc.fill_null(pc.not_equal(commit, NO_COMMIT), False)  # noqa: FBT003
    asked = pc.struct_field(pc.extract_regex(_text(found["rules"]), QUEUE_RULE), "queue")
    return pa.table(
        {
            "trace_id": found["trace_id"],
            "start": found["start"],
            "end": found["end"],
            "pipeline": _words(found["pipeline"]),
            "cluster": _words(found["cluster"], unknown=""),
            "step": _first(found["key"], found["label"], found["does"]),
            "label": _first(found["label"], found["key"], found["does"]),
            "parallel": pc.fill_null(found["parallel"], -1),
            "matrix": _words(found["matrix"], unknown=""),
            "queue": _words(pc.coalesce(_text(found["queue"]), asked), unknown=DEFAULT_QUEUE),
            "subject": pc.if_else(known, commit, _text(found["trace_id"])),
            "run_s": _seconds(_ns(found["end"], found["start"]), per_second=1e9),
            "wait_s": _seconds(found["wait_ms"]),
            "command": pc.equal(_text(found["type"]), "script"),
            "started": started,
            "passed": passed,
            "error": pc.equal(_text(found["status"]), SpanStatus.ERROR.value),
            "soft_failed": pc.and_(_true(found["soft_failed"]), pc.invert(passed)),
            "flunked": _flunked(found, started, passed),
            "retried": pc.or_(_true(found["retried"]), pc.is_valid(found["retried_in"])),
            "by_hand": _is(found["retry_type"], "manual"),
        }
    )


def _flunked(found: Mapping[str, Any], started: Any, passed: Any) -> Any:
    reason, exits = found["signal_reason"], found["exit_status"]
    vanished = pc.and_(_true(pc.equal(exits, LOST_EXIT_STATUS)), pc.is_null(reason))
    lost = pc.or_(
        _is(found["error_type"], AGENT_LOST),
        pc.and_(
            pc.invert(_is(found["state"], "timed_out")),
            pc.or_(vanished, _is(reason, AGENT_STOPPED)),
        ),
    )
    states = pa.array(RAN_AND_FAILED)
    ran_and_failed = pc.and_(
        pc.and_(started, pc.invert(passed)), pc.is_in(_text(found["state"]), value_set=states)
    )
    return pc.and_(ran_and_failed, pc.invert(lost))


def _columns(table: pa.Table, kind: SpanKind, names: Mapping[str, str]) -> dict[str, Any]:
    ours = table.filter(pc.equal(_text(table["name"]), kind.value))
    return {name: ours[column] for name, column in names.items()}


def _text(values: Any) -> Any:
    return values.cast(pa.string())


def _first(*columns: Any) -> Any:
    """The first that says something; a step may have an empty label."""
    texts = map(_text, columns)
    said = [pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text) for text in texts]
    return _words(pc.coalesce(*said))


def _words(values: Any, *, unknown: str = UNKNOWN) -> Any:
    return pc.fill_null(_text(values), unknown)


def _is(values: Any, word: str) -> Any:
    return _true(pc.equal(_text(values), word))


def _true(values: Any) -> Any:
    return pc.fill_null(values, False)  # noqa: FBT003  # Arrow's argument


def _ns(later: Any, earlier: Any) -> Any:
    return pc.subtract(later.cast(pa.int64()), earlier.cast(pa.int64()))


def _seconds(values: Any, *, per_second: float = 1e3) -> Any:
    # Not safe: whole nanoseconds of more than 104 days are rounded, by less than a millisecond.
    return pc.divide(values.cast(pa.float64(), safe=False), per_second)

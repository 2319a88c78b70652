"""Rows of the span table to measurements: an item for each build and each job. Pure.

A block step's job is none: it is a person's wait, and would be a day among minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver import selection
from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.units import NS_PER_HOUR, NS_PER_MS

ORGANIZATION, PIPELINE = "buildkite.organization.slug", "buildkite.pipeline.slug"
SOURCE, STATE = "buildkite.build.source", "buildkite.build.state"
STEP, EXIT_STATUS, PASSED = (
    "buildkite.step.key",
    "buildkite.job.exit_status",
    "buildkite.job.passed",
)
QUEUE = "buildkite.agent.queue"


class Measure(IntEnum):
    """What is measured of a build or job: its place among an item's numbers (`measurements.py`)."""

    COUNT = 0  # that it ended; the number is when, and always there
    DURATION_MS = 1  # from its span's start to its end, if it ran
    WAIT_MS = 2  # for an agent, if it got one


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric: a sum where it counts, a histogram where it measures."""

    name: str
    unit: str
    meaning: str
    kind: SpanKind
    measure: Measure
    attributes: tuple[str, ...]


BUILD_ATTRIBUTES = (ORGANIZATION, PIPELINE, SOURCE, STATE)
JOB_ATTRIBUTES = (ORGANIZATION, PIPELINE, SOURCE, STEP, EXIT_STATUS, PASSED)

# fmt: off
INSTRUMENTS: Sequence[Instrument] = (
    Instrument("buildkite.builds.count", "{build}", "Builds that finished.", SpanKind.BUILD, Measure.COUNT, BUILD_ATTRIBUTES),
    Instrument("buildkite.builds.duration", "ms", "How long builds took.", SpanKind.BUILD, Measure.DURATION_MS, BUILD_ATTRIBUTES),
    Instrument("buildkite.jobs.count", "{job}", "Jobs that ended.", SpanKind.JOB, Measure.COUNT, JOB_ATTRIBUTES),
    Instrument("buildkite.jobs.duration", "ms", "How long jobs ran.", SpanKind.JOB, Measure.DURATION_MS, JOB_ATTRIBUTES),
    Instrument("buildkite.jobs.wait_time", "ms", "How long jobs waited for an agent.", SpanKind.JOB, Measure.WAIT_MS, (ORGANIZATION, QUEUE)),
)
# fmt: on

# Of which columns a series is made.
DIMENSIONS = tuple(dict.fromkeys(name for one in INSTRUMENTS for name in one.attributes))


JOB_TYPE, STARTED, WAIT_MS = (
    "buildkite.job.type",
    "buildkite.job.started",
    "buildkite.job.wait_time_ms",
)
# What is read of the span table.
COLUMNS = (*selection.COLUMNS, "name", "end", JOB_TYPE, STARTED, WAIT_MS, *DIMENSIONS)
MANUAL = "manual"
# Stands for a measure that there is none of.
NONE = -1
# An item's one piece: end in nanoseconds, duration and wait in milliseconds.
BODY = np.dtype("<i8")
NUMBERS = 3


class Series(msgspec.Struct, array_like=True, frozen=True):
    """What measurements have in common that are added up: an item's `shared`.

    Attributes:
        hour: The hour in which they ended, since 1970.
        kind: The span's.
        values: Of `DIMENSIONS`, in their order.
    """

    hour: int
    kind: str
    values: tuple[str | int | bool | None, ...]


def items(rows: SpanRows) -> list[Item]:
    """The builds and jobs among `rows`, each with its series and its numbers."""
    chosen = rows.filter(_counted(rows.table))
    if not len(chosen):
        return []
    ends = np.asarray(chosen.column("end").cast(pa.int64()))
    bodies = np.column_stack((ends, _durations_ms(chosen, ends), _waits_ms(chosen)))
    content = bodies.astype(BODY).tobytes()
    size = NUMBERS * BODY.itemsize
    return [
        Item(
            chosen.trace_ids[build],
            span_id,
            start_ns,
            name,
            (content[at * size : (at + 1) * size],),
            size,
            shared=shared,
        )
        for at, (build, span_id, start_ns, name, shared) in enumerate(
            zip(
                chosen.build_of_row.tolist(),
                chosen.span_ids,
                chosen.start_ns.tolist(),
                chosen.names(),
                _series(chosen, ends),
                strict=True,
            )
        )
    ]


def _counted(table: pa.Table) -> Any:
    """Whether a row is a build, or a job that no person is."""
    kinds = pa.array([SpanKind.BUILD, SpanKind.JOB], pa.string())
    manual = pc.fill_null(pc.equal(table[JOB_TYPE].cast(pa.string()), MANUAL), fill_value=False)
    counted = pc.and_(pc.is_in(table["name"].cast(pa.string()), kinds), pc.invert(manual))
    return np.asarray(counted, bool)


def _durations_ms(rows: SpanRows, ends: Any) -> Any:
    """A job that ended without having started has no duration: its span is its wait."""
    started = np.asarray(pc.fill_null(rows.column(STARTED), fill_value=True))
    return np.where(started, (ends - rows.start_ns) // NS_PER_MS, NONE)


def _waits_ms(rows: SpanRows) -> Any:
    return np.asarray(pc.fill_null(rows.column(WAIT_MS), NONE))


def _series(chosen: SpanRows, ends: Any) -> list[bytes]:
    """The encoded series of each row, the same object for equal ones."""
    keys = ["hour", "name", *DIMENSIONS]
    rows = chosen.table.select(keys[1:]).append_column("hour", pa.array(ends // NS_PER_HOUR))
    rows = rows.append_column("row", pa.array(np.arange(len(rows))))
    grouped = rows.group_by(keys, use_threads=False).aggregate([("row", "list")])
    found = [b""] * len(rows)
    *columns, members = (grouped[name].to_pylist() for name in (*keys, "row_list"))
    for hour, kind, *values, of_series in zip(*columns, members, strict=True):
        encoded = msgspec.msgpack.encode(Series(hour, kind, tuple(values)))
        for row in of_series:
            found[row] = encoded
    return found

"""Span rows to measurements: one item for each build and each job. Pure.

Block steps are not measured: they wait for a person, and would put days among minutes.
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
    """A quantity measured of a build or job; its value is the index in an item's numbers."""

    COUNT = 0  # one per ended build or job; its number is the end time and never missing
    DURATION_MS = 1  # from start to end of its span, if it ran
    WAIT_MS = 2  # the wait for an agent, if it got one


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric: a sum for counts, a histogram for durations."""

    name: str
    unit: str
    description: str
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

# The columns whose values identify a series.
DIMENSIONS = tuple(dict.fromkeys(name for one in INSTRUMENTS for name in one.attributes))


JOB_TYPE, STARTED, WAIT_MS = (
    "buildkite.job.type",
    "buildkite.job.started",
    "buildkite.job.wait_time_ms",
)
# The columns read from the span table.
COLUMNS = (*selection.COLUMNS, "name", "end", JOB_TYPE, STARTED, WAIT_MS, *DIMENSIONS)
MANUAL = "manual"
# The number of a measure that an item does not have.
MISSING = -1
# The type of the numbers in an item's only piece: its end in nanoseconds, then its duration and
# wait in milliseconds.
NUMBER_TYPE = np.dtype("<i8")
NUMBERS = 3


class Series(msgspec.Struct, array_like=True, frozen=True):
    """The properties that aggregated measurements have in common: the `shared` of an item.

    Attributes:
        hour: The hour in which they ended, in hours since 1970.
        kind: The span kind.
        values: The values of `DIMENSIONS`, in order.
    """

    hour: int
    kind: str
    values: tuple[str | int | bool | None, ...]


def items(rows: SpanRows) -> list[Item]:
    """Return the builds and jobs among `rows` as items, each with its series and numbers."""
    measured = rows.filter(_is_measured(rows.table))
    if not len(measured):
        return []
    ends = np.asarray(measured.column("end").cast(pa.int64()))
    numbers = np.column_stack((ends, _durations_ms(measured, ends), _waits_ms(measured)))
    content = numbers.astype(NUMBER_TYPE).tobytes()
    size = NUMBERS * NUMBER_TYPE.itemsize
    return [
        Item(
            measured.trace_ids[build],
            span_id,
            start_ns,
            name,
            (content[at * size : (at + 1) * size],),
            size,
            shared=shared,
        )
        for at, (build, span_id, start_ns, name, shared) in enumerate(
            zip(
                measured.build_of_row.tolist(),
                measured.span_ids,
                measured.start_ns.tolist(),
                measured.names(),
                _series(measured, ends),
                strict=True,
            )
        )
    ]


def _is_measured(table: pa.Table) -> Any:
    """Return a boolean for each row: whether it is a build, or a job other than a block step."""
    kinds = pa.array([SpanKind.BUILD, SpanKind.JOB], pa.string())
    manual = pc.fill_null(pc.equal(table[JOB_TYPE].cast(pa.string()), MANUAL), fill_value=False)
    counted = pc.and_(pc.is_in(table["name"].cast(pa.string()), kinds), pc.invert(manual))
    return np.asarray(counted, bool)


def _durations_ms(rows: SpanRows, ends: Any) -> Any:
    """Return durations; a job that ended without starting has none, its span is its wait."""
    started = np.asarray(pc.fill_null(rows.column(STARTED), fill_value=True))
    return np.where(started, (ends - rows.start_ns) // NS_PER_MS, MISSING)


def _waits_ms(rows: SpanRows) -> Any:
    return np.asarray(pc.fill_null(rows.column(WAIT_MS), MISSING))


def _series(measured: SpanRows, ends: Any) -> list[bytes]:
    """Return the encoded series of each row; equal series are the same object."""
    keys = ["hour", "name", *DIMENSIONS]
    rows = measured.table.select(keys[1:]).append_column("hour", pa.array(ends // NS_PER_HOUR))
    rows = rows.append_column("row", pa.array(np.arange(len(rows))))
    grouped = rows.group_by(keys, use_threads=False).aggregate([("row", "list")])
    encoded_series = [b""] * len(rows)
    *columns, members = (grouped[name].to_pylist() for name in (*keys, "row_list"))
    for hour, kind, *values, of_series in zip(*columns, members, strict=True):
        encoded = msgspec.msgpack.encode(Series(hour, kind, tuple(values)))
        for row in of_series:
            encoded_series[row] = encoded
    return encoded_series

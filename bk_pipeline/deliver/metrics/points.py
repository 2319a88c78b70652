"""Metrics of builds and jobs: span rows to measurements, measurements to data points. Pure.

Each build and each job is an item with its measurements. Block steps are not measured: they wait
for a person, and would put days among minutes. A data point aggregates the measurements of one
metric, hour and set of attributes. It is a delta: it adds measurements and never withdraws any. Its
window starts with its hour and ends with the last of its measurements, plus a fraction of a
millisecond derived from the ids of its builds and jobs. Therefore:

- Points of the same hour that are sent at different times (because the builds of the hour are in
  several batches, or one of them was late) have different times. A backend that keeps one value per
  series and time does not lose any of them.
- The same measurements sent twice make the same points, which such a backend keeps once.
- No point's time is a full hour, which a backend would count as the next hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver import selection
from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.jobs import STACK_ERROR
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline.units import MS_PER_S, NS_PER_HOUR, NS_PER_MS

ORGANIZATION, PIPELINE = "buildkite.organization.slug", "buildkite.pipeline.slug"
SOURCE, STATE = "buildkite.build.source", "buildkite.build.state"
STEP, EXIT_STATUS, PASSED = (
    "buildkite.step.key",
    "buildkite.job.exit_status",
    "buildkite.job.passed",
)
QUEUE = "buildkite.agent.queue"
PIPELINE_NAME, RUN_STATE = "cicd.pipeline.name", "cicd.pipeline.run.state"
RESULT, ERROR_TYPE, COMPONENT = "cicd.pipeline.result", "error.type", "cicd.system.component"
# Columns that are added to those of the span table: `RESULT` and `ERROR_TYPE` of builds that
# ended without executing anything.
PENDING_RESULT, PENDING_ERROR_TYPE = "pending result", "pending error type"


class Measure(IntEnum):
    """A quantity measured of a build or job; its value is the index in an item's numbers."""

    COUNT = 0  # one per ended build or job; its number is the end time and never missing
    DURATION_MS = 1  # from start to end of its span, if it ran
    WAIT_MS = 2  # the wait for an agent, if it got one
    PENDING_MS = 3  # from a build's start to its first job's start, or else to its end
    EXECUTING_MS = 4  # from a build's first job's start to its end
    RUN_ERROR = 5  # one per job that failed
    SYSTEM_ERROR = 6  # one per job that the CI system made fail


# Measures that are added up instead of distributed over a histogram.
COUNTS = frozenset({Measure.COUNT, Measure.RUN_ERROR, Measure.SYSTEM_ERROR})


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric, or the part of it that has one value of a constant attribute.

    Counts are sums, durations are histograms, and what the sensor observes are gauges.

    Attributes:
        name: The name of the metric.
        unit: Its unit. Durations in `s` are measured in milliseconds and converted.
        description: Its description.
        kind: The span kind, or kind of event, that it measures.
        measure: What it measures. None: nothing of a span; its points are gauges.
        attributes: The names of the attributes of its points.
        columns: The column of an attribute's values, if it is not the one with the same name.
        constant: Attributes that have the same value on all points.
    """

    name: str
    unit: str
    description: str
    kind: str
    measure: Measure | None
    attributes: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    constant: tuple[tuple[str, str], ...] = ()

    @property
    def is_gauge(self) -> bool:
        """Whether its points are gauges."""
        return self.measure is None

    @property
    def is_histogram(self) -> bool:
        """Whether its points are histograms."""
        return not self.is_gauge and self.measure not in COUNTS


BUILD_ATTRIBUTES = (ORGANIZATION, PIPELINE, SOURCE, STATE)
JOB_ATTRIBUTES = (ORGANIZATION, PIPELINE, SOURCE, STEP, EXIT_STATUS, PASSED)
# The conventions let a pipeline's name identify it; several organizations may have the same name.
RUN_ATTRIBUTES = (ORGANIZATION, PIPELINE_NAME)
RESULT_ATTRIBUTES = (*RUN_ATTRIBUTES, RESULT, ERROR_TYPE)
PENDING, EXECUTING, FINALIZING = "pending", "executing", "finalizing"
RUN_DURATION = "Duration of a pipeline run grouped by pipeline, state and result."
WHILE_PENDING = {RESULT: PENDING_RESULT, ERROR_TYPE: PENDING_ERROR_TYPE}

# fmt: off
BUILDKITE_INSTRUMENTS: Sequence[Instrument] = (
    Instrument("buildkite.builds.count", "{build}", "Builds that finished.", SpanKind.BUILD, Measure.COUNT, BUILD_ATTRIBUTES),
    Instrument("buildkite.builds.duration", "ms", "How long builds took.", SpanKind.BUILD, Measure.DURATION_MS, BUILD_ATTRIBUTES),
    Instrument("buildkite.jobs.count", "{job}", "Jobs that ended.", SpanKind.JOB, Measure.COUNT, JOB_ATTRIBUTES),
    Instrument("buildkite.jobs.duration", "ms", "How long jobs ran.", SpanKind.JOB, Measure.DURATION_MS, JOB_ATTRIBUTES),
    Instrument("buildkite.jobs.wait_time", "ms", "How long jobs waited for an agent.", SpanKind.JOB, Measure.WAIT_MS, (ORGANIZATION, QUEUE)),
)
# Names, units and descriptions of OpenTelemetry's semantic conventions.
CONVENTION_INSTRUMENTS: Sequence[Instrument] = (
    Instrument("cicd.pipeline.run.duration", "s", RUN_DURATION, SpanKind.BUILD, Measure.PENDING_MS, RESULT_ATTRIBUTES, WHILE_PENDING, ((RUN_STATE, PENDING),)),
    Instrument("cicd.pipeline.run.duration", "s", RUN_DURATION, SpanKind.BUILD, Measure.EXECUTING_MS, RESULT_ATTRIBUTES, constant=((RUN_STATE, EXECUTING),)),
    Instrument("cicd.pipeline.run.errors", "{error}", "The number of errors encountered in pipeline runs (eg. compile, test failures).", SpanKind.JOB, Measure.RUN_ERROR, (*RUN_ATTRIBUTES, ERROR_TYPE)),
    Instrument("cicd.system.errors", "{error}", "The number of errors in a component of the CI/CD system (eg. controller, scheduler, agent).", SpanKind.JOB, Measure.SYSTEM_ERROR, (ORGANIZATION, COMPONENT, ERROR_TYPE)),
)
INSTRUMENTS = (*BUILDKITE_INSTRUMENTS, *CONVENTION_INSTRUMENTS)
ACTIVE_RUNS = Instrument("cicd.pipeline.run.active", "{run}", "The number of pipeline runs currently active in the system by state.", SpanKind.BUILD, None, (*RUN_ATTRIBUTES, RUN_STATE))
# fmt: on

# The columns whose values identify a series.
DIMENSIONS = tuple(
    dict.fromkeys(one.columns.get(name, name) for one in INSTRUMENTS for name in one.attributes)
)
# Those that are computed instead of read.
COMPUTED = (COMPONENT, PENDING_RESULT, PENDING_ERROR_TYPE)


JOB_TYPE, STARTED, WAIT_MS = (
    "buildkite.job.type",
    "buildkite.job.started",
    "buildkite.job.wait_time_ms",
)
STATUS, QUEUE_MS = "status", "buildkite.build.queue_ms"
TASK_RESULT, SIGNAL_REASON = "cicd.pipeline.task.run.result", "buildkite.job.signal_reason"
_READ = ("name", "end", STATUS, JOB_TYPE, STARTED, WAIT_MS, QUEUE_MS, TASK_RESULT, SIGNAL_REASON)
# The columns read from the span table.
COLUMNS = (*selection.COLUMNS, *_READ, *(one for one in DIMENSIONS if one not in COMPUTED))
MANUAL = "manual"
# Values of `cicd.system.component`, and the `error.type` and result that tell them apart.
CONTROLLER, SCHEDULER, AGENT = "controller", "scheduler", "agent"
EXPIRED, SYSTEM_RESULT = "expired", "error"
# The number of a measure that an item does not have.
MISSING = -1
# The type of the numbers in an item's only piece, one for each measure.
NUMBER_TYPE = np.dtype("<i8")
NUMBERS = len(Measure)


class Series(msgspec.Struct, array_like=True, frozen=True):
    """The properties that aggregated measurements have in common: the `shared` of an item.

    Attributes:
        hour: The hour in which they ended, in hours since 1970.
        kind: The span kind, or kind of event.
        values: The values of the dimensions, in order.
    """

    hour: int
    kind: str
    values: tuple[str | int | bool | None, ...]


def measured_items(rows: SpanRows) -> list[Item]:
    """Return the builds and jobs among `rows` as items, each with its series and numbers."""
    measured = rows.filter(_is_measured(rows.table))
    if not len(measured):
        return []
    ends = np.asarray(measured.column("end").cast(pa.int64()))
    content = _numbers(measured, ends).astype(NUMBER_TYPE).tobytes()
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
                _encoded_series(measured, ends),
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


def _numbers(rows: SpanRows, ends: Any) -> Any:
    """Return the numbers of each row, in the order of `Measure`."""
    spans_ms = (ends - rows.start_ns) // NS_PER_MS
    started = np.asarray(pc.fill_null(rows.column(STARTED), fill_value=True))
    is_build = np.asarray(pc.equal(_texts(rows, "name"), SpanKind.BUILD), bool)
    queue_ms = np.asarray(pc.fill_null(rows.column(QUEUE_MS), MISSING))
    executed = is_build & (queue_ms >= 0)
    pending_ms = np.minimum(np.where(executed, queue_ms, spans_ms), spans_ms)
    failed, by_system = _failures(rows)
    measured = {
        Measure.COUNT: ends,
        # A job that ended without starting has no duration: its span is its wait.
        Measure.DURATION_MS: np.where(started, spans_ms, MISSING),
        Measure.WAIT_MS: np.asarray(pc.fill_null(rows.column(WAIT_MS), MISSING)),
        Measure.PENDING_MS: np.where(is_build, pending_ms, MISSING),
        Measure.EXECUTING_MS: np.where(executed, spans_ms - pending_ms, MISSING),
        Measure.RUN_ERROR: np.where(failed & ~by_system, 1, MISSING),
        Measure.SYSTEM_ERROR: np.where(by_system, 1, MISSING),
    }
    return np.column_stack([measured[one] for one in Measure])


def _failures(rows: SpanRows) -> tuple[Any, Any]:
    """Return two booleans for each row: whether it failed, and whether the CI system failed it.

    A failure that the step allows (`soft_fail`) is none, as in the status of spans.
    """
    failed = np.asarray(_equal(_texts(rows, STATUS), SpanStatus.ERROR), bool)
    by_system = np.asarray(_equal(_texts(rows, TASK_RESULT), SYSTEM_RESULT), bool)
    return failed, failed & by_system


def _texts(rows: SpanRows, column: str) -> pa.Array:
    return rows.column(column).cast(pa.string())


def _equal(texts: pa.Array, text: str) -> pa.Array:
    return pc.fill_null(pc.equal(texts, text), fill_value=False)


def _dimensions(rows: SpanRows) -> pa.Table:
    """Return the columns of `DIMENSIONS`, the computed ones included."""
    _, by_system = _failures(rows)
    none = pa.scalar(None, pa.string())
    component = pc.if_else(
        _equal(_texts(rows, SIGNAL_REASON), STACK_ERROR),
        CONTROLLER,
        pc.if_else(_equal(_texts(rows, ERROR_TYPE), EXPIRED), SCHEDULER, AGENT),
    )
    pending = pc.is_null(rows.column(QUEUE_MS))
    computed = {
        COMPONENT: pc.if_else(pa.array(by_system), component, none),
        PENDING_RESULT: pc.if_else(pending, _texts(rows, RESULT), none),
        PENDING_ERROR_TYPE: pc.if_else(pending, _texts(rows, ERROR_TYPE), none),
    }
    return pa.table(
        {name: computed[name] if name in computed else rows.column(name) for name in DIMENSIONS}
    )


def _encoded_series(measured: SpanRows, ends: Any) -> list[bytes]:
    """Return the encoded series of each row; equal series are the same object."""
    keys = ["hour", "name", *DIMENSIONS]
    rows = _dimensions(measured).append_column("name", measured.column("name"))
    rows = rows.append_column("hour", pa.array(ends // NS_PER_HOUR))
    rows = rows.append_column("row", pa.array(np.arange(len(rows))))
    grouped = rows.group_by(keys, use_threads=False).aggregate([("row", "list")])
    encoded_series = [b""] * len(rows)
    *columns, members = (grouped[name].to_pylist() for name in (*keys, "row_list"))
    for hour, kind, *values, of_series in zip(*columns, members, strict=True):
        encoded = msgspec.msgpack.encode(Series(hour, kind, tuple(values)))
        for row in of_series:
            encoded_series[row] = encoded
    return encoded_series


# The defaults of the specification and of the SDK.
MAX_BUCKETS = 160
MAX_SCALE = 20
_FACTOR = math.ldexp(1 / math.log(2), MAX_SCALE)


@dataclass(frozen=True, slots=True)
class Histogram:
    """An exponential histogram: `counts[n]` has the values in (b^(offset+n), b^(offset+n+1)].

    The base b is 2^(2^-scale). Zeros are counted separately.
    """

    scale: int
    zero_count: int
    offset: int
    counts: list[int]
    count: int
    sum: float
    min: float
    max: float


def histogram(values: Any, *, divisor: int = 1) -> Histogram:
    """Return the histogram of an array of integers, each divided by `divisor`. Pure.

    The integers are added up before they are divided, so that the sum does not depend on their
    order.

    Args:
        values: At least one integer; all are in the range 0 to 2^53 - 1.
        divisor: What to divide by, like 1,000 for seconds from milliseconds.
    """
    positive = values[values > 0] / divisor if divisor > 1 else values[values > 0]
    scale, offset, counts = _buckets(positive) if len(positive) else (0, 0, [])
    return Histogram(
        scale=scale,
        zero_count=len(values) - len(positive),
        offset=offset,
        counts=counts,
        count=len(values),
        sum=int(values.sum()) / divisor,
        min=int(values.min()) / divisor,
        max=int(values.max()) / divisor,
    )


def _buckets(values: Any) -> tuple[int, int, list[int]]:
    """Return scale, offset and counts at the finest scale that needs at most `MAX_BUCKETS`."""
    indexes = _indexes(values)
    low, high = int(indexes.min()), int(indexes.max())
    shift = 0
    while (high >> shift) - (low >> shift) >= MAX_BUCKETS:
        shift += 1
    offset = low >> shift
    # A bucket at one scale is two buckets at the next finer scale.
    counts = np.bincount((indexes >> shift) - offset)
    return MAX_SCALE - shift, offset, counts.tolist()


def _indexes(values: Any) -> Any:
    """Return the bucket index of each value at the finest scale.

    Uses `math.log`, like the SDK: numpy's logarithm sometimes differs in the last digit, which
    changes the bucket of a value at an edge. Powers of two are edges, so they are computed without
    a logarithm.
    """
    logs = np.fromiter(map(math.log, values.tolist()), np.float64, len(values))
    indexes = np.floor(logs * _FACTOR).astype(np.int64)
    mantissas, exponents = np.frexp(values)
    edges = mantissas == 0.5  # noqa: PLR2004  # frexp's form of a power of two
    indexes[edges] = ((exponents[edges].astype(np.int64) - 1) << MAX_SCALE) - 1
    return indexes


Attributes = tuple[tuple[str, str | int | bool], ...]
ENDS = Measure.COUNT
_series_decoder = msgspec.msgpack.Decoder(Series)


@dataclass(frozen=True, slots=True)
class Point:
    """A data point. If `histogram` is None, its value is `count`. A gauge has `start_ns` 0."""

    instrument: Instrument
    attributes: Attributes
    start_ns: int
    time_ns: int
    count: int
    histogram: Histogram | None

    @property
    def metric(self) -> str:
        """The name of its metric."""
        return self.instrument.name


def data_points(
    items: Sequence[Item],
    instruments: Sequence[Instrument] = INSTRUMENTS,
    dimensions: Sequence[str] = DIMENSIONS,
) -> Iterator[Point]:
    """Yield the data points of `items`, by metric, then by hour.

    Args:
        items: Items with a series and numbers, like those of `measured_items`.
        instruments: The metrics.
        dimensions: The names of the values of the items' series.
    """
    if not items:
        return
    codes: dict[bytes, int] = {}
    of_item = [codes.setdefault(item.shared, len(codes)) for item in items]
    series = [_series_decoder.decode(one) for one in codes]
    numbers = np.frombuffer(
        b"".join(piece for item in items for piece in item.pieces), NUMBER_TYPE
    ).reshape(-1, NUMBERS)
    ids = np.frombuffer(b"".join(item.item_id for item in items), ">u8").astype(np.uint64)
    values = [dict(zip(dimensions, one.values, strict=True)) for one in series]
    for instrument in instruments:
        attributes = [_attributes(one, instrument) for one in values]
        yield from _points(instrument, series, attributes, np.array(of_item), numbers, ids)


def _points(  # noqa: PLR0917  # called once, above
    instrument: Instrument,
    series: Sequence[Series],
    attributes_of: Sequence[Attributes],
    of_item: Any,
    numbers: Any,
    ids: Any,
) -> Iterator[Point]:
    streams = [(one.hour, at) for one, at in zip(series, attributes_of, strict=True)]
    order = {one: n for n, one in enumerate(sorted(dict.fromkeys(streams), key=itemgetter(0)))}
    ours = [one.kind == instrument.kind for one in series]
    places = np.array([order[one] for one in streams])[of_item]
    measured = numbers[:, instrument.measure] >= 0
    rows = np.flatnonzero(np.array(ours)[of_item] & measured)
    rows = rows[np.argsort(places[rows], kind="stable")]
    if not len(rows):
        return
    firsts = np.flatnonzero(np.diff(places[rows], prepend=-1))
    times = _times(
        np.maximum.reduceat(numbers[rows, ENDS], firsts), np.add.reduceat(ids[rows], firsts)
    )
    named = list(order)
    for group, time_ns in zip(np.split(rows, firsts[1:]), times.tolist(), strict=True):
        hour, attributes = named[places[group[0]]]
        values = numbers[group, instrument.measure]
        divisor = MS_PER_S if instrument.unit == "s" else 1
        yield Point(
            instrument,
            attributes,
            hour * NS_PER_HOUR,
            time_ns,
            len(group),
            histogram(values, divisor=divisor) if instrument.is_histogram else None,
        )


def _attributes(
    values: Mapping[str, str | int | bool | None], instrument: Instrument
) -> Attributes:
    """Return the attribute names and values of a series, without null values."""
    found = ((name, values[instrument.columns.get(name, name)]) for name in instrument.attributes)
    return (*((name, value) for name, value in found if value is not None), *instrument.constant)


def _times(latest: Any, id_sums: Any) -> Any:
    """Return the end times of windows.

    Args:
        latest: The time of the last measurement of each window.
        id_sums: A number for each window, derived from the ids of its measurements.
    """
    fractions = (id_sums % np.uint64(NS_PER_MS - 1)).astype(np.int64) + 1
    return latest // NS_PER_MS * NS_PER_MS + fractions

"""The span table: traces to Arrow columns, and rows back to what a person or an encoder reads.

A row is a span; the columns are the identity columns and then `FIELDS`, in their order.
Rows of one build stand together, the root first. Columns whose values repeat are
dictionary-encoded: they take a third of the memory, and an encoder can treat each distinct
value once. Values are read once a build where the field is the build's, and a column at a
time, which is what makes this fast (`benchmarks/`).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.columns import REPEATED, Columns, arrow_type, codes_of
from bk_pipeline.spans.fields import FIELDS, Field, FieldType
from bk_pipeline.spans.model import Link, SpanKind, SpanOptions, SpanStatus, Trace
from bk_pipeline.spans.records import Build, decode_build
from bk_pipeline.spans.timing import MOMENT, Times
from bk_pipeline.spans.tree import DEFAULTS, spans_for_build
from bk_pipeline.text import VALUE_LIMIT_BYTES, cut

__all__ = ["SCHEMA", "VALUE_LIMIT_BYTES", "attributes_of", "cut", "rows", "table_of"]

LINKS = pa.list_(pa.struct([("trace_id", pa.string()), ("span_id", pa.string())]))
KINDS = pa.array(map(str, SpanKind), pa.string())
STATUSES = pa.array(map(str, SpanStatus), pa.string())

IDENTITY_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("trace_id", REPEATED),
    ("span_id", pa.string()),
    ("parent_span_id", pa.string()),
    ("name", REPEATED),
    ("start", MOMENT),
    ("end", MOMENT),
    ("status", REPEATED),
    ("links", LINKS),
)


# What they mean; also for `docs/spans.md`.
IDENTITY_MEANINGS = {
    "trace_id": "The build's UUID without dashes: 32 hex digits.",
    "span_id": "16 hex digits; a job's are the last ones of its UUID.",
    "parent_span_id": "Absent on the root.",
    "name": "The kind: " + ", ".join(f"`{kind}`" for kind in SpanKind) + ".",
    "start": "When it began.",
    "end": "When it ended; never before `start`.",
    "status": "`unset`, `ok` or `error`.",
    "links": "Spans that this one is due to: `trace_id`, `span_id`.",
}

SCHEMA = pa.schema([*IDENTITY_COLUMNS, *((field.name, arrow_type(field)) for field in FIELDS)])


def table_of(traces: Sequence[Trace], *, without: Container[str] = ()) -> pa.Table:
    """The spans of `traces` as a table of `SCHEMA`, in their order.

    Args:
        traces: What to put into it.
        without: Names of fields whose columns stay null.
    """
    columns = Columns(traces)
    arrays = list(_identity(traces, columns))
    for field in FIELDS:
        left_out = field.name in without
        nothing = pa.nulls(len(columns.spans), arrow_type(field)) if left_out else None
        arrays.append(nothing or columns.column(field))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _identity(traces: Sequence[Trace], columns: Columns) -> Iterator[pa.Array]:
    spans = columns.spans
    trace_ids = pa.array([trace.trace_id for trace in traces], pa.string())
    yield pa.DictionaryArray.from_arrays(columns.owners("trace").numbers, trace_ids)
    yield pa.array([span.span_id for span in spans], pa.string())
    yield pa.array([span.parent_id for span in spans], pa.string())
    yield pa.DictionaryArray.from_arrays(columns.kinds, KINDS)
    yield pa.array([span.start_ns for span in spans], pa.int64()).cast(MOMENT)
    yield pa.array([span.end_ns for span in spans], pa.int64()).cast(MOMENT)
    codes = codes_of([span.status for span in spans], SpanStatus)
    yield pa.DictionaryArray.from_arrays(codes, STATUSES)
    yield _links([span.links for span in spans])


def _links(links: Sequence[Sequence[Link]]) -> pa.Array:
    ends = np.cumsum([0, *map(len, links)], dtype=np.int32)
    flat = [link for some in links if some for link in some]
    trace_ids = pa.array([link.trace_id for link in flat], pa.string())
    span_ids = pa.array([link.span_id for link in flat], pa.string())
    structs = pa.StructArray.from_arrays([trace_ids, span_ids], type=LINKS.value_type)
    return pa.ListArray.from_arrays(ends, structs)


def rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Each span as a plain object: for people and tests, not for a hot path.

    `trace_id`, `span_id`, `parent_span_id` (absent on roots), `name`, `start_unix_nano`,
    `end_unix_nano`, `status`, `attributes`, `resource`, `links`. Attributes without a value
    are absent; lists are lists; a map's keys are attributes of their own.
    """
    moments = ("start", "end")
    for batch in table.to_batches(max_chunksize=1_000):
        for name in moments:
            at = batch.schema.get_field_index(name)
            batch = batch.set_column(at, name, batch.column(at).cast(pa.int64()))  # noqa: PLW2901  # the same rows, times as numbers
        for row in batch.to_pylist():
            yield _span_object(row)


def _span_object(row: dict[str, Any]) -> dict[str, Any]:
    span = {"trace_id": row["trace_id"], "span_id": row["span_id"]}
    if row["parent_span_id"] is not None:
        span["parent_span_id"] = row["parent_span_id"]
    attributes: dict[str, Any] = {}
    resource: dict[str, Any] = {"service.name": "buildkite"}
    for field in FIELDS:
        value = row[field.name]
        if value is not None:
            attributes_of(field, value, into=resource if field.resource else attributes)
    return span | {
        "name": row["name"],
        "start_unix_nano": row["start"],
        "end_unix_nano": row["end"],
        "status": row["status"],
        "attributes": attributes,
        "resource": resource,
        "links": row["links"],
    }


def attributes_of(field: Field, value: Any, *, into: dict[str, Any]) -> None:
    """Put a table value into `into` as the attribute, or attributes, that it stands for."""
    if field.type is FieldType.MAP:
        prefix = field.name.removesuffix("*")
        for key, one in msgspec.json.decode(value).items():
            into[prefix + key] = one
    elif field.type is FieldType.STRINGS:
        into[field.name] = msgspec.json.decode(value)
    else:
        into[field.name] = value


# The times that a build's root needs, and those that nearly every job has; others are parsed
# when they come up.
BUILD_TIMES = attrgetter("created_at", "finished_at")
JOB_TIMES = attrgetter("created_at", "runnable_at", "started_at", "finished_at")


def traces_of(
    payloads: Iterable[bytes | msgspec.Raw], *, options: SpanOptions = DEFAULTS
) -> Iterator[Trace | RecordError | None]:
    """What each payload becomes, in order: its trace, None if the build has not finished, or
    the error that says why it cannot be made into spans.
    """
    builds = [decode_or_error(payload) for payload in payloads]
    times = times_of([build for build in builds if isinstance(build, Build)])
    for build in builds:
        if isinstance(build, RecordError):
            yield build
            continue
        try:
            yield spans_for_build(build, times=times, options=options)
        except RecordError as exc:
            yield exc


def table_of_good(
    traces: list[Trace], *, without: Collection[str] = ()
) -> tuple[pa.Table, list[RecordError]]:
    """The table of `traces`, and why those are not in it whose values no column takes.

    Args:
        traces: Of any number of builds.
        without: Names of columns to leave out.
    """
    try:
        return table_of(traces, without=without), []
    except (pa.ArrowException, ValueError, OverflowError) as exc:
        if len(traces) == 1:
            # Arrow's own words quote the value.
            reason = f"a value does not fit its column ({type(exc).__name__})"
            return table_of([]), [RecordError(reason, record_id=traces[0].build.id)]
        middle = len(traces) // 2
        halves = [
            table_of_good(half, without=without) for half in (traces[:middle], traces[middle:])
        ]
        tables, errors = zip(*halves, strict=True)
        return pa.concat_tables(tables), [error for some in errors for error in some]


def times_of(builds: Sequence[Build]) -> Times:
    """The times of `builds` and of all their jobs."""
    jobs = chain.from_iterable(build.jobs or () for build in builds)
    texts = chain(map(BUILD_TIMES, builds), map(JOB_TIMES, jobs))
    times = Times()
    times.read(list(chain.from_iterable(texts)))
    return times


def decode_or_error(payload: bytes | msgspec.Raw) -> Build | RecordError:
    """The build in `payload`, or the error that says why it cannot be read."""
    try:
        return decode_build(payload)
    except RecordError as exc:
        return exc

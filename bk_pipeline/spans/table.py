"""The span table: its schema, payloads to traces, traces to a table, and rows to plain objects.

Each row is a span. The columns are the identity columns, then `FIELDS` in their order. The
rows of a build are adjacent, the root first. Columns with repeated values are
dictionary-encoded, which takes a third of the memory and lets an encoder process each distinct
value once. The table is built a column at a time (`columns.py`); `benchmarks/` measures it.
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
from bk_pipeline.spans.columns import DICTIONARY, MOMENT, Columns, arrow_type, enum_codes
from bk_pipeline.spans.fields import FIELDS, INSIDE, OF_BUILD, Field, FieldType
from bk_pipeline.spans.model import Link, SpanKind, SpanOptions, SpanStatus, Trace
from bk_pipeline.spans.organizations import Names
from bk_pipeline.spans.records import Build, decode_build
from bk_pipeline.spans.timing import Times
from bk_pipeline.spans.tree import DEFAULTS, spans_for_build
from bk_pipeline.text import VALUE_LIMIT_BYTES, truncate

__all__ = ["SCHEMA", "VALUE_LIMIT_BYTES", "add_attributes", "rows", "table_of", "truncate"]

LINKS = pa.list_(pa.struct([("trace_id", pa.string()), ("span_id", pa.string())]))

IDENTITY_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("trace_id", DICTIONARY),
    ("span_id", pa.string()),
    ("parent_span_id", pa.string()),
    ("name", DICTIONARY),
    ("start", MOMENT),
    ("end", MOMENT),
    ("status", DICTIONARY),
    ("links", LINKS),
)


def _schema(fields: Iterable[Field]) -> pa.Schema:
    return pa.schema([*IDENTITY_COLUMNS, *((field.name, arrow_type(field)) for field in fields)])


SCHEMA = _schema(FIELDS)
# The columns that spans from a build's payload can have, and those that spans inside of jobs can.
BUILD_SCHEMA = _schema(field for field in FIELDS if field.kinds & OF_BUILD)
DETAIL_SCHEMA = _schema(field for field in FIELDS if field.kinds & INSIDE)


def table_of(traces: Sequence[Trace], *, without: Container[str] = ()) -> pa.Table:
    """Return the spans of `traces`, in their order, as a table with `SCHEMA`.

    Costs are null, see `costs.with_costs`; so is what spans inside of jobs have.

    Args:
        traces: The traces.
        without: Names of fields whose columns stay null.
    """
    columns = Columns(traces)
    arrays = list(_identity_arrays(traces, columns))
    for field in FIELDS:
        excluded = field.name in without
        nulls = pa.nulls(len(columns.spans), arrow_type(field)) if excluded else None
        arrays.append(nulls or columns.column(field))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _identity_arrays(traces: Sequence[Trace], columns: Columns) -> Iterator[pa.Array]:
    spans = columns.spans
    trace_ids = pa.array([trace.trace_id for trace in traces], pa.string())
    yield pa.DictionaryArray.from_arrays(columns.owners("trace").indices, trace_ids)
    yield pa.array([span.span_id for span in spans], pa.string())
    yield pa.array([span.parent_id for span in spans], pa.string())
    # Not module constants: the first array of Python values makes pyarrow import pandas.
    kinds, statuses = (pa.array(map(str, of), pa.string()) for of in (SpanKind, SpanStatus))
    yield pa.DictionaryArray.from_arrays(columns.kinds, kinds)
    yield pa.array([span.start_ns for span in spans], pa.int64()).cast(MOMENT)
    yield pa.array([span.end_ns for span in spans], pa.int64()).cast(MOMENT)
    codes = enum_codes([span.status for span in spans], SpanStatus)
    yield pa.DictionaryArray.from_arrays(codes, statuses)
    yield _links_array([span.links for span in spans])


def _links_array(links: Sequence[Sequence[Link]]) -> pa.Array:
    ends = np.cumsum([0, *map(len, links)], dtype=np.int32)
    flat = [link for span_links in links if span_links for link in span_links]
    trace_ids = pa.array([link.trace_id for link in flat], pa.string())
    span_ids = pa.array([link.span_id for link in flat], pa.string())
    structs = pa.StructArray.from_arrays([trace_ids, span_ids], type=LINKS.value_type)
    return pa.ListArray.from_arrays(ends, structs)


def rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield each span as a plain object, for people and tests; slow.

    Its keys are `trace_id`, `span_id`, `parent_span_id` (absent on roots), `name`,
    `start_unix_nano`, `end_unix_nano`, `status`, `attributes`, `resource` and `links`.
    Attributes without a value are absent, lists are Python lists, and each key of a map is an
    attribute.
    """
    for batch in table.to_batches(max_chunksize=1_000):
        for name in ("start", "end"):
            index = batch.schema.get_field_index(name)
            batch = batch.set_column(index, name, batch.column(index).cast(pa.int64()))  # noqa: PLW2901  # the same rows, times as numbers
        # Spans of one kind have about half of the columns.
        used = [one for one in FIELDS if batch[one.name].null_count < batch.num_rows]
        names = [name for name, _ in IDENTITY_COLUMNS] + [one.name for one in used]
        for row in batch.select(names).to_pylist():
            yield _span_object(row, used)


def _span_object(row: dict[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    span = {"trace_id": row["trace_id"], "span_id": row["span_id"]}
    if row["parent_span_id"] is not None:
        span["parent_span_id"] = row["parent_span_id"]
    attributes: dict[str, Any] = {}
    resource: dict[str, Any] = {"service.name": "buildkite"}
    for field in fields:
        value = row[field.name]
        if value is not None:
            add_attributes(field, value, into=resource if field.resource else attributes)
    return span | {
        "name": row["name"],
        "start_unix_nano": row["start"],
        "end_unix_nano": row["end"],
        "status": row["status"],
        "attributes": attributes,
        "resource": resource,
        "links": row["links"],
    }


def add_attributes(field: Field, value: Any, *, into: dict[str, Any]) -> None:
    """Add the attribute, or for a map the attributes, of a value of the span table to `into`."""
    if field.type is FieldType.MAP:
        prefix = field.name.removesuffix("*")
        for key, item in msgspec.json.decode(value).items():
            into[prefix + key] = item
    elif field.type is FieldType.STRINGS:
        into[field.name] = msgspec.json.decode(value)
    else:
        into[field.name] = value


# Times that the root of a build needs, and that nearly every job has. The others are parsed
# when they are looked up.
BUILD_TIMES = attrgetter("created_at", "finished_at")
JOB_TIMES = attrgetter("created_at", "runnable_at", "started_at", "finished_at")


def traces_of(
    payloads: Iterable[bytes | msgspec.Raw],
    *,
    options: SpanOptions = DEFAULTS,
    names: Names | None = None,
) -> Iterator[Trace | RecordError | None]:
    """Yield the result of each payload, in order.

    It is the build's trace, None if the build has not finished, or the error that says why
    the payload cannot be transformed.

    Args:
        payloads: Builds as the API sends them.
        options: Which optional spans and links to create.
        names: The names of organizations and clusters.
    """
    builds = [decode_or_error(payload) for payload in payloads]
    times = times_of([build for build in builds if isinstance(build, Build)])
    for build in builds:
        if isinstance(build, RecordError):
            yield build
            continue
        try:
            trace = spans_for_build(build, times=times, options=options)
        except RecordError as exc:
            yield exc
            continue
        if trace is not None and names is not None:
            trace.origin = names.origin(build)
        yield trace


def table_and_errors(
    traces: list[Trace], *, without: Collection[str] = ()
) -> tuple[pa.Table, list[RecordError]]:
    """Return the table of `traces`, and an error for each trace with a value that fits no column.

    Args:
        traces: The traces; those with an error are not in the table.
        without: Names of fields whose columns stay null.
    """
    try:
        return table_of(traces, without=without), []
    except (pa.ArrowException, ValueError, OverflowError) as exc:
        if len(traces) == 1:
            # Arrow's message quotes the value.
            reason = f"a value does not fit its column ({type(exc).__name__})"
            return table_of([]), [RecordError(reason, record_id=traces[0].build.id)]
        middle = len(traces) // 2
        halves = [
            table_and_errors(half, without=without) for half in (traces[:middle], traces[middle:])
        ]
        tables, errors = zip(*halves, strict=True)
        return pa.concat_tables(tables), [error for some in errors for error in some]


def times_of(builds: Sequence[Build]) -> Times:
    """Return the parsed times of `builds` and of all their jobs."""
    jobs = chain.from_iterable(build.jobs or () for build in builds)
    texts = chain(map(BUILD_TIMES, builds), map(JOB_TIMES, jobs))
    times = Times()
    times.preload(list(chain.from_iterable(texts)))
    return times


def decode_or_error(payload: bytes | msgspec.Raw) -> Build | RecordError:
    """Return the build in `payload`, or the error that says why it cannot be decoded."""
    try:
        return decode_build(payload)
    except RecordError as exc:
        return exc

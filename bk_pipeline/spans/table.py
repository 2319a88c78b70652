"""The span table: traces to Arrow columns, and rows back to what a person or an encoder reads.

A row is a span; the columns are the identity columns and then `FIELDS`, in their order.
Rows of one build stand together, the root first. Columns whose values repeat are
dictionary-encoded: they take a third of the memory, and an encoder can treat each distinct
value once. Values are read once a build where the field is the build's, and a column at a
time, which is what makes this fast (`benchmarks/`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.spans.fields import FIELDS, Field, FieldType
from bk_pipeline.spans.model import Span, SpanKind, Trace
from bk_pipeline.spans.text import VALUE_LIMIT_BYTES, cut

__all__ = ["SCHEMA", "VALUE_LIMIT_BYTES", "attributes_of", "cut", "rows", "table_of"]

REPEATED = pa.dictionary(pa.int32(), pa.string())
LINKS = pa.list_(pa.struct([("trace_id", pa.string()), ("span_id", pa.string())]))
MOMENT = pa.timestamp("ns", tz="UTC")

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


def _arrow_type(field: Field) -> pa.DataType:
    if field.type is FieldType.INT:
        return pa.int64()
    if field.type is FieldType.BOOL:
        return pa.bool_()
    return pa.string() if field.distinct else REPEATED


SCHEMA = pa.schema([*IDENTITY_COLUMNS, *((field.name, _arrow_type(field)) for field in FIELDS)])


def table_of(traces: Sequence[Trace], *, without: Container[str] = ()) -> pa.Table:
    """The spans of `traces` as a table of `SCHEMA`, in their order.

    Args:
        traces: What to put into it.
        without: Names of fields whose columns stay null.
    """
    spans = [span for trace in traces for span in trace.spans]
    rows = _Rows(traces, spans)
    columns = list(_identity(traces, spans, rows))
    for field in FIELDS:
        left_out = field.name in without
        columns.append(pa.nulls(len(spans), _arrow_type(field)) if left_out else rows.column(field))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


class _Rows:
    """Which rows belong to which build, and which are of which kinds."""

    def __init__(self, traces: Sequence[Trace], spans: list[Span]) -> None:
        self.traces = traces
        self.spans = spans
        self.builds = np.repeat(
            np.arange(len(traces), dtype=np.int32), [len(trace.spans) for trace in traces]
        )
        codes = {kind: code for code, kind in enumerate(SpanKind)}
        self.kinds = np.fromiter((codes[span.kind] for span in spans), np.int8, len(spans))
        self._places: dict[frozenset[SpanKind], tuple[list[Span], pa.Array]] = {}
        self._made: dict[object, pa.Array] = {}

    def column(self, field: Field) -> pa.Array:
        """The field's values in all rows; null where a span is not of the field's kinds.

        Made once for all fields that have the same values under several names.
        """
        key = (field.source, field.value, field.kinds, field.type, field.distinct)
        if key not in self._made:
            self._made[key] = self._make(field)
        return self._made[key]

    def _make(self, field: Field) -> pa.Array:
        get = field.getter
        if field.per_build:
            values = _array(field, list(map(get, self.traces)))
            return values.take(self._build_places(field.kinds))
        spans, places = self._of_kinds(field.kinds)
        values = _array(field, list(map(get, spans)))
        return values if spans is self.spans else values.take(places)

    def _build_places(self, kinds: frozenset[SpanKind]) -> pa.Array:
        return pa.array(self.builds, mask=None if len(kinds) == len(SpanKind) else ~self._is(kinds))

    def _of_kinds(self, kinds: frozenset[SpanKind]) -> tuple[list[Span], pa.Array]:
        """The spans of `kinds`, and for each row its place among them, null if it is not."""
        if len(kinds) == len(SpanKind):
            return self.spans, None
        if kinds not in self._places:
            chosen = self._is(kinds)
            places = np.cumsum(chosen, dtype=np.int32) - 1
            members = [self.spans[row] for row in np.flatnonzero(chosen)]
            self._places[kinds] = members, pa.array(places, mask=~chosen)
        return self._places[kinds]

    def _is(self, kinds: frozenset[SpanKind]) -> Any:
        return np.isin(self.kinds, [code for code, kind in enumerate(SpanKind) if kind in kinds])


def _array(field: Field, values: list[Any]) -> pa.Array:
    if field.type in {FieldType.INT, FieldType.BOOL}:
        return pa.array(values, _arrow_type(field))
    strings = pa.array(values, pa.string())
    if field.distinct:
        return _short(strings)
    encoded = strings.dictionary_encode()
    if field.type is FieldType.STRING or field.type is FieldType.JSON:
        words = encoded.dictionary
        short = _short(words)
        if short is not words:
            return pa.DictionaryArray.from_arrays(encoded.indices, short)
    return encoded


def _short(strings: pa.Array) -> pa.Array:
    """The same strings, those cut that are longer than a backend keeps."""
    if (pc.max(pc.binary_length(strings)).as_py() or 0) <= VALUE_LIMIT_BYTES:
        return strings
    return pa.array([None if one is None else cut(one) for one in strings.to_pylist()], pa.string())


def _identity(traces: Sequence[Trace], spans: list[Span], rows: _Rows) -> Iterator[pa.Array]:
    trace_ids = pa.array([trace.trace_id for trace in traces], pa.string())
    yield pa.DictionaryArray.from_arrays(pa.array(rows.builds), trace_ids)
    yield pa.array([span.span_id for span in spans], pa.string())
    yield pa.array([span.parent_id for span in spans], pa.string())
    yield pa.DictionaryArray.from_arrays(
        pa.array(rows.kinds, pa.int32()), pa.array([str(kind) for kind in SpanKind])
    )
    yield pa.array([span.start_ns for span in spans], pa.int64()).cast(MOMENT)
    yield pa.array([span.end_ns for span in spans], pa.int64()).cast(MOMENT)
    yield pa.array([span.status for span in spans], pa.string()).dictionary_encode()
    yield pa.array(
        [
            [{"trace_id": link.trace_id, "span_id": link.span_id} for link in span.links]
            for span in spans
        ],
        LINKS,
    )


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

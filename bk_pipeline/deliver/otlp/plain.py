"""The reference OTLP encoder: one span at a time, with OpenTelemetry's own protobuf classes.

Tests compare the fast encoder (`codec.py`) with this one. It also encodes the rare spans that have
to be trimmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from bk_pipeline import __version__
from bk_pipeline.deliver.encoding import RESOURCE_FIELDS, STATUS_CODES, otel_kind
from bk_pipeline.deliver.otlp.shape import (
    FLAGS_LOCAL,
    SAMPLE_RATE,
    SCOPE_NAME,
    SPAN_FIELDS,
    common_attributes,
    link_flags,
)
from bk_pipeline.deliver.resource import service_name
from bk_pipeline.deliver.sampling import rate_of, trace_state
from bk_pipeline.spans.fields import SCHEMA_URL, Field
from bk_pipeline.spans.table import add_attributes
from bk_pipeline.text import truncate
from bk_pipeline.units import INT64

Row = Mapping[str, Any]
KINDS = {"server": Span.SPAN_KIND_SERVER, "internal": Span.SPAN_KIND_INTERNAL}


def raw_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table, with times as nanoseconds since 1970."""
    for name in ("start", "end"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table[name].cast(pa.int64()))
    for batch in table.to_batches(max_chunksize=1_000):
        yield from batch.to_pylist()


def request(
    rows: Iterator[Row],
    common: Mapping[str, str],
    thresholds: Mapping[bytes, int] | None = None,
    *,
    rate_attribute: bool = False,
    service_template: str = "",
) -> ExportTraceServiceRequest:
    """Return the export request of the spans of `rows`, grouped by resource."""
    by_resource: dict[bytes, ResourceSpans] = {}
    for row in rows:
        build_resource = resource(row, common, service_template)
        group = by_resource.setdefault(
            build_resource.SerializeToString(),
            ResourceSpans(
                resource=build_resource,
                scope_spans=[
                    ScopeSpans(
                        scope=InstrumentationScope(name=SCOPE_NAME, version=__version__),
                        schema_url=SCHEMA_URL,
                    )
                ],
                schema_url=SCHEMA_URL,
            ),
        )
        threshold = (thresholds or {}).get(bytes.fromhex(row["trace_id"]), 0)
        group.scope_spans[0].spans.append(span(row, threshold, rate_attribute=rate_attribute))
    return ExportTraceServiceRequest(resource_spans=by_resource.values())


def span(row: Row, threshold: int = 0, *, rate_attribute: bool = False) -> Span:
    """Return the span of a row, including its links.

    Args:
        row: The row of the span table.
        threshold: The sampling threshold of its build; 0 if it is not sampled.
        rate_attribute: Write the weight as Honeycomb's attribute instead of `tracestate`.
    """
    rate = {SAMPLE_RATE: rate_of(threshold)} if threshold and rate_attribute else {}
    return Span(
        trace_id=bytes.fromhex(row["trace_id"]),
        span_id=bytes.fromhex(row["span_id"]),
        trace_state=trace_state(threshold) if threshold and not rate_attribute else "",
        parent_span_id=bytes.fromhex(row["parent_span_id"] or ""),
        name=row["name"],
        kind=kind(row["name"]),
        start_time_unix_nano=row["start"],
        end_time_unix_nano=row["end"],
        attributes=_key_values(rate | _attributes(row, SPAN_FIELDS)),
        links=links(row),
        status=status(row["status"]),
        flags=FLAGS_LOCAL,
    )


def kind(name: str) -> Span.SpanKind.ValueType:
    """Return the OTLP span kind of a span's name."""
    return KINDS[otel_kind(name)]


def status(name: str) -> Status:
    """Return the OTLP status of a status name in the span table."""
    return Status(code=STATUS_CODES[name])  # type: ignore[arg-type]


def links(row: Row) -> list[Span.Link]:
    """Return the links of a row's span."""
    return [
        Span.Link(
            trace_id=bytes.fromhex(link["trace_id"]),
            span_id=bytes.fromhex(link["span_id"]),
            flags=link_flags(row["trace_id"], link["trace_id"]),
        )
        for link in row["links"] or ()
    ]


def resource(row: Row, common: Mapping[str, str], service_template: str = "") -> Resource:
    """Return the resource of a row's build; its own values take precedence over `common`."""
    defaults = {field.name: common.get(field.name) for field in RESOURCE_FIELDS}
    own = {name: row[name] if row[name] is not None else value for name, value in defaults.items()}
    shared = common_attributes(common, service_name(service_template, own))
    return Resource(attributes=_key_values(shared | _attributes(own, RESOURCE_FIELDS)))


def _attributes(row: Row, fields: tuple[Field, ...]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for field in fields:
        if row[field.name] is not None:
            add_attributes(field, row[field.name], into=attributes)
    return attributes


def _key_values(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [key_value(key, value) for key, value in attributes.items() if value is not None]


def key_value(key: str, value: Any) -> KeyValue:
    """Return an attribute; strings are truncated, integers over 64 bits become doubles."""
    return KeyValue(key=key, value=_any_value(value))


def _any_value(value: Any) -> AnyValue:
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case str():
            return AnyValue(string_value=truncate(value))
        case list():
            return AnyValue(array_value=ArrayValue(values=map(_any_value, value)))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=map(key_value, value, value.values())))
        case _:
            return _number(value)


def _number(value: float) -> AnyValue:
    if isinstance(value, int) and value in INT64:
        return AnyValue(int_value=value)
    return AnyValue(double_value=value)

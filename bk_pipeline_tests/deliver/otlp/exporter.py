"""The same spans through OpenTelemetry's SDK: the bytes of its OTLP exporter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from bk_pipeline import __version__
from bk_pipeline.deliver.otlp.shape import SPAN_FIELDS
from bk_pipeline.spans.table import rows

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
ORDER = {field.name: position for position, field in enumerate(SPAN_FIELDS)}


def exported(table: pa.Table, service_name: str) -> bytes:
    """Return the body that the exporter would send for the rows of `table`."""
    return encode_spans(
        [readable(span, service_name) for span in rows(table)]
    ).SerializePartialToString()


def readable(span: Mapping[str, Any], service_name: str) -> ReadableSpan:
    trace_id = int(span["trace_id"], 16)
    parent = span.get("parent_span_id")
    return ReadableSpan(
        name=span["name"],
        context=SpanContext(trace_id, int(span["span_id"], 16), False, SAMPLED),
        parent=parent and SpanContext(trace_id, int(parent, 16), False, SAMPLED),
        resource=Resource(span["resource"] | {"service.name": service_name}, SCHEMA_URL),
        attributes=dict(sorted(span["attributes"].items(), key=position)),
        links=[linked(link, trace_id) for link in span["links"]],
        kind=SpanKind.INTERNAL if parent else SpanKind.SERVER,
        instrumentation_scope=InstrumentationScope("bk_pipeline", __version__, SCHEMA_URL),
        status=Status(StatusCode[span["status"].upper()]),
        start_time=span["start_unix_nano"],
        end_time=span["end_unix_nano"],
    )


def linked(link: Mapping[str, str], trace_id: int) -> Link:
    """Return a link as created by a program that received the other span's context."""
    other = int(link["trace_id"], 16)
    return Link(SpanContext(other, int(link["span_id"], 16), other != trace_id, SAMPLED))


def position(attribute: tuple[str, Any]) -> int:
    """Return the position of an attribute in our order; keys of a map keep theirs."""
    name = attribute[0]
    if name in ORDER:
        return ORDER[name]
    return next(
        at
        for field, at in ORDER.items()
        if name.startswith(field.removesuffix("*")) and "*" in field
    )

"""The OpenTelemetry SDK, made lossless: its processor is flushed before its queue is full.

A `TracerProvider` for each resource, since a resource is the provider's; all share one
`BatchSpanProcessor` with its default sizes, and an id generator that gives the span table's
ids. Without what ours does besides: no ledger, no order in time, and what the exporter
gives up is lost, though here that ends the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from benchmarks.measured import Work
from benchmarks.parts import tables_in
from benchmarks.routes.rows import Row, rows_of
from benchmarks.sink import WARM_UP
from bk_pipeline import __version__
from bk_pipeline.spans.fields import FIELDS, SCHEMA_URL

QUEUE = 2_048
PLACE = "bench"
RESOURCE = [field.name for field in FIELDS if field.resource]
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
CODES = {"unset": StatusCode.UNSET, "ok": StatusCode.OK, "error": StatusCode.ERROR}
# By default the SDK drops attributes beyond 128.
LIMITS = SpanLimits(max_span_attributes=SpanLimits.UNSET)


def otlp(part: str, url: str) -> Work:
    """Return the work of sending from memory."""
    tables = list(tables_in(part))
    sent(rows_of([tables[0][:1_000]]), url, WARM_UP)
    return lambda: {"spans": sent(rows_of(tables), url, PLACE)}


def sent(rows: Iterable[tuple[Row, Row]], url: str, place: str) -> int:
    """Send the rows, and return how many were accepted."""
    exporter = _Exporter(endpoint=f"{url}/{place}/v1/traces", compression=Compression.NoCompression)
    sdk = _Sdk(BatchSpanProcessor(exporter, max_queue_size=QUEUE))
    count = 0
    for identity, attributes in rows:
        sdk.record(identity, attributes)
        count += 1
        if count % QUEUE == 0:
            sdk.processor.force_flush()
    sdk.processor.shutdown()  # type: ignore[no-untyped-call]
    if exporter.failed:
        raise RuntimeError(f"{exporter.failed} of {count} spans failed")
    return count


class _Exporter(OTLPSpanExporter):
    """Records failed exports, which the processor does not."""

    failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            self.failed += len(spans)
        return result


class _Ids(IdGenerator):
    """Generates the ids of the span that is being recorded."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Sdk:
    """Tracers by resource."""

    def __init__(self, processor: BatchSpanProcessor) -> None:
        self.processor = processor
        self._ids = _Ids()
        self._tracers: dict[tuple[object, ...], Tracer] = {}

    def record(self, identity: Row, attributes: Row) -> None:
        """Start the span and end it."""
        resource = {name: attributes.pop(name) for name in RESOURCE if name in attributes}
        self._ids.trace_id = int(identity["trace_id"], 16)
        self._ids.span_id = int(identity["span_id"], 16)
        parent = identity["parent_span_id"]
        context = Context() if parent is None else _context(identity["trace_id"], parent)
        span = self._tracer(resource).start_span(
            identity["name"],
            context=context,
            kind=SpanKind.SERVER if parent is None else SpanKind.INTERNAL,
            attributes=attributes,
            links=[_link(identity["trace_id"], **one) for one in identity["links"]],
            start_time=identity["start"],
        )
        span.set_status(Status(CODES[identity["status"]]))
        span.end(identity["end"])

    def _tracer(self, resource: Row) -> Tracer:
        key = tuple(resource.items())
        if key not in self._tracers:
            provider = TracerProvider(
                resource=Resource({"service.name": "buildkite", **resource}, SCHEMA_URL),
                id_generator=self._ids,
                span_limits=LIMITS,
                shutdown_on_exit=False,
            )
            provider.add_span_processor(self.processor)
            self._tracers[key] = provider.get_tracer(
                "bk_pipeline", __version__, schema_url=SCHEMA_URL
            )
        return self._tracers[key]


def _context(trace_id: str, span_id: str) -> Context:
    return set_span_in_context(NonRecordingSpan(_ids(trace_id, span_id, remote=False)), Context())


def _link(own: str, trace_id: str, span_id: str) -> Link:
    return Link(_ids(trace_id, span_id, remote=trace_id != own))


def _ids(trace_id: str, span_id: str, *, remote: bool) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=remote, trace_flags=SAMPLED)

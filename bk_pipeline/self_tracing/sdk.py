"""A tracer that sends spans with the OpenTelemetry SDK. Imported only when self-tracing is on.

The tracer provider is not the global one, so other tracing in the same process is unaffected.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, use_span

from bk_pipeline import __version__
from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.otlp.endpoint import connected
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.display import Log
from bk_pipeline.errors import PipelineError
from bk_pipeline.telemetry import SpanHandle, Value, use_tracer

SERVICE = "bk_pipeline"
# The SDK drops spans beyond this. A run has one for each of its requests and batches.
QUEUE_SIZE = 16_384
_log = Log(logging.getLogger(__name__))


@contextmanager
def traced(endpoint: OtlpSettings, *, trace_id: int) -> Iterator[None]:
    """Trace a block as one trace; its spans have been sent, or are lost, when it ends."""
    resource = {**endpoint.resource, "service.name": SERVICE, "service.version": __version__}
    provider = TracerProvider(
        resource=Resource(resource), id_generator=_FixedTraceId(trace_id), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(_Exporter(endpoint), max_queue_size=QUEUE_SIZE))
    try:
        with use_tracer(_SdkTracer(provider.get_tracer(SERVICE, __version__))):
            yield
    finally:
        provider.shutdown()


class _SdkTracer:
    """A `telemetry.Tracer` that makes spans of the SDK."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Value], *, leaf: bool, outgoing: bool
    ) -> Iterator[SpanHandle]:
        kind = SpanKind.CLIENT if outgoing else SpanKind.INTERNAL
        span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        current = use_span(span, record_exception=False, set_status_on_exception=False)
        try:
            with nullcontext() if leaf else current:
                yield _SdkSpan(span)
        except GeneratorExit:
            raise  # a generator was closed early, which is no error
        except BaseException as exc:
            # Only our own messages are known to hold no secret.
            description = str(exc) if isinstance(exc, PipelineError) else None
            span.set_status(Status(StatusCode.ERROR, description))
            span.set_attribute("error.type", type(exc).__qualname__)
            raise
        finally:
            span.end()


class _SdkSpan:
    """A `telemetry.SpanHandle` on a span of the SDK."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def set_attributes(self, attributes: Mapping[str, Value]) -> None:
        self._span.set_attributes(attributes)
        if "error.type" in attributes:
            self._span.set_status(StatusCode.ERROR)


class _FixedTraceId(RandomIdGenerator):
    """Puts all root spans in one trace: those of a run's assets, which do not share a parent."""

    def __init__(self, trace_id: int) -> None:
        self._trace_id = trace_id

    def generate_trace_id(self) -> int:
        return self._trace_id


class _Exporter(SpanExporter):
    """Sends batches as the OTLP loader does, so that the variables mean the same.

    The SDK's own exporter logs its URL when it fails, and a URL may contain a key. A batch that
    fails is not retried: no user data is in it.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        self._endpoint = connected(settings, clock=SystemClock())

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            self._endpoint.post(encode_spans(spans).SerializeToString())
        except PipelineError as exc:
            _log.warning(f"{len(spans)} self-tracing spans were lost: {exc}")
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._endpoint.close()

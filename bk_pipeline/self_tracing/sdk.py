"""Listening with the OpenTelemetry SDK. Imported only where self-tracing is on.

The provider is no global one: whatever else in the process is traced goes on as it did.
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
from bk_pipeline.deliver.otlp.endpoint import Endpoint
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.errors import PipelineError
from bk_pipeline.telemetry import Note, Value, listening

SERVICE = "bk_pipeline"
# Beyond this the SDK drops spans: those of a run are as many as its requests and batches.
QUEUE = 16_384
_log = logging.getLogger(__name__)


@contextmanager
def traced(endpoint: OtlpSettings, *, trace_id: int) -> Iterator[None]:
    """A block whose doings are spans of one trace; all have left, or are lost, when it ends."""
    exporter = _Exporter(endpoint)
    resource = {**endpoint.resource, "service.name": SERVICE, "service.version": __version__}
    provider = TracerProvider(
        resource=Resource(resource), id_generator=_OneTrace(trace_id), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE))
    try:
        with listening(_Tracing(provider.get_tracer(SERVICE, __version__))):
            yield
    finally:
        provider.shutdown()


class _Tracing:
    """The listener: a span for each block."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Value], *, leaf: bool, outgoing: bool
    ) -> Iterator[Note]:
        kind = SpanKind.CLIENT if outgoing else SpanKind.INTERNAL
        span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        current = use_span(span, record_exception=False, set_status_on_exception=False)
        try:
            with nullcontext() if leaf else current:
                yield _SpanNote(span)
        except GeneratorExit:
            raise  # whoever read a generator had enough
        except BaseException as exc:
            # What others say in their errors may be anything; ours hold no secret.
            said = str(exc) if isinstance(exc, PipelineError) else None
            span.set_status(Status(StatusCode.ERROR, said))
            span.set_attribute("error.type", type(exc).__qualname__)
            raise
        finally:
            span.end()


class _SpanNote:
    def __init__(self, span: Span) -> None:
        self._span = span

    def add(self, attributes: Mapping[str, Value]) -> None:
        self._span.set_attributes(attributes)
        if "error.type" in attributes:
            self._span.set_status(StatusCode.ERROR)


class _OneTrace(RandomIdGenerator):
    """All roots are of the one trace: those of a run's assets, which know nothing of each other."""

    def __init__(self, trace_id: int) -> None:
        self._trace_id = trace_id

    def generate_trace_id(self) -> int:
        return self._trace_id


class _Exporter(SpanExporter):
    """Sends by the loaders' own way, so that the variables mean the same and logs hold no secret.

    What the official exporter logs when it fails names the URL, in which a key may stand. A
    batch that fails is not tried again: it is nobody's data.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        self._endpoint = Endpoint(settings, clock=SystemClock())

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            self._endpoint.post(encode_spans(spans).SerializeToString())
        except PipelineError as exc:
            _log.warning("%d spans of self-tracing are lost: %s", len(spans), exc)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._endpoint.close()

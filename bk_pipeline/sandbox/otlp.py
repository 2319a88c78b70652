"""An OTLP/HTTP receiver, as in a collector: `/v1/traces` and `/v1/metrics`.

Requests are decoded with OpenTelemetry's own protobuf classes. Spans with invalid ids and invalid
data points are rejected and the others stored: a partial success. The protocol does not define
error messages, so their wording is a guess. JSON bodies, which real receivers accept, are
rejected.

Sources: OTLP specification, "OTLP/HTTP"; `trace.proto`, `metrics.proto` and their services.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]  # has no stubs
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # as above
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bk_pipeline.sandbox.bodies import ApiError
from bk_pipeline.sandbox.faults import Faults
from bk_pipeline.sandbox.otlp_messages import PointStore, StoredSpan, parse_points, parse_spans

MAX_BODY_BYTES = 20 * 1024 * 1024
PROTOBUF = "application/x-protobuf"
CONTENT_TYPES = frozenset({PROTOBUF, "application/protobuf"})
_INVALID_IDS = "invalid trace or span id"
_INVALID_POINT = "invalid data point"


def status_body(message: str) -> bytes:
    """The body of an error response: a google.rpc.Status with only a message."""
    body: bytes = Status(message=message).SerializeToString()
    return body


class OtlpService:
    """Receives spans and data points in the way of an OTLP/HTTP receiver.

    Args:
        faults: The pending faults; those of single spans and points are carried out here.
        keep_spans: If False, spans and data points are counted but not stored.
    """

    def __init__(self, faults: Faults, *, keep_spans: bool) -> None:
        self._faults = faults
        self._keep_spans = keep_spans
        self._required: dict[str, str] = {}
        self._lock = Lock()
        self._clear()

    def require_header(self, header: str, value: str | None) -> None:
        """Reject requests from now on unless this header has this value; None removes the rule."""
        self._required.pop(header.lower(), None)
        if value is not None:
            self._required[header.lower()] = value

    def record_request(self, _method: str, _path: str, _query: str) -> None:
        """Count a request."""
        with self._lock:
            self.request_count += 1

    def reset(self) -> None:
        """Forget spans, data points and counts. Required headers stay."""
        with self._lock:
            self._clear()

    def routes(self) -> list[Route]:
        """The routes under `/v1/`."""
        return [
            Route("/v1/traces", self._traces, methods=["POST"]),
            Route("/v1/metrics", self._metrics, methods=["POST"]),
        ]

    def _clear(self) -> None:
        self.metrics = PointStore(keep=self._keep_spans)
        self.spans: list[StoredSpan] = []
        self.request_count = 0
        self.span_count = 0
        self.duplicate_count = 0
        # Hashes use less memory than ids: a day can have a million spans.
        self._seen: set[int] = set()

    async def _traces(self, request: Request) -> Response:
        return await self._respond(request, self._store_spans)

    async def _metrics(self, request: Request) -> Response:
        return await self._respond(request, self._store_points)

    async def _respond(
        self, request: Request, store: Callable[[Request, bytes], bytes]
    ) -> Response:
        body = await request.body()
        try:
            self._check(request)
            with self._lock:
                response = store(request, _decompressed_body(request, body))
        except ApiError as error:
            return Response(status_body(error.message), error.status, media_type=PROTOBUF)
        return Response(response, media_type=PROTOBUF)

    def _check(self, request: Request) -> None:
        """Check the headers of a request.

        Raises:
            ApiError: A required header is missing or wrong, or the body is not declared as protobuf.
        """
        for header, value in self._required.items():
            if request.headers.get(header) != value:
                raise ApiError(401, f"missing or invalid header: {header}")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in CONTENT_TYPES:
            raise ApiError(415, f"unsupported content type: {media_type or 'none'}")

    def _store_spans(self, request: Request, body: bytes) -> bytes:
        """Store the valid spans of a request. Returns the encoded response."""
        export = ExportTraceServiceRequest()
        _decode(body, export)
        received = list(parse_spans(export))
        valid = [span for span in received if span.is_valid]
        invalid = len(received) - len(valid)
        injected, message = self._injected_rejections(request, [span.name for span in valid])
        self._add_spans(valid[: len(valid) - injected])
        response = ExportTraceServiceResponse()
        if invalid or injected or message:
            response.partial_success.CopyFrom(
                ExportTracePartialSuccess(
                    rejected_spans=invalid + injected,
                    error_message=message or (_INVALID_IDS if invalid else ""),
                )
            )
        return _encoded(response)

    def _store_points(self, request: Request, body: bytes) -> bytes:
        """Store the valid data points of a request. Returns the encoded response."""
        export = ExportMetricsServiceRequest()
        _decode(body, export)
        try:
            received = list(parse_points(export))
        except ValueError as exc:
            raise ApiError(400, str(exc)) from exc
        valid = [point for point in received if point.is_valid]
        invalid = len(received) - len(valid)
        injected, message = self._injected_rejections(request, [point.metric for point in valid])
        self.metrics.add(valid[: len(valid) - injected])
        response = ExportMetricsServiceResponse()
        if invalid or injected or message:
            response.partial_success.CopyFrom(
                ExportMetricsPartialSuccess(
                    rejected_data_points=invalid + injected,
                    error_message=message or (_INVALID_POINT if invalid else ""),
                )
            )
        return _encoded(response)

    def _injected_rejections(self, request: Request, names: Sequence[str]) -> tuple[int, str]:
        """How many of the last items a fault rejects, and its message.

        Args:
            request: The request.
            names: The names of the request's valid spans or points, in order.
        """
        fault = self._faults.take_for_events("otlp", request.url.path, names)
        if fault is None or fault.kind != "partial":
            return 0, ""
        return min(int(fault.details["rejected_spans"]), len(names)), fault.details["message"]

    def _add_spans(self, spans: Iterable[StoredSpan]) -> None:
        for span in spans:
            key = hash((span.trace_id, span.span_id))
            self.span_count += 1
            self.duplicate_count += key in self._seen
            self._seen.add(key)
            if self._keep_spans:
                self.spans.append(span)


def _decompressed_body(request: Request, body: bytes) -> bytes:
    """The decompressed body of a request; at most `MAX_BODY_BYTES` + 1 bytes are decompressed.

    Raises:
        ApiError: The body is too large, does not decompress, or has another encoding.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding == "gzip":
        unzip = zlib.decompressobj(wbits=31)
        try:
            body = unzip.decompress(body, MAX_BODY_BYTES + 1)
        except zlib.error as exc:
            raise ApiError(400, "gzip: invalid header or checksum") from exc
        if len(body) <= MAX_BODY_BYTES and not unzip.eof:
            raise ApiError(400, "gzip: unexpected end of the body")
    elif encoding not in {"", "identity"}:
        raise ApiError(400, f"unsupported Content-Encoding: {encoding}")
    if len(body) > MAX_BODY_BYTES:
        raise ApiError(413, "request body too large")
    return body


def _encoded(message: Message) -> bytes:
    body: bytes = message.SerializeToString()
    return body


def _decode(body: bytes, into: Message) -> None:
    try:
        into.ParseFromString(body)
    except DecodeError as exc:
        raise ApiError(400, f"the body is not a valid {type(into).__name__}") from exc

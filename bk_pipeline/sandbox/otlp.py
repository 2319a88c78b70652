"""The OTLP side: `/v1/traces` and `/v1/metrics` as a collector's OTLP/HTTP receiver has them.

Read with OpenTelemetry's own protobuf classes. A span whose ids are none, or a data point that
no backend could use, is rejected and the others are taken: a partial success. Guesses: the words of refusals, which the protocol
leaves open. JSON bodies, which real receivers take, are refused.

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

from bk_pipeline.sandbox.bodies import Refusal
from bk_pipeline.sandbox.faults import Faults
from bk_pipeline.sandbox.otlp_messages import PointStore, StoredSpan, points_in, spans_in

MAX_BODY_BYTES = 20 * 1024 * 1024
PROTOBUF = "application/x-protobuf"
CONTENT_TYPES = frozenset({PROTOBUF, "application/protobuf"})


def status_body(message: str) -> bytes:
    """A refusal's body: a google.rpc.Status with nothing but its message."""
    body: bytes = Status(message=message).SerializeToString()
    return body


class OtlpSide:
    """Takes spans and data points in as an OTLP/HTTP receiver would.

    Args:
        faults: Asked for trouble that concerns single spans or points of a request.
        keep_spans: False: only count them, and data points likewise.
    """

    def __init__(self, faults: Faults, *, keep_spans: bool) -> None:
        self._faults = faults
        self._keep_spans = keep_spans
        self._required: dict[str, str] = {}
        self._lock = Lock()
        self._clear()

    def require_header(self, header: str, value: str | None) -> None:
        """From now on refuse requests without this value in this header; None: no longer."""
        self._required.pop(header.lower(), None)
        if value is not None:
            self._required[header.lower()] = value

    def arrived(self, _method: str, _path: str, _query: str) -> None:
        with self._lock:
            self.request_count += 1

    def reset(self) -> None:
        """Forgets spans, points and counts; required headers stay."""
        with self._lock:
            self._clear()

    def routes(self) -> list[Route]:
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
        # Hashes rather than the ids themselves: a day of a million spans is counted too.
        self._seen: set[int] = set()

    async def _traces(self, request: Request) -> Response:
        return await self._answer(request, self._take)

    async def _metrics(self, request: Request) -> Response:
        return await self._answer(request, self._take_metrics)

    async def _answer(self, request: Request, take: Callable[[Request, bytes], bytes]) -> Response:
        body = await request.body()
        try:
            self._check(request)
            with self._lock:
                answer = take(request, _plain(request, body))
        except Refusal as refusal:
            return Response(status_body(refusal.message), refusal.status, media_type=PROTOBUF)
        return Response(answer, media_type=PROTOBUF)

    def _check(self, request: Request) -> None:
        """Nothing, if the request may pass.

        Raises:
            Refusal: A required header is missing or wrong, or the body is declared as no protobuf.
        """
        for header, value in self._required.items():
            if request.headers.get(header) != value:
                raise Refusal(401, f"missing or invalid header: {header}")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in CONTENT_TYPES:
            raise Refusal(415, f"unsupported content type: {kind or 'none'}")

    def _take(self, request: Request, body: bytes) -> bytes:
        """The answer, and the spans that it does not reject stored."""
        asked = ExportTraceServiceRequest()
        _decode(body, asked)
        found = list(spans_in(asked))
        sound = [span for span in found if span.sound]
        rejected = len(found) - len(sound)
        message = "invalid trace or span id" if rejected else ""
        names = [span.name for span in sound]
        ordered, words = self._ordered(request, names)
        self._store(sound[: len(sound) - ordered])
        answer = ExportTraceServiceResponse()
        if rejected or ordered or message or words:
            answer.partial_success.CopyFrom(
                ExportTracePartialSuccess(
                    rejected_spans=rejected + ordered, error_message=words or message
                )
            )
        return _encoded(answer)

    def _take_metrics(self, request: Request, body: bytes) -> bytes:
        """The answer, and the points that it does not reject stored."""
        asked = ExportMetricsServiceRequest()
        _decode(body, asked)
        try:
            found = list(points_in(asked))
        except ValueError as exc:
            raise Refusal(400, str(exc)) from exc
        sound = [point for point in found if point.sound]
        rejected = len(found) - len(sound)
        message = "invalid data point" if rejected else ""
        ordered, words = self._ordered(request, [point.metric for point in sound])
        self.metrics.add(sound[: len(sound) - ordered])
        answer = ExportMetricsServiceResponse()
        if rejected or ordered or message or words:
            answer.partial_success.CopyFrom(
                ExportMetricsPartialSuccess(
                    rejected_data_points=rejected + ordered, error_message=words or message
                )
            )
        return _encoded(answer)

    def _ordered(self, request: Request, names: Sequence[str]) -> tuple[int, str]:
        """How many of the last things of a request an ordered fault rejects, and its words."""
        fault = self._faults.take_for_events("otlp", request.url.path, names)
        if fault is None or fault.kind != "partial":
            return 0, ""
        return min(int(fault.details["rejected_spans"]), len(names)), fault.details["message"]

    def _store(self, spans: Iterable[StoredSpan]) -> None:
        for span in spans:
            key = hash((span.trace_id, span.span_id))
            self.span_count += 1
            self.duplicate_count += key in self._seen
            self._seen.add(key)
            if self._keep_spans:
                self.spans.append(span)


def _plain(request: Request, body: bytes) -> bytes:
    """The body decompressed, never to more than the largest body allowed.

    Raises:
        Refusal: It is too large, does not decompress, or is compressed in an unknown way.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding == "gzip":
        unzip = zlib.decompressobj(wbits=31)
        try:
            body = unzip.decompress(body, MAX_BODY_BYTES + 1)
        except zlib.error as exc:
            raise Refusal(400, "gzip: invalid header or checksum") from exc
        if len(body) <= MAX_BODY_BYTES and not unzip.eof:
            raise Refusal(400, "gzip: unexpected end of the body")
    elif encoding not in {"", "identity"}:
        raise Refusal(400, f"unsupported Content-Encoding: {encoding}")
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(413, "request body too large")
    return body


def _encoded(message: Message) -> bytes:
    body: bytes = message.SerializeToString()
    return body


def _decode(body: bytes, into: Message) -> None:
    try:
        into.ParseFromString(body)
    except DecodeError as exc:
        raise Refusal(400, f"the body is no {type(into).__name__}") from exc

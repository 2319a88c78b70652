"""OTLP over gRPC: one unary call for each request body, which is the same as over HTTP.

A status code becomes the HTTP status to which the OTLP specification gives the same meaning, so
that `answers.py` interprets both. Imported only if the protocol is gRPC.

Sources: OTLP specification, "OTLP/gRPC"; gRPC's status codes and channel arguments.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import grpc
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # has no stubs
from requests.structures import CaseInsensitiveDict

from bk_pipeline import __version__, telemetry
from bk_pipeline.clock import Clock, grace_period_over
from bk_pipeline.deliver.otlp.answers import PROTOBUF, MessageContext, refusal
from bk_pipeline.deliver.otlp.endpoint import MESSAGE_LIMIT, PostResult
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import Compression
from bk_pipeline.errors import FatalError, PipelineError, ServiceUnavailable
from bk_pipeline.http.answers import unreachable
from bk_pipeline.http.failures import Redactor
from bk_pipeline.http.network import DEFAULT_PORTS, Timeouts
from bk_pipeline.http.session import Response

# gRPC's codes, and the HTTP statuses that mean the same to a client of OTLP: 503 if nothing was
# processed, 504 if that is unknown.
STATUSES = {
    "CANCELLED": 504,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 504,
    "OUT_OF_RANGE": 504,
    "UNIMPLEMENTED": 404,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 504,
    "UNAUTHENTICATED": 401,
}
TOO_LARGE = 413
# How servers in Go, Java and C++ say that a message exceeds their limit.
_SIZE = re.compile(r"larger than|maximum size|too large|exceeds", re.IGNORECASE)
# gRPC tells neither by code nor by type whether the server or the client's own library reports
# UNAVAILABLE. This is what the library says if it made no connection, and if it lost one.
_NOT_CONNECTED = re.compile(
    r"failed to connect|connections to all backends failing|name resolution|dns|handshake",
    re.IGNORECASE,
)
_CONNECTION_LOST = re.compile(
    r"socket closed|reset|recvmsg|sendmsg|goaway|cancelling all calls|stream removed|broken pipe"
    r"|transport|keepalive|ping timeout|disconnect|shutdown",
    re.IGNORECASE,
)
_NO_ANSWER = "Deadline Exceeded"
# The trailer with details of an error, an encoded `google.rpc.Status`.
_DETAILS = "grpc-status-details-bin"
POLL_S = 0.1


class GrpcEndpoint:
    """One OTLP endpoint that is reached by gRPC. Thread-safe.

    Args:
        settings: The settings of the endpoint.
        clock: The clock for the pauses that a server asks for.
        timeouts: The timeouts of each request, instead of those in `settings`.
    """

    def __init__(
        self, settings: OtlpSettings, *, clock: Clock, timeouts: Timeouts | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        # A call has one response, so waiting for a byte of it is waiting for all of it.
        given = timeouts or settings.timeouts
        self._timeout_s = min(given.read_s, given.total_s)
        self._redact = Redactor(settings.headers)
        self._metadata = tuple(settings.headers.items())
        self._channel: Any = None
        self._place = f"The OTLP endpoint {settings.place}"
        self.context = MessageContext(
            self._place,
            settings.endpoint_variable,
            settings.headers_variable,
            self._quote,
            settings.signal,
            grpc=True,
        )

    def post(self, body: bytes) -> PostResult:
        """Send `body` and return the response if it is OK. Raises like `Destination.send`."""
        attributes = {"rpc.system": "grpc", "rpc.method": self._settings.signal.grpc_method}
        with telemetry.leaf_span("grpc", attributes, outgoing=True) as span:
            call = self._call(body)
            try:
                content: bytes = self._wait(call)
            except grpc.RpcError as exc:
                code = exc.code().name
                span.set_attributes({"error.type": code})
                raise self._error(exc, code) from None
        return PostResult(self._response(200, content), len(body))

    def close(self) -> None:
        """Close the connection. Sending again opens a new one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _call(self, body: bytes) -> Any:
        """Start the call and return its future."""
        if grace_period_over():
            raise self._unreachable("abandoned, because the program was asked to stop", sent=False)
        if self._channel is None:
            self._channel = self._connect()
        method = self._channel.unary_unary(self._settings.signal.grpc_method)
        gzip = self._settings.compression is Compression.GZIP
        return method.future(
            body,
            timeout=self._timeout_s,
            metadata=self._metadata,
            compression=grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
        )

    def _wait(self, call: Any) -> bytes:
        """Return the response; give up if the program is stopping."""
        while True:
            with suppress(grpc.FutureTimeoutError):
                content: bytes = call.result(timeout=POLL_S)
                return content
            if grace_period_over():
                call.cancel()
                raise self._unreachable(
                    "abandoned, because the program was asked to stop", sent=True
                )

    def _connect(self) -> Any:
        parts = urlsplit(self._settings.url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        proxy = self._settings.network.proxy_for(parts.scheme, host, port)
        options = [
            ("grpc.primary_user_agent", f"bk_pipeline/{__version__}"),
            # Proxies come from the settings, as for HTTP, and not from gRPC's own variables.
            ("grpc.enable_http_proxy", 1 if proxy else 0),
            *([("grpc.http_proxy", proxy)] if proxy else []),
            ("grpc.max_send_message_length", -1),
            # Retries are ours: gRPC's own ones would send a batch again behind the ledger's back.
            ("grpc.enable_retries", 0),
        ]
        target = f"{parts.hostname}:{port}" if ":" not in host else f"[{host}]:{port}"
        if parts.scheme == "http":
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, self._credentials(), options)

    def _credentials(self) -> Any:
        settings = self._settings
        roots = settings.ca_file or settings.network.ca_bundle or certifi.where()
        certificate, key = settings.client_cert or (None, None)
        return grpc.ssl_channel_credentials(
            _certificates(Path(roots)),
            Path(key).read_bytes() if key else None,
            Path(certificate).read_bytes() if certificate else None,
        )

    def _error(self, exc: Any, code: str) -> PipelineError:
        """Return the error for a call that failed."""
        details = exc.details() or ""
        if code == "DEADLINE_EXCEEDED" and _NO_ANSWER in details:
            waited = f"no complete answer came in time, within {self._timeout_s:.0f} s"
            return self._unreachable(waited, sent=True)
        if code == "UNAVAILABLE" and _NOT_CONNECTED.search(details):
            return self._no_connection(details)
        if code == "UNAVAILABLE" and _CONNECTION_LOST.search(details):
            return self._unreachable(self._quote(details), sent=True)
        status = STATUSES[code]
        if code in {"RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"} and _SIZE.search(details):
            status = TOO_LARGE
        trailers = dict(exc.trailing_metadata() or ())
        body = Status(message=f"{code}: {details}")
        with suppress(ValueError):
            body.details.extend(Status.FromString(trailers.get(_DETAILS, b"")).details)
        response = self._response(status, body.SerializeToString())
        error = refusal(response, context=self.context, now=self._clock.now())
        assert error is not None, "every status in STATUSES is an error"
        return error

    def _no_connection(self, details: str) -> PipelineError:
        if "certificate" in details.lower():
            return FatalError(
                f"{self._place}: the service's TLS certificate cannot be verified. If a proxy "
                "intercepts TLS, or the service has a CA of its own, put the path of its CA bundle "
                f"into {self._settings.certificate_variable}."
            )
        return self._unreachable(self._quote(details), sent=False)

    def _unreachable(self, reason: str, *, sent: bool) -> ServiceUnavailable:
        error = ServiceUnavailable(f"{self._settings.place}: {reason}.", maybe_processed=sent)
        hint = " By convention port 4317 is for gRPC and 4318 for OTLP/HTTP."
        return unreachable(self._place, error, setting=self._settings.endpoint_variable, hint=hint)

    def _response(self, status: int, body: bytes) -> Response:
        headers = CaseInsensitiveDict({"Content-Type": PROTOBUF[0]})
        return Response(status, headers, body, f"gRPC {self._settings.place}", "")

    def _quote(self, text: str) -> str:
        return self._redact.quote(text, limit=MESSAGE_LIMIT)


def _certificates(path: Path) -> bytes:
    """Return the PEM certificates of a file, or of all files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return b"\n".join(one.read_bytes() for one in files if one.is_file())

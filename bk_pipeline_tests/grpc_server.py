"""A real gRPC server in front of the sandbox: it passes requests on and translates the statuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import requests
from google.rpc.status_pb2 import Status

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
PATHS = {TRACES: "/v1/traces", METRICS: "/v1/metrics"}
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    502: grpc.StatusCode.UNKNOWN,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
TOO_LARGE = "grpc: received message larger than max (5242880 vs. 4194304)"
# Passed on by HTTP as well: what a client sets for authentication.
PASSED_ON = ("x-key", "authorization")


def grpc_server(
    behind: str, *, credentials: Any = None, options: tuple[tuple[str, Any], ...] = ()
) -> tuple[grpc.Server, str]:
    """Start a server in front of the OTLP/HTTP endpoint `behind`; return it and its URL."""
    server = grpc.server(ThreadPoolExecutor(8), options=options)
    session = requests.Session()
    session.trust_env = False

    def handler(details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method not in PATHS:
            return None
        headers = {key: value for key, value in details.invocation_metadata if key in PASSED_ON} | {
            "Content-Type": "application/x-protobuf"
        }

        def export(body: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                answer = session.post(
                    behind + PATHS[details.method], data=body, headers=headers, timeout=60
                )
            except requests.RequestException:
                server.stop(0)  # the client sees a connection that is lost in the middle
                raise
            if answer.ok:
                return answer.content
            message = TOO_LARGE if answer.status_code == 413 else message_of(answer)
            context.abort(CODES[answer.status_code], message)
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(export)

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            return handler(details)

    server.add_generic_rpc_handlers((Handlers(),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, f"{'http' if credentials is None else 'https'}://127.0.0.1:{port}"


def message_of(answer: requests.Response) -> str:
    if answer.headers.get("Content-Type", "") == "application/x-protobuf":
        return Status.FromString(answer.content).message
    return answer.text[:200]

"""OTLP over gRPC, against a real gRPC server in front of the sandbox."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bk_pipeline.clock import Stop, stopped_by
from bk_pipeline.deliver.destination import Verdict
from bk_pipeline.deliver.metrics.destination import OtlpMetrics
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.grpc import STATUSES
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS, TRACES
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import (
    AccessDenied,
    ConfigError,
    DeliveryThrottled,
    FatalError,
    NotFound,
    RequestRefused,
    RequestTooLarge,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.http.network import Timeouts
from bk_pipeline_tests.deliver.tables import payload, span_count, table, tables
from bk_pipeline_tests.grpc_server import METRICS as METRICS_METHOD
from bk_pipeline_tests.grpc_server import TRACES as TRACES_METHOD
from bk_pipeline_tests.grpc_server import grpc_server

PROTOCOL = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
ROWS = SpanRows.from_table(table(payload(1), payload(2)))
PATIENT = Timeouts(connect_s=60, read_s=60, total_s=60)


def settings_of(url, *, signal=TRACES, **variables):
    given = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    found = OtlpSettings.from_environment(
        PROTOCOL | {"OTEL_EXPORTER_OTLP_ENDPOINT": url} | given, signal=signal
    )
    assert found is not None
    return found


@pytest.fixture
def connect(clock):
    made = []

    def connect(url, *, kind=Otlp, timeouts=PATIENT, **variables):
        signal = METRICS if kind is OtlpMetrics else TRACES
        found = settings_of(url, signal=signal, **variables)
        made.append(kind(found, clock=clock, timeouts=timeouts))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def server(url):
    """A gRPC server in front of the sandbox."""
    started, address = grpc_server(url)
    yield address
    started.stop(0).wait()


@contextmanager
def answering(export, servers=None):
    """A server whose Export method is `export(body, context)`; yields its URL."""
    started = grpc.server(ThreadPoolExecutor(4))
    if servers is not None:
        servers.append(started)

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details):
            known = details.method in {TRACES_METHOD, METRICS_METHOD}
            return grpc.unary_unary_rpc_method_handler(export) if known else None

    started.add_generic_rpc_handlers((Handlers(),))
    port = started.add_insecure_port("127.0.0.1:0")
    started.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        started.stop(0).wait()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_spans_are_delivered_once(sandbox, server, connect, send, compression):
    destination = connect(server, COMPRESSION=compression)

    delivery = send(tables(3), destination=destination)
    again = send(tables(3), destination=destination)

    assert (delivery.accepted, again.accepted) == (span_count(tables(3)), 0)
    assert (sandbox.otlp.span_count, sandbox.otlp.duplicate_count) == (delivery.accepted, 0)


def test_body_is_the_same_as_by_http(sandbox, server, url, connect):
    by_grpc, by_http = connect(server), connect(url, PROTOCOL="http/protobuf")
    for one in (by_grpc, by_http):
        one.send(one.encode(ROWS))

    half = len(sandbox.otlp.spans) // 2
    assert sandbox.otlp.spans[:half] == sandbox.otlp.spans[half:]


def test_metrics_are_delivered(sandbox, server, connect, send):
    delivery = send(tables(3), destination=connect(server, kind=OtlpMetrics))

    assert delivery.accepted > 0
    assert sandbox.otlp.metrics.totals["buildkite.builds.count"] == 3


def test_headers_are_sent_as_metadata_with_our_name(connect):
    seen = []

    def export(body, context):
        seen.append(dict(context.invocation_metadata()))
        return b""

    with answering(export) as url:
        connect(url, HEADERS="X-Key=abc,Authorization=Basic%20eHl6").send(connect(url).encode(ROWS))
    assert seen[0]["x-key"] == "abc"
    assert seen[0]["authorization"] == "Basic eHl6"
    assert seen[0]["user-agent"].startswith("bk_pipeline/")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("UNAUTHENTICATED", TokenRefused),
        ("PERMISSION_DENIED", AccessDenied),
        ("UNIMPLEMENTED", NotFound),
        ("NOT_FOUND", NotFound),
        ("INVALID_ARGUMENT", RequestRefused),
        ("FAILED_PRECONDITION", RequestRefused),
        ("ALREADY_EXISTS", RequestRefused),
        ("RESOURCE_EXHAUSTED", DeliveryThrottled),
        ("UNAVAILABLE", ServiceUnavailable),
        ("ABORTED", ServiceUnavailable),
        ("CANCELLED", ServiceUnavailable),
        ("DATA_LOSS", ServiceUnavailable),
        ("DEADLINE_EXCEEDED", ServiceUnavailable),
        ("INTERNAL", ServiceUnavailable),
        ("OUT_OF_RANGE", ServiceUnavailable),
        ("UNKNOWN", ServiceUnavailable),
    ],
)
def test_each_status_code_has_its_error_class(connect, code, error):
    def export(body, context):
        context.abort(grpc.StatusCode[code], "the queue is full")

    with answering(export) as url:
        destination = connect(url)
        with pytest.raises(error, match=rf"{code}: the queue is full") as caught:
            destination.send(destination.encode(ROWS))
    if error is ServiceUnavailable:
        assert caught.value.maybe_processed is (code != "UNAVAILABLE")


def test_every_status_code_is_known():
    assert STATUSES.keys() == {one.name for one in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize(
    "message",
    [
        "grpc: received message larger than max (5242880 vs. 4194304)",
        "gRPC message exceeds maximum size 4194304: 5242880",
        "Received message larger than max (5242880 vs. 4194304)",
    ],
)
def test_message_that_is_too_large_is_told_apart(connect, message):
    def export(body, context):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)

    with answering(export) as url, pytest.raises(RequestTooLarge):
        connect(url).send(connect(url).encode(ROWS))


def test_batch_that_exceeds_a_servers_limit_is_halved(sandbox, url, connect, send):
    limit = 20_000
    started, address = grpc_server(url, options=(("grpc.max_receive_message_length", limit),))
    try:
        delivery = send(tables(20), destination=connect(address))
    finally:
        started.stop(0).wait()

    assert delivery.accepted == span_count(tables(20)) == sandbox.otlp.span_count


def test_pause_that_a_server_asks_for_is_kept(connect):
    def export(body, context):
        info, status = RetryInfo(), Status(code=8, message="slow down")
        info.retry_delay.FromMilliseconds(2_500)
        status.details.add().Pack(info)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")

    with answering(export) as url, pytest.raises(DeliveryThrottled) as caught:
        connect(url).send(connect(url).encode(ROWS))
    assert caught.value.retry_in_s == 2.5


@pytest.mark.parametrize("rejected", [0, 2])
def test_partial_success_is_read(connect, rejected):
    def export(body, context):
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = rejected
        answer.partial_success.error_message = "some are strange"
        return answer.SerializeToString()

    with answering(export) as url:
        result = connect(url).send(connect(url).encode(ROWS))
    assert result.rejected_unnamed == rejected
    assert "some are strange" in result.warning
    assert {one.verdict for one in result.outcomes} == {Verdict.ACCEPTED}


def test_foreign_answer_accepts_nothing(connect):
    with (
        answering(lambda body, context: b"<html>Sign in</html>") as url,
        pytest.raises(UnexpectedAnswer),
    ):
        connect(url).send(connect(url).encode(ROWS))


def test_silent_server_is_given_up_and_the_batch_is_in_doubt(connect):
    over = threading.Event()
    with answering(lambda body, context: b"" * over.wait(60)) as url:
        impatient = connect(url, timeouts=Timeouts(connect_s=60, read_s=1, total_s=60))
        with pytest.raises(ServiceUnavailable, match="within 1 s") as caught:
            impatient.send(impatient.encode(ROWS))
        over.set()
    assert caught.value.maybe_processed


def test_stop_ends_a_call_in_flight(connect):
    over, arrived, stop = threading.Event(), threading.Event(), Stop()

    def export(body, context):
        arrived.set()
        over.wait(60)
        return b""

    with answering(export) as url:
        destination = connect(url)
        items = destination.encode(ROWS)

        def stop_soon():
            arrived.wait(60)
            stop.request()

        threading.Thread(target=stop_soon, daemon=True).start()
        with stopped_by(stop), pytest.raises(ServiceUnavailable, match="asked to stop") as caught:
            destination.send(items)
        assert caught.value.maybe_processed
        with stopped_by(stop), pytest.raises(ServiceUnavailable, match="asked to stop") as caught:
            destination.send(items)
        assert not caught.value.maybe_processed
        over.set()


def test_closed_destination_connects_again(server, connect):
    destination = connect(server)
    items = destination.encode(ROWS)
    destination.send(items)
    destination.close()

    assert len(destination.send(items).outcomes) == len(items)


def test_server_and_client_certificates_are_verified(pair, sandbox, url, connect):
    certificate, key = (Path(one).read_bytes() for one in pair)
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=certificate, require_client_auth=True
    )
    started, address = grpc_server(url, credentials=credentials)
    own = {"CERTIFICATE": pair[0], "CLIENT_CERTIFICATE": pair[0], "CLIENT_KEY": pair[1]}
    try:
        trusted = connect(address, **own)
        assert len(trusted.send(trusted.encode(ROWS)).outcomes) == len(trusted.encode(ROWS))
        schemeless = connect(address.removeprefix("https://"), **own)
        schemeless.send(schemeless.encode(ROWS))
        with pytest.raises(FatalError, match=r"cannot be verified.*OTEL_EXPORTER_OTLP_CERT"):
            connect(address).send(trusted.encode(ROWS))
        with pytest.raises(ServiceUnavailable):
            connect(address, CERTIFICATE=pair[0]).send(trusted.encode(ROWS))
    finally:
        started.stop(0).wait()
    assert sandbox.otlp.span_count == 2 * len(ROWS)


def test_endpoint_without_a_scheme_is_tls_unless_it_is_insecure():
    assert settings_of("collector:4317").url == "https://collector:4317/"
    assert settings_of("collector:4317", INSECURE="true").url == "http://collector:4317/"
    assert settings_of("http://collector:4317").url == "http://collector:4317/"


@pytest.mark.parametrize("endpoint", ["http://h:4317/v1/traces", "http://h/x", "http://h?key=1"])
def test_path_is_refused(endpoint):
    with pytest.raises(ConfigError, match="has a path, and gRPC has none"):
        settings_of(endpoint)


def test_proxy_comes_from_the_settings_only(sandbox, server, connect, monkeypatch):
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    destination = connect(server)
    destination.send(destination.encode(ROWS))

    assert sandbox.otlp.span_count == len(ROWS)


def test_threads_share_one_destination(sandbox, server, connect):
    destination = connect(server)
    items = destination.encode(ROWS)
    threads = [threading.Thread(target=destination.send, args=(items,)) for _ in range(8)]
    with closing(destination):
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
    assert sandbox.otlp.span_count == 8 * len(ROWS)


def test_lost_connection_leaves_the_batch_in_doubt(connect):
    started = []

    def export(body, context):
        threading.Thread(target=started[0].stop, args=(0,), daemon=True).start()
        time.sleep(5)
        return b""

    with answering(export, started) as url:
        destination = connect(url)
        with pytest.raises(ServiceUnavailable) as caught:
            destination.send(destination.encode(ROWS))
    assert caught.value.maybe_processed

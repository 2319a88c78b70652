"""The sandbox's OTLP trace endpoint, with requests built by OpenTelemetry's own classes."""

from __future__ import annotations

import gzip

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import (
    ResourceSpans,
    ScopeSpans,
    Span,
)
from opentelemetry.proto.trace.v1.trace_pb2 import (
    Status as SpanStatus,
)

PROTOBUF = {"Content-Type": "application/x-protobuf"}
TRACE_ID = bytes(range(16))


def text(value):
    return AnyValue(string_value=value)


ATTRIBUTES = {
    "text": text("a"),
    "int": AnyValue(int_value=-1),
    "bool": AnyValue(bool_value=False),
    "double": AnyValue(double_value=0.5),
    "bytes": AnyValue(bytes_value=b"\x00"),
    "list": AnyValue(array_value=ArrayValue(values=[text("a"), AnyValue(int_value=2)])),
    "map": AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k", value=text("v"))])),
    "nothing": AnyValue(),
}


def span(number=1, **fields):
    return Span(trace_id=TRACE_ID, span_id=number.to_bytes(8), name=f"span {number}", **fields)


def body(*spans, service="ci"):
    group = ResourceSpans(
        resource=Resource(attributes=[KeyValue(key="service.name", value=text(service))]),
        scope_spans=[ScopeSpans(scope=InstrumentationScope(name="me", version="1"), spans=spans)],
    )
    return ExportTraceServiceRequest(resource_spans=[group]).SerializeToString()


@pytest.fixture
def otlp(client):
    client.sandbox.otlp.reset()
    return client.sandbox.otlp


@pytest.fixture
def post(client, otlp):
    def post(content, **headers):
        return client.post("/v1/traces", data=content, headers=PROTOBUF | headers)

    return post


def status_message(response):
    """The message of an error response."""
    assert response.headers["Content-Type"] == PROTOBUF["Content-Type"]
    return Status.FromString(response.content).message


def test_spans_are_stored_with_resource_and_scope(otlp, post):
    response = post(body(span(1), span(2)))

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Type"] == PROTOBUF["Content-Type"]
    first, second = otlp.spans
    assert (first.trace_id, first.span_id) == (TRACE_ID.hex(), "0000000000000001")
    assert first.resource == {"service.name": "ci"}
    assert (second.name, second.scope.name, second.scope.version) == ("span 2", "me", "1")
    assert (otlp.span_count, otlp.duplicate_count, otlp.request_count) == (2, 0, 1)


def test_all_fields_of_a_span_are_stored(otlp, post):
    link = Span.Link(trace_id=TRACE_ID, span_id=b"12345678", flags=0x300)
    post(
        body(
            span(
                parent_span_id=b"abcdefgh",
                kind=Span.SPAN_KIND_INTERNAL,
                start_time_unix_nano=5,
                end_time_unix_nano=2**63 - 1,
                attributes=[KeyValue(key=key, value=value) for key, value in ATTRIBUTES.items()],
                links=[link],
                status=SpanStatus(code=SpanStatus.STATUS_CODE_ERROR, message="no"),
                flags=0x100,
                trace_state="a=b",
                events=[Span.Event(name="e")],
            )
        )
    )

    (stored,) = otlp.spans
    assert stored.attributes == {
        "text": "a",
        "int": -1,
        "bool": False,
        "double": 0.5,
        "bytes": b"\x00",
        "list": ["a", 2],
        "map": {"k": "v"},
        "nothing": None,
    }
    assert (stored.parent_span_id, stored.kind) == (b"abcdefgh".hex(), 1)
    assert (stored.start_ns, stored.end_ns) == (5, 2**63 - 1)
    assert (stored.status_code, stored.status_message) == (2, "no")
    assert (stored.flags, stored.trace_state, stored.event_count) == (0x100, "a=b", 1)
    assert [(one.trace_id, one.span_id, one.flags) for one in stored.links] == [
        (TRACE_ID.hex(), b"12345678".hex(), 0x300)
    ]


def test_spans_with_repeated_ids_are_counted_as_duplicates(otlp, post):
    post(body(span(1), span(2)))
    post(body(span(2), span(3), span(3)))

    assert (otlp.span_count, otlp.duplicate_count, len(otlp.spans)) == (5, 2, 5)


def test_spans_can_be_counted_without_storing_them(start_sandbox):
    client = start_sandbox(keep_events=False)
    client.post("/v1/traces", data=body(span(1), span(1)), headers=PROTOBUF)

    otlp = client.sandbox.otlp
    assert otlp.spans == []
    assert (otlp.span_count, otlp.duplicate_count) == (2, 1)


def test_compressed_body_is_accepted(otlp, post):
    assert post(gzip.compress(body(span())), **{"Content-Encoding": "gzip"}).status_code == 200
    assert otlp.span_count == 1


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"\xff\xff", {}, 400, "not a valid ExportTraceServiceRequest"),
        (b"{}", {"Content-Type": "application/json"}, 415, "application/json"),
        (b"", {"Content-Type": "text/plain"}, 415, "text/plain"),
        (b"", {"Content-Encoding": "zstd"}, 400, "zstd"),
        (b"plain", {"Content-Encoding": "gzip"}, 400, "invalid header"),
        (gzip.compress(b"x" * 100)[:-5], {"Content-Encoding": "gzip"}, 400, "unexpected end"),
        (b"x" * (20 * 1024 * 1024 + 1), {}, 413, "too large"),
        (
            gzip.compress(b"x" * (20 * 1024 * 1024 + 1), 1),
            {"Content-Encoding": "gzip"},
            413,
            "large",
        ),
    ],
    ids=["garbage", "json", "text", "zstd", "no gzip", "cut gzip", "large", "large gzip"],
)
def test_unreadable_body_is_rejected_with_a_status(post, content, headers, status, message):
    response = post(content, **headers)

    assert response.status_code == status
    assert message in status_message(response)


def test_empty_request_is_accepted(otlp, post):
    assert post(b"").status_code == 200
    assert otlp.span_count == 0


def test_header_can_be_required(start_sandbox):
    client = start_sandbox()
    client.sandbox.otlp.require_header("X-Key", "right")

    def post(**headers):
        return client.post("/v1/traces", data=body(span()), headers=PROTOBUF | headers)

    assert post().status_code == post(**{"x-key": "wrong"}).status_code == 401
    assert post(**{"x-key": "right"}).status_code == 200
    assert client.sandbox.otlp.span_count == 1
    client.sandbox.otlp.require_header("x-key", None)
    assert post().status_code == 200


@pytest.mark.parametrize(
    "ids",
    [
        {"trace_id": b""},
        {"trace_id": bytes(16)},
        {"span_id": b"1234567"},
        {"span_id": bytes(8)},
    ],
    ids=str,
)
def test_only_the_span_without_ids_is_rejected(otlp, post, ids):
    bad = span(2)
    for name, value in ids.items():
        setattr(bad, name, value)

    response = ExportTraceServiceResponse.FromString(post(body(span(1), bad, span(3))).content)

    assert response.partial_success.rejected_spans == 1
    assert response.partial_success.error_message == "invalid trace or span id"
    assert [stored.name for stored in otlp.spans] == ["span 1", "span 3"]


@pytest.mark.parametrize(("rejected", "stored"), [(2, 1), (0, 3), (9, 0)])
def test_partial_success_can_be_injected(client, otlp, post, rejected, stored):
    client.sandbox.faults.inject("otlp", "partial", rejected_spans=rejected, message="because")

    response = ExportTraceServiceResponse.FromString(post(body(span(1), span(2), span(3))).content)

    assert response.partial_success.rejected_spans == min(rejected, 3)
    assert response.partial_success.error_message == "because"
    assert otlp.span_count == stored
    assert post(body(span(4))).content == b""


def test_injected_status_has_a_status_message(client, otlp, post):
    client.sandbox.faults.inject("otlp", "status", status=429, headers={"Retry-After": "3"})

    response = post(body(span()))

    assert (response.status_code, response.headers["Retry-After"]) == (429, "3")
    assert status_message(response) == "Injected fault: 429"
    assert otlp.span_count == 0


def test_stored_spans_are_counted_and_cleared_by_control_routes(client, otlp, post):
    post(body(span(1), span(1)))

    stored = client.get("/_sandbox/stored").json()
    status_message = {name: stored[name] for name in stored if name.startswith("otlp")}
    assert status_message == {
        "otlp_span_count": 2,
        "otlp_duplicate_count": 1,
        "otlp_requests": 1,
        "otlp_metrics": {},
        "otlp_point_count": 0,
        "otlp_point_duplicate_count": 0,
    }

    client.post("/_sandbox/reset")
    assert (otlp.span_count, otlp.spans, otlp.request_count) == (0, [], 0)


def test_front_page_lists_the_traces_route(client):
    assert "/v1/traces" in client.get("/").text

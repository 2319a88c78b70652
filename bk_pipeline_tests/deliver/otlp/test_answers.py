"""The interpretation of responses of an OTLP endpoint."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bk_pipeline.deliver.destination import Verdict
from bk_pipeline.deliver.otlp.answers import MessageContext, parse_response, refusal
from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    NotFound,
    RequestRefused,
    RequestTooLarge,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.http.retry import LONGEST_WAIT_S
from bk_pipeline.http.session import Response

PLACE = "The OTLP endpoint h:4318/v1/traces"
CONTEXT = MessageContext(PLACE, "X_ENDPOINT", "X_HEADERS", lambda text: " ".join(text.split()))
PROTOBUF = "application/x-protobuf"


def response(status, body=b"", kind=PROTOBUF, **headers):
    return Response(
        status, {"Content-Type": kind, **headers}, body, "POST h:4318", "http://h:4318/"
    )


def partial(rejected=0, message=""):
    made = ExportTraceServiceResponse()
    made.partial_success.rejected_spans = rejected
    made.partial_success.error_message = message
    return made.SerializeToString()


def read(body=b"", kind=PROTOBUF, count=3, status=200):
    return parse_response(response(status, body, kind), count, sent_bytes=7, context=CONTEXT)


def refused(status, body=b"", kind=PROTOBUF, **headers):
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    return refusal(response(status, body, kind, **headers), context=CONTEXT, now=now)


def status_message(text):
    return Status(code=3, message=text).SerializeToString()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", PROTOBUF, 200),
        (b"", "text/plain", 200),
        (b"", "", 204),
        (partial(), PROTOBUF, 200),
        (partial(), "application/protobuf; charset=utf-8", 202),
        (b"{}", "application/json", 200),
        (b'{"partialSuccess":{}}', "application/json; charset=utf-8", 200),
        (b'{"partialSuccess":null,"more":1}', "application/json", 200),
        (b'{"status":"ok","message":"Accepted","error":null}', "application/json", 200),
        (b'{"code":0,"message":"","details":[]}', "application/json", 200),
        (b'{"code":200,"success":true,"errors":[]}', "application/json", 202),
        (b'{"status":200,"errorCount":0,"default":1}', "application/json", 200),
        (b'{"result":"accepted","rejected":0,"error_message":""}', "application/json", 200),
        (Status(message="OK").SerializeToString(), PROTOBUF, 200),
        (b"\x7a\x02hi", PROTOBUF, 200),
    ],
)
def test_success_accepts_all(body, kind, status):
    found = read(body, kind, status=status)

    assert [one.verdict for one in found.outcomes] == [Verdict.ACCEPTED] * 3
    assert (found.sent_bytes, found.rejected_unnamed, found.warning) == (7, 0, "")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (partial(2, "too old"), PROTOBUF),
        (
            b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}',
            "application/json",
        ),
        (b'{"partialSuccess":{"rejectedSpans":2,"errorMessage":"too old"}}', "application/json"),
        (
            b'{"partial_success":{"rejected_spans":"2","error_message":"too old"}}',
            "application/json",
        ),
    ],
    ids=["protobuf", "JSON", "JSON number", "JSON with the fields' own names"],
)
def test_partial_success_settles_all_and_counts_rejected_spans(body, kind):
    found = read(body, kind)

    assert [one.verdict for one in found.outcomes] == [Verdict.ACCEPTED] * 3
    assert found.rejected_unnamed == 2
    assert found.warning == f"{PLACE} rejected 2 of 3 spans and did not say which: too old"


@pytest.mark.parametrize("rejected", [3, 4, 2**63 - 1])
def test_each_span_is_rejected_if_all_were(rejected):
    found = read(partial(rejected, "too old"))

    assert [(one.verdict, one.message) for one in found.outcomes] == [
        (Verdict.REJECTED, "too old")
    ] * 3
    assert found.rejected_unnamed == 0


def test_single_rejected_span_is_identified():
    found = read(partial(1), count=1)

    assert [(one.verdict, one.message) for one in found.outcomes] == [
        (Verdict.REJECTED, "no reason given")
    ]


@pytest.mark.parametrize("rejected", [0, -1])
def test_warning_is_passed_on(rejected):
    found = read(partial(rejected, "use gzip"))

    assert found.rejected_unnamed == 0
    assert found.warning == f"{PLACE} accepted 3 spans with a warning: use gzip"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>Sign in</html>", "text/html"),
        (b"<html>Sign in</html>", PROTOBUF),
        (b"<html>Sign in</html>", ""),
        (b"accepted", "text/plain"),
        (b'"OK"', "application/json"),
        (b"[]", "application/json"),
        (b'{"partialSuccess":{"rejectedSpans":"many"}}', "application/json"),
        (b'{"partialSuccess":[]}', "application/json"),
    ],
)
def test_a_200_that_is_not_otlp_is_unexpected(body, kind):
    with pytest.raises(UnexpectedAnswer, match=f"{PLACE}.*X_ENDPOINT"):
        read(body, kind)


@pytest.mark.parametrize(
    ("body", "kind", "error"),
    [
        (status_message("quota gone"), PROTOBUF, UnexpectedAnswer),
        (Status(code=8, message="quota gone").SerializeToString(), PROTOBUF, DeliveryThrottled),
        (Status(code=14).SerializeToString(), "application/protobuf", DeliveryThrottled),
        (b'{"code":13,"message":"quota gone"}', "application/json", UnexpectedAnswer),
        (b'{"code":8,"message":"quota gone"}', "application/json", DeliveryThrottled),
        (b'{"code":"503","message":"quota gone"}', "application/json", DeliveryThrottled),
        (b'{"error":"quota gone"}', "application/json", UnexpectedAnswer),
        (b'{"error":{"code":429,"message":"quota gone"}}', "application/json", DeliveryThrottled),
        (b'{"errors":[{"reason":"quota gone"}]}', "application/json", UnexpectedAnswer),
        (b'{"success":false,"message":"quota gone"}', "application/json", UnexpectedAnswer),
        (b'{"message":"Request dropped: quota gone"}', "application/json", UnexpectedAnswer),
        (b'{"message":"discarding 3 spans: quota gone"}', "application/json", UnexpectedAnswer),
        (b'{"status":"error","message":"quota gone"}', "application/json", UnexpectedAnswer),
        (b'{"status":"fail","data":{}}', "application/json", UnexpectedAnswer),
        (b'{"status":429,"title":"quota gone"}', "application/json", DeliveryThrottled),
        (b'{"statusCode":"429","message":"quota gone"}', "application/json", DeliveryThrottled),
        (
            b'{"status":{"code":8,"message":"quota gone"}}',
            "application/json",
            DeliveryThrottled,
        ),
        (b'{"ok":false}', "application/json", UnexpectedAnswer),
        (b'{"errorMessage":"quota gone"}', "application/json", UnexpectedAnswer),
        (b'{"fault":{"faultstring":"quota gone"}}', "application/json", UnexpectedAnswer),
        (b'{"result":"rejected"}', "application/json", UnexpectedAnswer),
        (
            Status(message="spans dropped: quota gone").SerializeToString(),
            PROTOBUF,
            UnexpectedAnswer,
        ),
    ],
)
def test_a_200_whose_body_reports_a_failure_accepts_nothing(body, kind, error):
    with pytest.raises(error, match=f"{PLACE}.*200: .*(quota gone|beginning with)"):
        read(body, kind)


@pytest.mark.parametrize(
    ("code", "error"),
    [("8", DeliveryThrottled), ("14", DeliveryThrottled), ("13", UnexpectedAnswer)],
)
def test_a_200_whose_grpc_status_is_a_failure_accepts_nothing(code, error):
    headers = {"grpc-status": code, "grpc-message": "quota%20gone"}
    with pytest.raises(error, match=f"{PLACE}.*quota gone"):
        parse_response(response(200, **headers), 3, sent_bytes=7, context=CONTEXT)
    found = parse_response(response(200, **{"grpc-status": "0"}), 3, sent_bytes=7, context=CONTEXT)
    assert found.outcomes[0].verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{\xff}", "application/json"),
        (b'{"partialSuccess":{"rejec', "application/json"),
        (b"\x0a\x7f", PROTOBUF),
        (b"\x0a\x05\x08", "application/protobuf"),
    ],
)
def test_truncated_200_may_have_been_processed(body, kind):
    with pytest.raises(ServiceUnavailable, match="cut short") as caught:
        read(body, kind)
    assert caught.value.maybe_processed


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        (400, RequestRefused, "X_ENDPOINT"),
        (401, TokenRefused, "X_HEADERS"),
        (403, AccessDenied, "X_HEADERS"),
        (404, NotFound, "X_ENDPOINT.*TRACES_ENDPOINT"),
        (405, RequestRefused, "X_ENDPOINT"),
        (408, ServiceUnavailable, "X_ENDPOINT"),
        (413, RequestTooLarge, "too large"),
        (415, RequestRefused, "OTLP/HTTP.*X_ENDPOINT"),
        (429, DeliveryThrottled, "later"),
        (500, ServiceUnavailable, "X_ENDPOINT"),
        (501, RequestRefused, "X_ENDPOINT"),
        (502, ServiceUnavailable, "X_ENDPOINT"),
        (503, ServiceUnavailable, "X_ENDPOINT"),
        (504, ServiceUnavailable, "X_ENDPOINT"),
        (505, RequestRefused, "X_ENDPOINT"),
        (520, ServiceUnavailable, "X_ENDPOINT"),
    ],
)
def test_refusal_names_place_response_and_remedy(status, kind, remedy):
    found = refused(status, status_message("no such thing"))

    assert type(found) is kind
    assert PLACE in str(found)
    assert f"{status}: no such thing" in str(found)
    assert re.search(remedy, str(found))


@pytest.mark.parametrize("status", [200, 202, 204])
def test_success_is_no_refusal(status):
    assert refused(status) is None


@pytest.mark.parametrize(("status", "maybe"), [(500, True), (502, True), (503, False), (504, True)])
def test_only_a_503_is_known_not_to_have_been_processed(status, maybe):
    assert refused(status).maybe_processed is maybe


def test_a_503_with_retry_after_throttles_all_senders():
    found = refused(503, **{"Retry-After": "7"})

    assert type(found) is DeliveryThrottled
    assert found.retry_in_s == 7


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0), ("soon", None)],
)
@pytest.mark.parametrize("status", [429, 500, 502, 504])
def test_retry_after_is_honoured_in_both_forms(status, value, seconds):
    assert refused(status, **{"Retry-After": value}).retry_in_s == seconds


def status_with_delay(seconds, nanos=0):
    info = RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = seconds, nanos
    status = Status(code=8, message="slow down")
    status.details.add().Pack(info)
    return status.SerializeToString()


DETAILS = '{"code":8,"details":[{"@type":"t/google.rpc.RetryInfo","retryDelay":"%s"}]}'


@pytest.mark.parametrize(
    ("body", "kind", "seconds"),
    [
        (status_with_delay(7, 500_000_000), PROTOBUF, 7.5),
        (status_with_delay(315_360_000), PROTOBUF, LONGEST_WAIT_S),
        (status_with_delay(-5), PROTOBUF, 0.0),
        ((DETAILS % "7.5s").encode(), "application/json", 7.5),
        ((DETAILS % "315360000s").encode(), "application/json", LONGEST_WAIT_S),
        ((DETAILS % "soon").encode(), "application/json", None),
        (b'{"details":7}', "application/json", None),
        (status_message("no details"), PROTOBUF, None),
        (b"<html>", "text/html", None),
    ],
)
def test_retry_delay_in_a_grpc_status_is_read_and_bounded(body, kind, seconds):
    found = refused(503, body, kind)
    assert found.retry_in_s == seconds
    assert (type(found) is DeliveryThrottled) == (seconds is not None)


@pytest.mark.parametrize("message", ["http: request body too large", "Request Body is Too Large."])
def test_a_400_about_size_splits_the_batch(message):
    found = refused(400, message.encode(), "text/plain")

    assert type(found) is RequestTooLarge
    assert found.status == 400


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (status_message("from protobuf"), PROTOBUF, "401: from protobuf"),
        (status_message(""), PROTOBUF, "beginning with"),
        (b"\xff\xff", PROTOBUF, "beginning with"),
        (
            json.dumps({"code": 16, "message": "from JSON"}).encode(),
            "application/json",
            "from JSON",
        ),
        (json.dumps({"error": "plain"}).encode(), "application/json", "401: plain"),
        (json.dumps({"error": {"deep": 1}}).encode(), "application/json", "beginning with"),
        (b"unauthorized", "text/plain", 'text/plain beginning with "unauthorized"'),
        (b"<html>", "text/html", "<html>"),
        (b"", "text/html", "an empty body"),
        (b"", PROTOBUF, "an empty body"),
    ],
)
def test_message_is_found_in_each_error_format(body, kind, message):
    assert message in str(refused(401, body, kind))

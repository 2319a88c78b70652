"""Delivery to the sandbox's OTLP endpoint, with assertions on what it stored."""

from __future__ import annotations

from itertools import count

import pytest

from bk_pipeline.deliver.destination import SendResult
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.errors import (
    NotFound,
    RetryableError,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline_tests.deliver.tables import payload, span_count, table, tables, uuid
from bk_pipeline_tests.http.scripted import Answer, scripted_server

numbers = count()
TOKEN = "ZaVnC4dhaV1ABCDEFGhijk0123"


@pytest.fixture
def connect(clock):
    """Creates the destination of these variables; it retries for a minute of the fake clock."""
    made = []

    def connect(**variables):
        environment = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
        # A unique name, because rate limits are shared by name.
        environment["BK_PIPELINE_OTLP_ACCOUNT"] = f"test-{next(numbers)}"
        settings = OtlpSettings.from_environment(environment)
        made.append(
            Otlp(
                settings,
                clock=clock,
                retry_policy=RetryPolicy(deadline_s=60, jitter=lambda: 0.5),
                timeouts=Timeouts(connect_s=30, read_s=5, total_s=60),
            )
        )
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def otlp(connect, url):
    return connect(ENDPOINT=url)


@pytest.fixture
def fails(otlp, send, ledger):
    """Asserts that a delivery fails with this error and nothing is recorded as accepted."""

    def fails(error, message):
        with pytest.raises(error, match=message):
            send(tables(1), destination=otlp)
        assert ledger.summary(otlp.name).accepted == 0

    return fails


def stored_once(sandbox, made):
    keys = [(span.trace_id, span.span_id) for span in sandbox.otlp.spans]
    return len(keys) == len(set(keys)) == span_count(made)


def test_all_spans_arrive_once_and_a_second_delivery_sends_nothing(sandbox, otlp, send):
    made = tables(20)

    first, second = send(made, destination=otlp), send(made, destination=otlp)

    assert stored_once(sandbox, made)
    assert (first.accepted, second.accepted) == (span_count(made), 0)
    assert second.already_settled == span_count(made)
    assert sandbox.otlp.request_count == first.batches


def test_links_are_part_of_their_span(sandbox, otlp, send):
    made = [table(payload(1, rebuilt_from={"id": uuid("build", 9), "number": 9}))]

    delivery = send(made, destination=otlp)

    assert delivery.accepted == span_count(made)
    (link,) = next(span for span in sandbox.otlp.spans if not span.parent_span_id).links
    assert link.trace_id == uuid("build", 9).replace("-", "")


def test_request_has_the_resource_and_scope(sandbox, otlp, send):
    send(tables(1), destination=otlp)

    span = sandbox.otlp.spans[0]
    assert span.scope.name == "bk_pipeline"
    assert span.resource["service.name"] == "buildkite"
    assert span.resource["buildkite.pipeline.slug"] == "web"


def test_headers_and_compression_come_from_the_environment(sandbox, url, connect, send):
    expected_headers = {"authorization": "Basic dXNlcjpwYXNz", "content-encoding": "gzip"}
    for header, value in expected_headers.items():
        sandbox.otlp.require_header(header, value)
    made = tables(3)

    delivery = send(
        made,
        destination=connect(
            ENDPOINT=url, HEADERS="Authorization=Basic%20dXNlcjpwYXNz", COMPRESSION="gzip"
        ),
    )

    for header in expected_headers:
        sandbox.otlp.require_header(header, None)
    assert stored_once(sandbox, made)
    assert delivery.sent_bytes < delivery.body_bytes / 2


def test_partial_success_is_settled_reported_and_not_resent(sandbox, otlp, send, ledger):
    made = tables(4)
    sandbox.faults.inject("otlp", "partial", rejected_spans=2, message="span is too old")

    delivery = send(made, destination=otlp)
    again = send(made, destination=otlp)

    assert (delivery.accepted, delivery.rejected, delivery.rejected_unnamed) == (
        span_count(made),
        0,
        2,
    )
    (warning,) = delivery.warnings
    assert f"rejected 2 of {span_count(made)} spans" in warning
    assert warning.endswith("span is too old")
    assert sandbox.otlp.span_count == span_count(made) - 2
    assert (sandbox.otlp.duplicate_count, sandbox.otlp.request_count) == (0, 1)
    assert again.already_settled == span_count(made)
    assert ledger.summary(otlp.name).in_doubt == 0


def test_fully_rejected_batch_is_recorded_span_by_span(sandbox, otlp, send, ledger):
    made = tables(1)
    sandbox.faults.inject("otlp", "partial", rejected_spans=99, message="tenant is over its limit")

    delivery = send(made, destination=otlp)

    assert (delivery.accepted, delivery.rejected) == (0, span_count(made))
    assert {one.reason for one in ledger.rejections(otlp.name)} == {"tenant is over its limit"}
    assert sandbox.otlp.span_count == 0


def test_warning_is_reported_and_nothing_is_missing(sandbox, otlp, send):
    made = tables(1)
    sandbox.faults.inject("otlp", "partial", rejected_spans=0, message="use gzip")

    delivery = send(made, destination=otlp)

    assert (delivery.accepted, delivery.rejected_unnamed) == (span_count(made), 0)
    (warning,) = delivery.warnings
    assert warning.endswith(f"accepted {span_count(made)} spans with a warning: use gzip")


def test_too_large_body_is_split_until_it_is_accepted(sandbox, otlp, send):
    made = tables(10)
    sandbox.faults.inject("otlp", "status", status=413, count=3)

    delivery = send(made, destination=otlp)

    assert stored_once(sandbox, made)
    assert delivery.batches > 1


def test_throttling_is_waited_out(sandbox, otlp, send, clock):
    made = tables(2)
    sandbox.faults.inject("otlp", "status", status=429, headers={"Retry-After": "17"})

    send(made, destination=otlp)

    assert stored_once(sandbox, made)
    assert sum(clock.slept) == pytest.approx(17)


@pytest.mark.parametrize("kind", ["reset", "hang", "status"])
def test_spans_that_were_not_accepted_are_sent_again(sandbox, otlp, send, kind):
    made = tables(2)
    sandbox.faults.inject("otlp", kind)

    send(made, destination=otlp)

    assert stored_once(sandbox, made)


@pytest.mark.parametrize("kind", ["reset_after", "cut_body"])
def test_lost_response_duplicates_at_most_the_batch_in_flight(sandbox, otlp, send, kind):
    made = tables(2)
    sandbox.faults.inject("otlp", kind)

    delivery = send(made, destination=otlp)

    assert delivery.accepted == span_count(made)
    assert sandbox.otlp.duplicate_count == span_count(made)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ({"kind": "status", "status": 401}, TokenRefused, r"OTEL_EXPORTER_OTLP_HEADERS"),
        ({"kind": "status", "status": 404}, NotFound, r"OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"kind": "html"}, UnexpectedAnswer, r"text/html.*OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"kind": "status", "count": 99}, RetryableError, r"503: .*Gave up after \d+ attempts"),
    ],
    ids=["401", "404", "html", "503"],
)
def test_failed_run_names_place_response_and_remedy(sandbox, fails, fault, error, message):
    sandbox.faults.inject("otlp", **fault)

    fails(error, rf"The OTLP endpoint 127.0.0.1:\d+/v1/traces .*{message}")

    assert sandbox.otlp.span_count == 0


def test_run_without_a_listener_fails_after_the_retries(connect, send, clock):
    with pytest.raises(
        RetryableError, match=r"127.0.0.1:1/v1/traces cannot be reached.*_TRACES_ENDPOINT.*Gave up"
    ):
        send(tables(1), destination=connect(TRACES_ENDPOINT="http://127.0.0.1:1/v1/traces"))

    assert sum(clock.slept) > 20


def test_grpc_port_is_pointed_out(connect, send):
    with pytest.raises(RetryableError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL=grpc"):
        send(tables(1), destination=connect(ENDPOINT="http://127.0.0.1:4317"))


def test_key_in_the_path_is_sent_and_never_shown(connect, send):
    with scripted_server() as server:
        server.otherwise = lambda request: Answer(
            404, f"no route for {request.path}".encode(), {"Content-Type": "text/plain"}
        )
        destination = connect(ENDPOINT=f"{server.url}/receiver/{TOKEN}?key=s3cret")

        with pytest.raises(NotFound) as caught:
            send(tables(1), destination=destination)

    assert server.requests[0].path == f"/receiver/{TOKEN}/v1/traces?key=s3cret"
    shown = str(caught.value) + repr(destination) + destination.name
    assert "no route for" in shown
    assert TOKEN not in shown
    assert "s3cret" not in shown


def test_request_has_content_type_and_user_agent(connect, send):
    with scripted_server() as server:
        server.otherwise = Answer(200, b"", {"Content-Type": "application/x-protobuf"})
        send(tables(1), destination=connect(TRACES_ENDPOINT=server.url))

    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/")
    assert request.headers["Content-Type"] == "application/x-protobuf"
    assert request.headers["User-Agent"].startswith("bk_pipeline/")
    assert "Content-Encoding" not in request.headers


def test_json_response_is_understood(connect, send):
    with scripted_server() as server:
        server.otherwise = Answer(200, b'{"partialSuccess":{}}')
        delivery = send(tables(1), destination=connect(ENDPOINT=server.url))

    assert delivery.accepted == span_count(tables(1))


@pytest.mark.parametrize(
    ("endpoint", "template", "expected"),
    [
        ("https://api.honeycomb.io", "ci-{pipeline}", True),
        ("https://api.honeycomb.io", "", False),
        ("https://tempo.example.com", "ci-{pipeline}", False),
    ],
)
def test_probe_says_if_each_pipeline_becomes_a_dataset(
    clock, monkeypatch, endpoint, template, expected
):
    settings = OtlpSettings(f"{endpoint}/v1/traces", service_template=template)
    monkeypatch.setattr(Otlp, "send", lambda _, items: SendResult([], len(items)))

    assert ("a dataset of each pipeline" in Otlp(settings, clock=clock).probe().message) is expected

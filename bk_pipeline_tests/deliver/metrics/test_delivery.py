"""Delivery of metrics to the sandbox's OTLP endpoint, with assertions on what it stored."""

from __future__ import annotations

from contextlib import closing

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)

from bk_pipeline.deliver.delivery import DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.deliver.metrics.points import COLUMNS
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import AccessDenied, NotFound, RetryableError, TokenRefused
from bk_pipeline.settings import Settings
from bk_pipeline_tests.builders import make_block, make_build, make_job, uid
from bk_pipeline_tests.deliver.tables import payload, table, tables, uuid
from bk_pipeline_tests.http.scripted import Answer, scripted_server

BUILDS, JOBS = "buildkite.builds.count", "buildkite.jobs.count"
UNITS = {
    BUILDS: "{build}",
    JOBS: "{job}",
    "buildkite.builds.duration": "ms",
    "buildkite.jobs.duration": "ms",
    "buildkite.jobs.wait_time": "ms",
    "cicd.pipeline.run.duration": "s",
    "cicd.pipeline.run.errors": "{error}",
    "cicd.system.errors": "{error}",
}
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"


@pytest.fixture
def fails(metrics, send, ledger):
    """Asserts that a delivery fails with this error and nothing is recorded as accepted."""

    def fails(error, message):
        with pytest.raises(error, match=message):
            send(tables(1), destination=metrics)
        assert ledger.summary(metrics.name).accepted == 0

    return fails


def values_by_time(sandbox):
    """Return the state of a backend that keeps one value per series and time."""
    return {(one.series, one.time_ns): one.count for one in sandbox.otlp.metrics.points}


def test_build_and_job_are_counted_once_across_deliveries(sandbox, metrics, send):
    made = tables(20, jobs=3)

    first, second = send(made, destination=metrics), send(made, destination=metrics)

    assert (first.accepted, second.accepted, second.already_settled) == (80, 0, 80)
    assert sandbox.otlp.metrics.totals[BUILDS] == 20
    assert sandbox.otlp.metrics.totals[JOBS] == 60
    assert sandbox.otlp.request_count == first.batches == 1


def test_declared_columns_are_sufficient(sandbox, metrics, send):
    send([one.select(COLUMNS) for one in tables(3)], destination=metrics)

    assert sandbox.otlp.metrics.totals[BUILDS] == 3


def test_points_are_monotonic_deltas_with_the_resource(sandbox, metrics, send):
    send(tables(3), destination=metrics)

    for point in sandbox.otlp.metrics.points:
        assert (point.temporality, point.monotonic) == ("delta", True)
        assert point.resource == {"service.name": "buildkite"}
        assert point.unit == UNITS[point.metric]
        assert point.schema_urls == (SCHEMA_URL, SCHEMA_URL)
        assert not point.gauge


def test_conventions_that_are_switched_off_have_no_metrics(sandbox, clock, url, send):
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "BK_PIPELINE_SPANS_CONVENTIONS": "false"}
    for settings, expected in (
        (variables, 0),
        (variables | {"BK_PIPELINE_SPANS_CONVENTIONS": ""}, 1),
    ):
        settings["BK_PIPELINE_OTLP_ACCOUNT"] = f"conventions-{expected}"
        [configured] = [
            one for one in destinations(Settings.of(**settings)) if one.kind == "otlp_metrics"
        ]
        with closing(configured.open(clock)) as metrics:
            send(tables(2), destination=metrics)
        names = {one.metric for one in sandbox.otlp.metrics.points}
        assert any(name.startswith("cicd.") for name in names) == expected
        assert BUILDS in names


def test_failures_are_counted_once_across_deliveries(sandbox, metrics, send):
    lost = make_job("lost", state="failed", exit_status=-1)
    made = [table(make_build([make_job("a", state="failed"), lost], state="failed"))]

    send(made, destination=metrics)
    send(made, destination=metrics)

    totals = sandbox.otlp.metrics.totals
    assert (totals["cicd.pipeline.run.errors"], totals["cicd.system.errors"]) == (1, 1)
    # Once while it was pending, and once while it was executing.
    assert totals["cicd.pipeline.run.duration"] == 2


def test_late_builds_of_an_hour_add_points(sandbox, metrics, send):
    for number in range(1, 6):
        send(tables(number), destination=metrics)

    found = [one for one in sandbox.otlp.metrics.points if one.metric == BUILDS]
    assert [one.count for one in found] == [1] * 5
    assert len({one.start_ns for one in found}) == 1
    assert len({one.time_ns for one in found}) == 5
    assert sorted(one.time_ns for one in found) == [one.time_ns for one in found]


def test_items_are_encoded_in_time_order(metrics):
    rows = SpanRows.from_table(table(payload(3), payload(1), payload(2)))

    times = [item.time_ns for item in metrics.encode(rows)]
    assert len(times) == 12
    assert times == sorted(times)


def test_resumed_build_is_counted_once_and_its_new_jobs_are_added(sandbox, metrics, send):
    first, block = make_job("test"), make_block()
    blocked = make_build([first, block], blocked=True, blocked_state="passed")
    deploy = make_job("deploy", id=uid("deploy"), runnable_s=7_200)
    resumed = make_build([first, make_block(unblocked_s=7_199), deploy], state="failed")

    send([table(blocked)], destination=metrics)
    before = list(sandbox.otlp.metrics.points)
    again = send([table(resumed)], destination=metrics)

    assert again.accepted == 1
    assert sandbox.otlp.metrics.totals[BUILDS] == 1
    added = sandbox.otlp.metrics.points[len(before) :]
    assert {one.metric for one in added} == {
        JOBS,
        "buildkite.jobs.duration",
        "buildkite.jobs.wait_time",
    }
    assert sandbox.otlp.metrics.totals[JOBS] == 2


def test_spans_at_the_same_url_are_different_items(clock, url, connect):
    same = f"{url}/v1/metrics"
    settings = OtlpSettings.from_environment({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": same})
    metrics = connect(METRICS_ENDPOINT=same)

    assert Otlp(settings, clock=clock).name != metrics.name
    assert metrics.name.startswith("otlp_metrics:127.0.0.1:")


@pytest.mark.parametrize("kind", ["reset_after", "cut_body", "hang"])
def test_points_without_a_response_are_resent_unchanged(sandbox, metrics, send, kind):
    details = {"processed": True} if kind == "hang" else {}
    sandbox.faults.inject("otlp", kind, path="/v1/metrics", **details)

    done = send(tables(5), destination=metrics)

    assert done.accepted == 20
    assert sandbox.otlp.metrics.totals[BUILDS] == 10
    assert (
        sum(count for (series, _), count in values_by_time(sandbox).items() if series[0] == BUILDS)
        == 5
    )


def test_run_after_one_in_doubt_completes_the_count(sandbox, metrics, send, ledger):
    sandbox.faults.inject("otlp", "reset_after", count=10, path="/v1/metrics")
    with pytest.raises(RetryableError):
        send(tables(5), destination=metrics)
    assert ledger.summary(metrics.name).in_doubt == 20
    sandbox.faults.clear()

    done = send(tables(5), destination=metrics)

    assert (done.accepted, done.in_doubt_resent) == (20, 20)
    assert ledger.summary(metrics.name).in_doubt == 0
    assert (
        sum(count for (series, _), count in values_by_time(sandbox).items() if series[0] == BUILDS)
        == 5
    )


def test_at_most_once_presumes_items_in_doubt_sent(sandbox, metrics, send):
    policy = DeliveryPolicy(guarantee=Guarantee.AT_MOST_ONCE)
    sandbox.faults.inject("otlp", "reset_after", path="/v1/metrics")
    with pytest.raises(RetryableError):
        send(tables(5), destination=metrics, policy=policy)

    done = send(tables(5), destination=metrics, policy=policy)

    assert (done.accepted, done.presumed_sent) == (0, 20)
    assert sandbox.otlp.metrics.totals[BUILDS] == 5


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_temporary_error_is_retried_and_counted_once(sandbox, metrics, send, clock, status):
    sandbox.faults.inject("otlp", "status", status=status, count=2, headers={"Retry-After": "2"})

    send(tables(5), destination=metrics)

    assert sandbox.otlp.metrics.totals[BUILDS] == 5
    assert sum(clock.slept) >= 4


def test_too_large_request_is_halved(sandbox, metrics, send):
    sandbox.faults.inject("otlp", "status", status=413)

    done = send(tables(6), destination=metrics)

    assert (done.batches, done.accepted) == (2, 24)
    assert sandbox.otlp.metrics.totals[BUILDS] == 6


def test_unknown_key_is_reported_with_the_variable(sandbox, fails):
    sandbox.otlp.require_header("x-key", "wanted")

    fails(TokenRefused, r"401: missing or invalid header.*OTEL_EXPORTER_OTLP_HEADERS")


def test_key_without_metrics_permission_is_reported(sandbox, fails):
    sandbox.faults.inject("otlp", "status", status=403)

    fails(AccessDenied, r"does not let us send data points.*permission to write metrics")


def test_backend_without_metrics_is_reported_with_the_switch(sandbox, fails):
    sandbox.faults.inject("otlp", "status", status=404)

    fails(NotFound, r"/v1/metrics is added to .*OTEL_METRICS_EXPORTER=none")


def test_few_rejected_points_are_reported_and_not_resent(sandbox, metrics, send):
    sandbox.faults.inject("otlp", "partial", rejected_spans=2, message="too old")

    done = send(tables(2), destination=metrics)

    assert (done.accepted, done.rejected_unnamed) == (8, 2)
    assert "rejected 2 of 11 data points and did not say which: too old" in done.warnings[0]
    assert send(tables(2), destination=metrics).accepted == 0


def test_builds_and_jobs_are_rejected_if_all_points_are(sandbox, metrics, send, ledger):
    sandbox.faults.inject("otlp", "partial", rejected_spans=13, message="too old")

    done = send(tables(2), destination=metrics)

    assert (done.accepted, done.rejected) == (0, 8)
    assert {one.reason for one in ledger.rejections(metrics.name)} == {"too old"}
    assert ledger.requeue(metrics.name) == 8
    assert send(tables(2), destination=metrics).accepted == 8


def test_requests_fit_a_collectors_limit(sandbox, metrics, send):
    """Each job has attributes of its own, so there are as many points as possible."""
    made = [
        table(
            make_build(
                [
                    make_job(f"step-{n}-{at}-" + "x" * 60, id=uuid("j", n, at), run_s=1 + at % 7)
                    for at in range(200)
                ],
                id=uuid("b", n),
                number=n,
            )
        )
        for n in range(25)
    ]

    done = send(made, destination=metrics)

    assert done.accepted == 25 * 201
    assert done.batches > 1
    assert done.sent_bytes / done.batches < 4 * 1024 * 1024
    assert sandbox.otlp.metrics.totals[JOBS] == 5_000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"partialSuccess":{"rejectedDataPoints":"2","errorMessage":"old"}}'),
        (
            "application/x-protobuf",
            ExportMetricsServiceResponse(
                partial_success=ExportMetricsPartialSuccess(
                    rejected_data_points=2, error_message="old"
                )
            ).SerializeToString(),
        ),
    ],
    ids=["json", "protobuf"],
)
def test_partial_success_is_read_in_both_encodings(connect, send, kind, body):
    with scripted_server() as server:
        server.otherwise = Answer(200, body, {"Content-Type": kind})
        done = send(tables(2), destination=connect(ENDPOINT=server.url))

    assert (done.accepted, done.rejected_unnamed) == (8, 2)
    assert done.warnings[0].endswith("did not say which: old")

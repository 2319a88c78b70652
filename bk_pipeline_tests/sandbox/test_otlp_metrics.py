"""The sandbox's endpoint for metrics, spoken to as a client would."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
)

HEADERS = {"Content-Type": "application/x-protobuf"}
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


def counted(value=1, *, start=1, time=2, **fields):
    metric = Metric(name="n")
    metric.sum.aggregation_temporality = DELTA
    metric.sum.data_points.append(
        NumberDataPoint(start_time_unix_nano=start, time_unix_nano=time, as_int=value, **fields)
    )
    return metric


def distributed(count, *buckets, zero_count=0):
    metric = Metric(name="h")
    metric.exponential_histogram.aggregation_temporality = DELTA
    point = ExponentialHistogramDataPoint(
        start_time_unix_nano=1, time_unix_nano=2, count=count, zero_count=zero_count
    )
    point.positive.bucket_counts.extend(buckets)
    metric.exponential_histogram.data_points.append(point)
    return metric


def body(*metrics):
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add().scope_metrics.add().metrics.extend(metrics)
    return request.SerializeToString()


@pytest.fixture
def post(client):
    client.sandbox.otlp.reset()
    return lambda content: client.post("/v1/metrics", data=content, headers=HEADERS)


def rejected(answer):
    return ExportMetricsServiceResponse.FromString(answer.content).partial_success


def test_sound_points_are_added_up(client, post):
    answer = post(body(counted(2), counted(3, time=3), distributed(4, 1, 2, zero_count=1)))

    assert (answer.status_code, answer.content) == (200, b"")
    assert client.sandbox.otlp.metrics.totals == {"n": 5, "h": 4}
    assert client.get("/_sandbox/stored").json()["otlp_metrics"] == {"n": 5, "h": 4}


def test_two_points_of_a_series_and_moment_are_told(client, post):
    post(body(counted(2)))
    post(body(counted(2)))

    assert client.sandbox.otlp.metrics.duplicate_count == 1


@pytest.mark.parametrize(
    "metric",
    [counted(start=0), counted(start=2, time=2), distributed(4, 1, 2)],
    ids=["no_start", "no_window", "values_missing"],
)
def test_a_point_that_no_backend_could_use_is_rejected(client, post, metric):
    answer = post(body(counted(5), metric))

    assert rejected(answer).rejected_data_points == 1
    assert client.sandbox.otlp.metrics.totals == {"n": 5}


def test_another_kind_of_metric_and_no_metric_at_all_are_refused(client, post):
    gauge = Metric(name="g")
    gauge.gauge.data_points.append(NumberDataPoint(as_int=1))

    assert post(body(gauge)).status_code == 400
    assert post(b"no protobuf").status_code == 400
    assert client.sandbox.otlp.metrics.points == []


def test_a_reset_forgets_points(client, post):
    post(body(counted()))

    client.post("/_sandbox/reset")

    assert client.sandbox.otlp.metrics.points == []

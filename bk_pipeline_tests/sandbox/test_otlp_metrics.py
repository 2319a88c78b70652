"""The sandbox's OTLP metrics endpoint."""

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


def sum_metric(value=1, *, start=1, time=2, **fields):
    metric = Metric(name="n")
    metric.sum.aggregation_temporality = DELTA
    metric.sum.data_points.append(
        NumberDataPoint(start_time_unix_nano=start, time_unix_nano=time, as_int=value, **fields)
    )
    return metric


def histogram_metric(count, *buckets, zero_count=0):
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


def partial_success(response):
    return ExportMetricsServiceResponse.FromString(response.content).partial_success


def test_valid_points_are_added_up(client, post):
    response = post(
        body(sum_metric(2), sum_metric(3, time=3), histogram_metric(4, 1, 2, zero_count=1))
    )

    assert (response.status_code, response.content) == (200, b"")
    assert client.sandbox.otlp.metrics.totals == {"n": 5, "h": 4}
    assert client.get("/_sandbox/stored").json()["otlp_metrics"] == {"n": 5, "h": 4}


def test_points_of_the_same_series_and_time_are_duplicates(client, post):
    post(body(sum_metric(2)))
    post(body(sum_metric(2)))

    assert client.sandbox.otlp.metrics.duplicate_count == 1


@pytest.mark.parametrize(
    "metric",
    [sum_metric(start=0), sum_metric(start=2, time=2), histogram_metric(4, 1, 2)],
    ids=["no_start", "no_window", "values_missing"],
)
def test_invalid_point_is_rejected(client, post, metric):
    response = post(body(sum_metric(5), metric))

    assert partial_success(response).rejected_data_points == 1
    assert client.sandbox.otlp.metrics.totals == {"n": 5}


def gauge_metric(**value):
    gauge = Metric(name="g")
    gauge.gauge.data_points.append(NumberDataPoint(time_unix_nano=2, **value))
    return gauge


def test_gauge_is_stored_but_not_added_up(client, post):
    assert post(body(gauge_metric(as_int=0))).content == b""

    [point] = client.sandbox.otlp.metrics.points
    assert (point.metric, point.count, point.gauge, point.temporality) == ("g", 0, True, "")
    assert client.sandbox.otlp.metrics.totals == {}


def test_unsupported_metrics_and_malformed_bodies_are_rejected(client, post):
    summary = Metric(name="s")
    summary.summary.data_points.add()

    assert post(body(summary)).status_code == 400
    assert post(body(gauge_metric(as_double=1.5))).status_code == 400
    assert post(b"no protobuf").status_code == 400
    assert client.sandbox.otlp.metrics.points == []


def test_reset_clears_points(client, post):
    post(body(sum_metric()))

    client.post("/_sandbox/reset")

    assert client.sandbox.otlp.metrics.points == []

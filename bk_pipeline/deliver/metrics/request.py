"""Data points to the body of a request, by OpenTelemetry's own classes: there are few. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import attrgetter

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from bk_pipeline import __version__
from bk_pipeline.deliver.metrics.histogram import Histogram
from bk_pipeline.deliver.metrics.instruments import Instrument
from bk_pipeline.deliver.metrics.points import Point
from bk_pipeline.deliver.otlp.shape import SCOPE_NAME
from bk_pipeline.text import cut

DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


def request_body(points: Iterable[Point], resource: Mapping[str, str]) -> bytes:
    """The request that carries `points`, which stand by metric."""
    metrics = [
        _metric(instrument, list(of_metric))
        for instrument, of_metric in groupby(points, key=attrgetter("instrument"))
    ]
    scope = InstrumentationScope(name=SCOPE_NAME, version=__version__)
    request = ExportMetricsServiceRequest(
        resource_metrics=[
            ResourceMetrics(
                resource=Resource(attributes=_pairs(resource.items())),
                scope_metrics=[ScopeMetrics(scope=scope, metrics=metrics)],
            )
        ]
    )
    body: bytes = request.SerializeToString(deterministic=True)
    return body


def _metric(instrument: Instrument, points: list[Point]) -> Metric:
    metric = Metric(name=instrument.name, description=instrument.meaning, unit=instrument.unit)
    if points[0].histogram is None:
        metric.sum.CopyFrom(
            Sum(
                data_points=[_number(one) for one in points],
                aggregation_temporality=DELTA,
                is_monotonic=True,
            )
        )
    else:
        found = [_distribution(one, one.histogram) for one in points if one.histogram]
        metric.exponential_histogram.CopyFrom(
            ExponentialHistogram(data_points=found, aggregation_temporality=DELTA)
        )
    return metric


def _number(point: Point) -> NumberDataPoint:
    return NumberDataPoint(
        attributes=_pairs(point.attributes),
        start_time_unix_nano=point.start_ns,
        time_unix_nano=point.time_ns,
        as_int=point.count,
    )


def _distribution(point: Point, found: Histogram) -> ExponentialHistogramDataPoint:
    return ExponentialHistogramDataPoint(
        attributes=_pairs(point.attributes),
        start_time_unix_nano=point.start_ns,
        time_unix_nano=point.time_ns,
        count=found.count,
        sum=found.sum,
        scale=found.scale,
        zero_count=found.zero_count,
        positive=ExponentialHistogramDataPoint.Buckets(
            offset=found.offset, bucket_counts=found.counts
        ),
        min=found.min,
        max=found.max,
    )


def _pairs(attributes: Iterable[tuple[str, str | int | bool]]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_value(value)) for name, value in attributes]


def _value(value: str | int | bool) -> AnyValue:  # noqa: FBT001  # the value itself
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case _:
            return AnyValue(string_value=cut(value))

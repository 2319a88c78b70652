"""OTLP's metrics to plain objects, and what a backend that adds deltas makes of them.

A sum's or an exponential histogram's points are read; what else there is, is refused: nobody
here sends it. A point is sound if a backend can use it: a delta or cumulative one, in a window
that is none of no length, with as many values as its buckets hold.

Source: OTLP's `metrics.proto`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
)

from bk_pipeline.sandbox.otlp_spans import attributes_of

_TEMPORALITIES = {
    AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA: "delta",
    AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE: "cumulative",
}


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A data point, its metric and its resource.

    `count` is a sum's value. What histograms alone have is None on sums.
    """

    metric: str
    unit: str
    temporality: str
    monotonic: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    start_ns: int
    time_ns: int
    count: int
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    scale: int | None = None
    zero_count: int | None = None
    offset: int | None = None
    bucket_counts: tuple[int, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether a backend can use it."""
        whole = self.scale is None or self.count == (self.zero_count or 0) + sum(self.bucket_counts)
        return bool(self.temporality) and 0 < self.start_ns < self.time_ns and whole

    @property
    def series(self) -> tuple[Any, ...]:
        """What makes it a point of the same series as another."""
        return self.metric, *sorted((name, str(value)) for name, value in self.attributes.items())


@dataclass
class PointStore:
    """Points as they came, if they are to be kept, and what they add up to."""

    keep: bool
    points: list[StoredPoint] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    count: int = 0
    duplicate_count: int = 0
    _moments: set[int] = field(default_factory=set)

    def add(self, points: Iterable[StoredPoint]) -> None:
        for point in points:
            self.count += 1
            if self.keep:
                self.points.append(point)
            self.totals[point.metric] += point.count
            moment = hash((point.series, point.time_ns))
            self.duplicate_count += moment in self._moments
            self._moments.add(moment)


def points_in(request: ExportMetricsServiceRequest) -> Iterator[StoredPoint]:
    """The request's points, in their order.

    Raises:
        ValueError: A metric is neither a sum of whole numbers nor an exponential histogram.
    """
    for group in request.resource_metrics:
        resource = attributes_of(group.resource.attributes)
        for part in group.scope_metrics:
            for metric in part.metrics:
                yield from _of_metric(metric, resource)


def _of_metric(metric: Metric, resource: dict[str, Any]) -> Iterator[StoredPoint]:
    kind = metric.WhichOneof("data")
    if kind == "sum":
        for number in metric.sum.data_points:
            yield _number(metric, number, resource)
    elif kind == "exponential_histogram":
        for distribution in metric.exponential_histogram.data_points:
            yield _distribution(metric, distribution, resource)
    else:
        raise ValueError(f"{metric.name}: {kind} is not taken here")


def _number(metric: Metric, point: NumberDataPoint, resource: dict[str, Any]) -> StoredPoint:
    if point.WhichOneof("value") != "as_int":
        raise ValueError(f"{metric.name}: a sum without a whole number is not taken here")
    return StoredPoint(
        metric=metric.name,
        unit=metric.unit,
        temporality=_TEMPORALITIES.get(metric.sum.aggregation_temporality, ""),
        monotonic=metric.sum.is_monotonic,
        attributes=attributes_of(point.attributes),
        resource=resource,
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        count=point.as_int,
    )


def _distribution(
    metric: Metric, point: ExponentialHistogramDataPoint, resource: dict[str, Any]
) -> StoredPoint:
    return StoredPoint(
        metric=metric.name,
        unit=metric.unit,
        temporality=_TEMPORALITIES.get(metric.exponential_histogram.aggregation_temporality, ""),
        monotonic=True,
        attributes=attributes_of(point.attributes),
        resource=resource,
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        count=point.count,
        sum=point.sum,
        min=point.min,
        max=point.max,
        scale=point.scale,
        zero_count=point.zero_count,
        offset=point.positive.offset,
        bucket_counts=tuple(point.positive.bucket_counts),
    )

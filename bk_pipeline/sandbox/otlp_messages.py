"""OTLP messages to plain objects, which a test or a person can look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True, slots=True)
class StoredScope:
    """What made the spans."""

    name: str
    version: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredLink:
    """Ids in hex; attributes as in `StoredSpan`."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    flags: int


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span, its resource and its scope.

    Ids are lower-case hex, the parent's empty on a root. `kind` and `status_code` are
    OTLP's numbers. Attributes are strings, numbers, booleans, bytes, lists, dicts or None.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    status_code: int
    status_message: str
    attributes: dict[str, Any]
    event_count: int
    links: list[StoredLink]
    trace_state: str
    flags: int
    resource: dict[str, Any]
    scope: StoredScope

    @property
    def sound(self) -> bool:
        """Whether trace and span have ids: of the right length, and not all zero."""
        ids = ((self.trace_id, 32), (self.span_id, 16))
        return all(len(one) == digits and one.strip("0") for one, digits in ids)


def spans_in(request: ExportTraceServiceRequest) -> Iterator[StoredSpan]:
    """The request's spans, in their order."""
    for group in request.resource_spans:
        resource = attributes_of(group.resource.attributes)
        for part in group.scope_spans:
            made_by = part.scope
            scope = StoredScope(made_by.name, made_by.version, attributes_of(made_by.attributes))
            for span in part.spans:
                yield _stored(span, resource, scope)


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Keys and values; of equal keys the first, as Honeycomb has it."""
    found: dict[str, Any] = {}
    for pair in pairs:
        found.setdefault(pair.key, value_of(pair.value))
    return found


def value_of(value: AnyValue) -> Any:
    """What an AnyValue holds; None if it holds nothing."""
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "array_value":
            return [value_of(one) for one in value.array_value.values]
        case "kvlist_value":
            return attributes_of(value.kvlist_value.values)
        case _:
            return getattr(value, kind)


def _stored(span: Span, resource: dict[str, Any], scope: StoredScope) -> StoredSpan:
    return StoredSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status_code=span.status.code,
        status_message=span.status.message,
        attributes=attributes_of(span.attributes),
        event_count=len(span.events),
        links=[
            StoredLink(
                link.trace_id.hex(), link.span_id.hex(), attributes_of(link.attributes), link.flags
            )
            for link in span.links
        ],
        trace_state=span.trace_state,
        flags=span.flags,
        resource=resource,
        scope=scope,
    )


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

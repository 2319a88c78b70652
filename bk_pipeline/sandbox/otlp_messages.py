"""Plain objects for the spans and data points of OTLP messages, for tests and for inspection.

Ids are lower-case hex and times nanoseconds since 1970. Attribute values are
strings, numbers, booleans, bytes, lists, dicts or None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
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
    """The instrumentation scope of a span."""

    name: str
    version: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredLink:
    """A link of a span to another one."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    flags: int


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span with its resource and its scope.

    `parent_span_id` is empty for a root. `kind` and `status_code` are OTLP's
    numbers.
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
    def is_valid(self) -> bool:
        """Whether trace id and span id have the right length and are not all zeros."""
        ids = ((self.trace_id, 32), (self.span_id, 16))
        return all(len(one) == digits and one.strip("0") for one, digits in ids)


def parse_spans(request: ExportTraceServiceRequest) -> Iterator[StoredSpan]:
    """The spans of a request, in order."""
    for group in request.resource_spans:
        resource = attribute_dict(group.resource.attributes)
        for part in group.scope_spans:
            sender = part.scope
            scope = StoredScope(sender.name, sender.version, attribute_dict(sender.attributes))
            for span in part.spans:
                yield _stored_span(span, resource, scope)


def attribute_dict(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Keys and values as a dict. If a key is repeated, the first value wins, as at Honeycomb."""
    found: dict[str, Any] = {}
    for pair in pairs:
        found.setdefault(pair.key, attribute_value(pair.value))
    return found


def attribute_value(value: AnyValue) -> Any:
    """The Python value of an AnyValue, or None if it is empty."""
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "array_value":
            return [attribute_value(one) for one in value.array_value.values]
        case "kvlist_value":
            return attribute_dict(value.kvlist_value.values)
        case _:
            return getattr(value, kind)


def _stored_span(span: Span, resource: dict[str, Any], scope: StoredScope) -> StoredSpan:
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
        attributes=attribute_dict(span.attributes),
        event_count=len(span.events),
        links=[
            StoredLink(
                link.trace_id.hex(), link.span_id.hex(), attribute_dict(link.attributes), link.flags
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
    """A data point with its metric and its resource.

    `count` is the value of a sum or gauge, or the count of a histogram. `temporality` is empty for
    a gauge, which has none. Fields that only histograms have are None for the others.
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
    gauge: bool = False
    schema_urls: tuple[str, str] = ("", "")

    @property
    def is_valid(self) -> bool:
        """Whether temporality, times and counts are consistent, as backends require."""
        if self.gauge:
            return self.time_ns > 0
        whole = self.scale is None or self.count == (self.zero_count or 0) + sum(self.bucket_counts)
        return bool(self.temporality) and 0 < self.start_ns < self.time_ns and whole

    @property
    def series(self) -> tuple[Any, ...]:
        """The metric and attributes that identify the point's time series."""
        return self.metric, *sorted((name, str(value)) for name, value in self.attributes.items())


@dataclass
class PointStore:
    """Data points in order of arrival, and their totals by metric; gauges add nothing to these.

    Args:
        keep: If False, points are counted but not stored.
    """

    keep: bool
    points: list[StoredPoint] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    count: int = 0
    duplicate_count: int = 0
    _seen: set[int] = field(default_factory=set)

    def add(self, points: Iterable[StoredPoint]) -> None:
        """Count data points, and store them if points are kept."""
        for point in points:
            self.count += 1
            if self.keep:
                self.points.append(point)
            if not point.gauge:
                self.totals[point.metric] += point.count
            key = hash((point.series, point.time_ns))
            self.duplicate_count += key in self._seen
            self._seen.add(key)


def parse_points(request: ExportMetricsServiceRequest) -> Iterator[StoredPoint]:
    """The data points of a request, in order.

    Raises:
        ValueError: A metric is neither a sum or gauge of whole numbers nor an exponential histogram.
    """
    for group in request.resource_metrics:
        resource = attribute_dict(group.resource.attributes)
        for part in group.scope_metrics:
            schema_urls = (group.schema_url, part.schema_url)
            for metric in part.metrics:
                for point in _metric_points(metric, resource):
                    yield replace(point, schema_urls=schema_urls)


def _metric_points(metric: Metric, resource: dict[str, Any]) -> Iterator[StoredPoint]:
    kind = metric.WhichOneof("data")
    if kind in {"sum", "gauge"}:
        for number in getattr(metric, kind).data_points:
            yield _number_point(metric, number, resource)
    elif kind == "exponential_histogram":
        for histogram in metric.exponential_histogram.data_points:
            yield _histogram_point(metric, histogram, resource)
    else:
        raise ValueError(f"{metric.name}: metrics of type {kind} are not supported here")


def _number_point(metric: Metric, point: NumberDataPoint, resource: dict[str, Any]) -> StoredPoint:
    if point.WhichOneof("value") != "as_int":
        raise ValueError(f"{metric.name}: non-integers are not supported here")
    return StoredPoint(
        metric=metric.name,
        unit=metric.unit,
        temporality=_TEMPORALITIES.get(metric.sum.aggregation_temporality, ""),
        monotonic=metric.sum.is_monotonic,
        attributes=attribute_dict(point.attributes),
        resource=resource,
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        count=point.as_int,
        gauge=metric.HasField("gauge"),
    )


def _histogram_point(
    metric: Metric, point: ExponentialHistogramDataPoint, resource: dict[str, Any]
) -> StoredPoint:
    return StoredPoint(
        metric=metric.name,
        unit=metric.unit,
        temporality=_TEMPORALITIES.get(metric.exponential_histogram.aggregation_temporality, ""),
        monotonic=True,
        attributes=attribute_dict(point.attributes),
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

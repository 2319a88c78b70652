"""An OTLP/HTTP endpoint as a destination for metrics; each build and job is counted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

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
    Gauge,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from bk_pipeline import __version__
from bk_pipeline.deliver.destination import Item, Limits, SendResult
from bk_pipeline.deliver.metrics import deployments
from bk_pipeline.deliver.metrics.points import (
    BUILDKITE_INSTRUMENTS,
    COLUMNS,
    DIMENSIONS,
    INSTRUMENTS,
    Histogram,
    Instrument,
    Point,
    data_points,
    measured_items,
)
from bk_pipeline.deliver.otlp.answers import parse_response
from bk_pipeline.deliver.otlp.endpoint import Otlp, connected
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.shape import SCOPE_NAME
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.fields import SCHEMA_URL
from bk_pipeline.text import truncate

DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


def request_body(points: Iterable[Point], resource: Mapping[str, str]) -> bytes:
    """Return the encoded export request of `points`, which are grouped by metric."""
    metrics = [
        _metric(list(of_metric)) for _, of_metric in groupby(points, key=attrgetter("metric"))
    ]
    scope = InstrumentationScope(name=SCOPE_NAME, version=__version__)
    request = ExportMetricsServiceRequest(
        resource_metrics=[
            ResourceMetrics(
                resource=Resource(attributes=_pairs(resource.items())),
                scope_metrics=[ScopeMetrics(scope=scope, metrics=metrics, schema_url=SCHEMA_URL)],
                schema_url=SCHEMA_URL,
            )
        ]
    )
    body: bytes = request.SerializeToString(deterministic=True)
    return body


def _metric(points: list[Point]) -> Metric:
    instrument = points[0].instrument
    metric = Metric(name=instrument.name, description=instrument.description, unit=instrument.unit)
    if instrument.is_gauge:
        metric.gauge.CopyFrom(Gauge(data_points=map(_number, points)))
    elif instrument.is_histogram:
        histogram = [_distribution(one, one.histogram) for one in points if one.histogram]
        metric.exponential_histogram.CopyFrom(
            ExponentialHistogram(data_points=histogram, aggregation_temporality=DELTA)
        )
    else:
        metric.sum.CopyFrom(
            Sum(
                data_points=map(_number, points),
                aggregation_temporality=DELTA,
                is_monotonic=True,
            )
        )
    return metric


def _number(point: Point) -> NumberDataPoint:
    return NumberDataPoint(
        attributes=_pairs(point.attributes),
        start_time_unix_nano=point.start_ns,
        time_unix_nano=point.time_ns,
        as_int=point.count,
    )


def _distribution(point: Point, histogram: Histogram) -> ExponentialHistogramDataPoint:
    return ExponentialHistogramDataPoint(
        attributes=_pairs(point.attributes),
        start_time_unix_nano=point.start_ns,
        time_unix_nano=point.time_ns,
        count=histogram.count,
        sum=histogram.sum,
        scale=histogram.scale,
        zero_count=histogram.zero_count,
        positive=ExponentialHistogramDataPoint.Buckets(
            offset=histogram.offset, bucket_counts=histogram.counts
        ),
        min=histogram.min,
        max=histogram.max,
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
            return AnyValue(string_value=truncate(value))


# A few bytes of items can become many bytes of data points: a series makes two points, each with
# attribute names and up to 160 buckets in addition to its values. Half the size of a request of
# spans leaves room for that. So `Delivery.body_bytes` is an upper bound for metrics, and usually
# far too high.
METRICS_LIMITS = Limits(
    batch_bytes=2 * 1024 * 1024,
    batch_items=20_000,
    shared_framing_bytes=1_000,
    # In time order: a backend that adds deltas up to running totals drops a point that is older
    # than its last one.
    max_concurrent_requests=1,
)

_time_ns = attrgetter("time_ns")


class OtlpMetrics(Otlp):
    """Sends metrics of builds and jobs, with settings of the signal `METRICS`. Thread-safe.

    Args:
        settings: The settings of the endpoint.
        conventions: Whether to send the metrics of OpenTelemetry's semantic conventions too.
        options: The other arguments of `Otlp`.
    """

    limits = METRICS_LIMITS
    columns = COLUMNS
    sampled = False  # counts and sums are of all builds
    instruments: Sequence[Instrument] = INSTRUMENTS
    dimensions: Sequence[str] = DIMENSIONS

    def __init__(self, settings: OtlpSettings, *, conventions: bool = True, **options: Any) -> None:
        super().__init__(settings, **options)
        if not conventions:
            self.instruments = BUILDKITE_INSTRUMENTS

    def encode(self, rows: SpanRows) -> list[Item]:
        """Return the builds and jobs among the rows, in time order. Pure."""
        return sorted(measured_items(rows), key=_time_ns)

    def send(self, items: Sequence[Item]) -> SendResult:
        """Send the data points of `items` and return the outcomes of the items.

        The response counts data points, so items are rejected only if all data points were. Raises
        the errors of `Destination.send`.
        """
        points = list(data_points(items, self.instruments, self.dimensions))
        posted = self._endpoint.post(request_body(points, self._settings.resource))
        return parse_response(
            posted.response,
            len(items),
            sent_bytes=posted.sent_bytes,
            context=self._endpoint.context,
            sent_count=len(points),
        )

    def report(self, points: Sequence[Point], *, within_s: float) -> str:
        """Send `points` once, without the ledger, and return a warning if there is one.

        Meant for gauges: the next ones replace those that are lost.

        Args:
            points: The data points, at least one, grouped by metric.
            within_s: The timeout of the request.

        Raises:
            PipelineError: They were not accepted, or it is unknown whether they were.
        """
        timeouts = self._settings.timeouts.within(within_s)
        endpoint = connected(self._settings, clock=self._clock, timeouts=timeouts)
        try:
            posted = endpoint.post(request_body(points, self._settings.resource))
            result = parse_response(
                posted.response, len(points), sent_bytes=posted.sent_bytes, context=endpoint.context
            )
        finally:
            endpoint.close()
        [*_, last] = result.outcomes
        return result.warning or last.message


class DeploymentMetrics(OtlpMetrics):
    """Sends metrics of deployments to the endpoint of `OtlpMetrics`. Thread-safe.

    To the ledger it is another destination. The rows that it takes are those of `table_of_events`.
    """

    columns = deployments.COLUMNS
    instruments = deployments.INSTRUMENTS
    dimensions = deployments.DIMENSIONS

    @property
    def name(self) -> str:
        """The destination's id in the ledger."""
        return self._settings.named("otlp-deployments")

    def encode(self, rows: SpanRows) -> list[Item]:
        """Return the events among the rows, which are in time order. Pure."""
        return deployments.event_items(rows)

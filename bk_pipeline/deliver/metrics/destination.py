"""An OTLP/HTTP endpoint as a destination of metrics: each build and each job, counted once."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from bk_pipeline.deliver.destination import Answer, Item, Limits
from bk_pipeline.deliver.metrics import measurements
from bk_pipeline.deliver.metrics.points import points_of
from bk_pipeline.deliver.metrics.request import request_body
from bk_pipeline.deliver.otlp.answers import answer
from bk_pipeline.deliver.otlp.destination import Otlp
from bk_pipeline.deliver.rows import SpanRows

# Many points stand for few bytes of items: a series makes two points, of which each has its
# attributes' names and up to 160 buckets besides the values. Half of what a request of spans may
# hold leaves room for the values' standing there twice. So what a delivery tells of bytes before
# compression is a bound, and mostly far above.
METRICS_LIMITS = Limits(
    batch_bytes=2 * 1024 * 1024,
    batch_items=20_000,
    shared_framing_bytes=1_000,
    # In time order: what adds deltas up to running totals drops a point that is older than the
    # last.
    requests_at_once=1,
)

_time_ns = attrgetter("time_ns")


class OtlpMetrics(Otlp):
    """Sends metrics of builds and jobs, with settings of the signal `METRICS`."""

    limits = METRICS_LIMITS
    columns = measurements.COLUMNS

    def encode(self, rows: SpanRows) -> list[Item]:
        """The builds and jobs among the rows, in time order. Pure."""
        return sorted(measurements.items(rows), key=_time_ns)

    def send(self, items: Sequence[Item]) -> Answer:
        """What the endpoint says to `items`; errors as `Destination.send` has them.

        It answers for data points. A build or job is rejected if all points were.
        """
        points = list(points_of(items))
        taken = self._endpoint.post(request_body(points, self._settings.resource))
        return answer(
            taken.response,
            len(items),
            sent_bytes=taken.sent_bytes,
            words=self._endpoint.words,
            things=len(points),
        )

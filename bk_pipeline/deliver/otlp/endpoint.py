"""OTLP endpoints: posting bodies of any signal over HTTP, and the destination for spans."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.delivery import NO_LIMIT, MaxAge, is_honeycomb
from bk_pipeline.deliver.destination import Item, Limits, Probe, SendResult
from bk_pipeline.deliver.otlp import codec
from bk_pipeline.deliver.otlp.answers import PROTOBUF, MessageContext, parse_response, refusal
from bk_pipeline.deliver.otlp.settings import OtlpSettings, secrets_in
from bk_pipeline.deliver.otlp.shape import FRAMING_BYTES, body_of
from bk_pipeline.deliver.otlp.span_limits import within_limits
from bk_pipeline.deliver.otlp.variables import GRPC, TRACES, Compression
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import ServiceUnavailable
from bk_pipeline.http.answers import unreachable
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.retry import RetryPolicy, retry
from bk_pipeline.http.session import HttpSession, Response

if TYPE_CHECKING:
    from bk_pipeline.deliver.otlp.grpc import GrpcEndpoint

# Compresses to a tenth; level 6 compresses to a fourteenth at half the speed.
GZIP_LEVEL = 1
MESSAGE_LIMIT = 200
GRPC_PORT = ":4317"


class PostResult(NamedTuple):
    """A 2xx response, and the number of bytes sent for it."""

    response: Response
    sent_bytes: int


class Endpoint:
    """One OTLP/HTTP endpoint. Thread-safe.

    Args:
        settings: The settings of the endpoint.
        clock: The clock for `Retry-After` dates.
        timeouts: The timeouts of each request, instead of those in `settings`.
    """

    def __init__(
        self, settings: OtlpSettings, *, clock: Clock, timeouts: Timeouts | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._session = HttpSession(
            settings.url,
            setting=settings.endpoint_variable,
            headers=settings.headers,
            timeouts=timeouts or settings.timeouts,
            network=settings.network,
            ca_file=settings.ca_file,
            ca_setting=settings.certificate_variable,
            client_cert=settings.client_cert,
            clock=clock,
        )
        self._secrets = secrets_in(settings.url)
        self._place = f"The OTLP endpoint {settings.place}"
        self.context = MessageContext(
            self._place,
            settings.endpoint_variable,
            settings.headers_variable,
            self._quote,
            settings.signal,
        )
        self._headers = {"Content-Type": PROTOBUF[0]}
        if settings.compression is Compression.GZIP:
            self._headers["Content-Encoding"] = "gzip"

    def post(self, body: bytes) -> PostResult:
        """Post `body` and return the response if it is a 2xx. Raises like `Destination.send`."""
        if self._settings.compression is Compression.GZIP:
            body = gzip.compress(body, GZIP_LEVEL, mtime=0)
        response = self._send(body)
        failed = refusal(response, context=self.context, now=self._clock.now())
        if failed is not None:
            raise failed
        return PostResult(response, len(body))

    def close(self) -> None:
        """Close the idle connections. Sending again opens new ones."""
        self._session.close()

    def _send(self, body: bytes) -> Response:
        settings = self._settings
        try:
            return self._session.send("POST", settings.url, body=body, headers=self._headers)
        except ServiceUnavailable as exc:
            hint = ""
            if GRPC_PORT in settings.place:
                hint = " Port 4317 is usually gRPC's: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc."
            raise unreachable(
                self._place, exc, setting=settings.endpoint_variable, hint=hint
            ) from exc

    def _quote(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return self._session.quote(text, limit=MESSAGE_LIMIT)


def connected(
    settings: OtlpSettings, *, clock: Clock, timeouts: Timeouts | None = None
) -> Endpoint | GrpcEndpoint:
    """Return the endpoint of `settings`, for its protocol. Connects to nothing yet."""
    if settings.protocol == GRPC:
        # gRPC takes a while to import, and only its users need it.
        from bk_pipeline.deliver.otlp.grpc import GrpcEndpoint  # noqa: PLC0415

        return GrpcEndpoint(settings, clock=clock, timeouts=timeouts)
    return Endpoint(settings, clock=clock, timeouts=timeouts)


# The specification recommends 20 MiB, but gRPC servers accept messages of up to 4 MiB by default,
# and a collector may forward a body it received by HTTP as one gRPC message. A little less than
# that, because the collector may add attributes.
BATCH_BYTES = 4 * 1024 * 1024 - 256 * 1024
# Smaller batches take longer (250: 25% more CPU per span), larger ones are not faster, and a batch
# in flight when a process dies may be duplicated.
BATCH_SPANS = 1_000
DATASET_PER_SERVICE = (
    "BK_PIPELINE_SPANS_SERVICE_NAME makes a dataset of each pipeline, so the key needs the permission "
    "to create datasets."
)
LIMITS = Limits(BATCH_BYTES, BATCH_SPANS, shared_framing_bytes=FRAMING_BYTES)


class Otlp:
    """Sends spans to an OTLP endpoint. Thread-safe.

    Args:
        settings: The settings of the endpoint.
        clock: The clock for `Retry-After` dates.
        age: The maximum age of spans; OTLP itself has none.
        retry_policy: How long to retry one batch.
        timeouts: The timeouts of each request, instead of those in `settings`.
    """

    limits = LIMITS
    columns: Sequence[str] | None = None
    future_limit = None
    sampled = True

    def __init__(
        self,
        settings: OtlpSettings,
        *,
        clock: Clock,
        age: MaxAge = NO_LIMIT,
        retry_policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.max_age, self.max_age_by_end = age.limit, age.by_end
        self.max_age_description = age.description
        self.retry = retry_policy or RetryPolicy()
        self._settings = settings
        self._clock = clock
        self._endpoint = connected(settings, clock=clock, timeouts=timeouts)
        if settings.batch_spans and settings.signal is TRACES:
            self.limits = replace(
                self.limits, batch_items=min(settings.batch_spans, self.limits.batch_items)
            )

    @property
    def name(self) -> str:
        """The destination's id in the ledger, see `destination_name`."""
        return self._settings.name

    def encode(self, rows: SpanRows) -> list[Item]:
        """Return the spans of the rows, within the limits of the settings. Pure."""
        rows = within_limits(rows, self._settings.span_limits)
        as_attribute = is_honeycomb(self._settings.url)
        return codec.items(
            rows,
            self._settings.resource,
            rate_attribute=as_attribute,
            service_template=self._settings.service_template,
        )

    def send(self, items: Sequence[Item]) -> SendResult:
        """Send `items` and return their outcomes. Raises like `Destination.send`."""
        posted = self._endpoint.post(body_of(items))
        return parse_response(
            posted.response,
            len(items),
            sent_bytes=posted.sent_bytes,
            context=self._endpoint.context,
        )

    def probe(self) -> Probe:
        """Export nothing, which is a valid request and stores nothing. Raises like `send`."""
        answer = retry(lambda: self.send([]), policy=self.retry, clock=self._clock)
        message = f"{self.name} takes exports. {self.max_age_description}"
        if self._settings.service_template and is_honeycomb(self._settings.url):
            message += f" {DATASET_PER_SERVICE}"
        return Probe(f"{message} {answer.warning}".rstrip(), is_warning=bool(answer.warning))

    def trace_link(self, trace_id: str, *, start_ns: int, end_ns: int) -> None:
        """Return None: OTLP does not say where its traces can be viewed."""

    def page_link(self) -> None:
        """Return None, like `trace_link`."""

    def close(self) -> None:
        """Close the idle connections. Sending again opens new ones."""
        self._endpoint.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.place!r})"

"""Posting bodies to an OTLP/HTTP endpoint, whatever signal is in them."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import NamedTuple

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.destination import Item, Limits, SendResult
from bk_pipeline.deliver.max_age import NO_LIMIT, MaxAge
from bk_pipeline.deliver.otlp import codec
from bk_pipeline.deliver.otlp.answers import PROTOBUF, Words, answer, refusal
from bk_pipeline.deliver.otlp.settings import OtlpSettings, secrets_in
from bk_pipeline.deliver.otlp.shape import FRAMING_BYTES, body_of
from bk_pipeline.deliver.otlp.variables import Compression
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import ServiceUnavailable
from bk_pipeline.http.answers import unreachable
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.http.session import HttpSession, Response, Timeouts

# Makes a tenth of a body; level 6 would make a fourteenth, at half the speed.
GZIP_LEVEL = 1
WORDS_LIMIT = 200
GRPC_PORT = ":4317"


class Taken(NamedTuple):
    """A 2xx, and how many bytes it cost."""

    response: Response
    sent_bytes: int


class Endpoint:
    """One endpoint. For several threads at once.

    Args:
        settings: Where and how.
        clock: For what the service says about time.
        timeouts: Of each request, instead of the settings'.
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
        self.words = Words(
            self._place,
            settings.endpoint_variable,
            settings.headers_variable,
            self._quote,
            settings.signal,
        )
        self._headers = {"Content-Type": PROTOBUF[0]}
        if settings.compression is Compression.GZIP:
            self._headers["Content-Encoding"] = "gzip"

    def post(self, body: bytes) -> Taken:
        """The answer to `body`, if it was taken; errors as `Destination.send` has them."""
        if self._settings.compression is Compression.GZIP:
            body = gzip.compress(body, GZIP_LEVEL, mtime=0)
        response = self._ask(body)
        failed = refusal(response, words=self.words, now=self._clock.now())
        if failed is not None:
            raise failed
        return Taken(response, len(body))

    def close(self) -> None:
        """Close the idle connections. Sending again opens new ones."""
        self._session.close()

    def _ask(self, body: bytes) -> Response:
        settings = self._settings
        try:
            return self._session.send("POST", settings.url, body=body, headers=self._headers)
        except ServiceUnavailable as exc:
            hint = ""
            if GRPC_PORT in settings.place:
                hint = " Port 4317 is gRPC's by custom, OTLP/HTTP's is 4318."
            raise unreachable(
                self._place, exc, setting=settings.endpoint_variable, hint=hint
            ) from exc

    def _quote(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return self._session.quote(text, limit=WORDS_LIMIT)


# The specification recommends 20 MiB. But gRPC servers take messages of 4 MiB unless told
# otherwise, and a collector passes on by gRPC, whole, what it took by HTTP; a little less
# than that, because it may add attributes.
BATCH_BYTES = 4 * 1024 * 1024 - 256 * 1024
# Fewer cost time (250: a quarter more CPU a span), more gain none, and what is in flight
# when a process dies may be doubled.
BATCH_SPANS = 1_000
LIMITS = Limits(BATCH_BYTES, BATCH_SPANS, shared_framing_bytes=FRAMING_BYTES)


class Otlp:
    """Sends spans to an OTLP/HTTP endpoint. For several threads at once.

    Args:
        settings: Where and how.
        clock: For what the service says about time.
        age: What is too old to be sent; OTLP itself does not tell.
        retry_policy: How long to try one batch.
        timeouts: Of each request, instead of the settings'.
    """

    limits = LIMITS
    columns: Sequence[str] | None = None
    future_limit = None

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
        self._endpoint = Endpoint(settings, clock=clock, timeouts=timeouts)

    @property
    def name(self) -> str:
        """What the ledger knows it by, as `otlp:<host>[:port]/<path>`; see `naming.py`."""
        return self._settings.name

    def encode(self, rows: SpanRows) -> list[Item]:
        """The rows' spans. Pure."""
        return codec.items(rows, self._settings.resource)

    def send(self, items: Sequence[Item]) -> SendResult:
        """What the endpoint says to `items`; errors as `Destination.send` has them."""
        taken = self._endpoint.post(body_of(items))
        return answer(
            taken.response, len(items), sent_bytes=taken.sent_bytes, words=self._endpoint.words
        )

    def trace_link(self, trace_id: str, *, start_ns: int, end_ns: int) -> None:
        """None: OTLP does not tell where its traces are looked at."""

    def close(self) -> None:
        """Close the idle connections. Sending again opens new ones."""
        self._endpoint.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.place!r})"

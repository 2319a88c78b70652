"""An OTLP/HTTP endpoint as a destination: whole spans, each with its links."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import pyarrow as pa

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.destination import Answer, Item, Limits
from bk_pipeline.deliver.otlp import columns
from bk_pipeline.deliver.otlp.answers import PROTOBUF, Words, answer, refusal
from bk_pipeline.deliver.otlp.framing import FRAMING_BYTES, body_of
from bk_pipeline.deliver.otlp.naming import secrets_in
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import Compression
from bk_pipeline.errors import ServiceUnavailable
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.http.session import HttpSession, Response, Timeouts

# The specification recommends 20 MiB. But gRPC servers take messages of 4 MiB unless told
# otherwise, and a collector passes on by gRPC, whole, what it took by HTTP; a little less
# than that, because it may add attributes.
BATCH_BYTES = 4 * 1024 * 1024 - 256 * 1024
# Fewer cost time (250: a quarter more CPU a span), more gain none, and what is in flight
# when a process dies may be doubled.
BATCH_SPANS = 1_000
LIMITS = Limits(BATCH_BYTES, BATCH_SPANS, shared_framing_bytes=FRAMING_BYTES)
# Makes a tenth of a body; level 6 would make a fourteenth, at half the speed.
GZIP_LEVEL = 1
WORDS_LIMIT = 200
GRPC_PORT = ":4317"


class Otlp:
    """Sends spans to an OTLP/HTTP endpoint. For several threads at once.

    Args:
        settings: Where and how.
        clock: For what the service says about time.
        retry_policy: How long to try one batch.
        timeouts: Of each request, instead of the settings'.
    """

    limits = LIMITS
    # What backends keep, and for how long, OTLP does not tell.
    max_age = None
    future_limit = None

    def __init__(
        self,
        settings: OtlpSettings,
        *,
        clock: Clock,
        retry_policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.retry = retry_policy or RetryPolicy()
        self._settings = settings
        self._clock = clock
        self._session = HttpSession(
            settings.url,
            setting=settings.endpoint_variable,
            headers=settings.headers,
            timeouts=timeouts or settings.timeouts,
            ca_file=settings.ca_file,
            client_cert=settings.client_cert,
            clock=clock,
        )
        self._secrets = secrets_in(settings.url)
        self._place = f"The OTLP endpoint {settings.place}"
        self._words = Words(
            self._place, settings.endpoint_variable, settings.headers_variable, self._quote
        )
        self._headers = {"Content-Type": PROTOBUF[0]}
        if settings.compression is Compression.GZIP:
            self._headers["Content-Encoding"] = "gzip"

    @property
    def name(self) -> str:
        """`otlp:<host>[:port]/<path>`, and a tenant's mark where one is known; see `naming.py`."""
        return self._settings.name

    def encode(self, table: pa.Table) -> list[Item]:
        """The table's spans. Pure."""
        return columns.items(table, self._settings.resource)

    def send(self, items: Sequence[Item]) -> Answer:
        """What the endpoint says to `items`; errors as `Destination.send` has them."""
        body = body_of(items)
        if self._settings.compression is Compression.GZIP:
            body = gzip.compress(body, GZIP_LEVEL, mtime=0)
        response = self._ask(body)
        failed = refusal(response, words=self._words, now=self._clock.now())
        if failed is not None:
            raise failed
        return answer(response, len(items), sent_bytes=len(body), words=self._words)

    def close(self) -> None:
        """Close the idle connections. Sending again opens new ones."""
        self._session.close()

    def __repr__(self) -> str:
        return f"Otlp({self._settings.place!r})"

    def _ask(self, body: bytes) -> Response:
        settings = self._settings
        try:
            return self._session.send("POST", settings.url, body=body, headers=self._headers)
        except ServiceUnavailable as exc:
            hint = ""
            if GRPC_PORT in settings.place:
                hint = " Port 4317 is gRPC's by custom, OTLP/HTTP's is 4318."
            raise ServiceUnavailable(
                f"{self._place} cannot be reached. {exc} Check {settings.endpoint_variable} and "
                f"the network if that goes on.{hint}",
                maybe_processed=exc.maybe_processed,
            ) from exc

    def _quote(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return self._session.quote(text, limit=WORDS_LIMIT)

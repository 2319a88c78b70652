"""Posting bodies to an OTLP/HTTP endpoint, whatever signal is in them."""

from __future__ import annotations

import gzip
from typing import NamedTuple

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.otlp.answers import PROTOBUF, Words, refusal
from bk_pipeline.deliver.otlp.naming import secrets_in
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import Compression
from bk_pipeline.errors import ServiceUnavailable
from bk_pipeline.http.answers import unreachable
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

"""An OTLP/HTTP endpoint as a destination: whole spans, each with its links."""

from __future__ import annotations

from collections.abc import Sequence

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.destination import Answer, Item, Limits
from bk_pipeline.deliver.max_age import NO_LIMIT, MaxAge
from bk_pipeline.deliver.otlp import codec
from bk_pipeline.deliver.otlp.answers import answer
from bk_pipeline.deliver.otlp.endpoint import Endpoint
from bk_pipeline.deliver.otlp.framing import FRAMING_BYTES, body_of
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.http.session import Timeouts

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
        self.max_age_sentence = age.sentence
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

    def send(self, items: Sequence[Item]) -> Answer:
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

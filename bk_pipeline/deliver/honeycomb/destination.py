"""Honeycomb as a destination: one dataset of one environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from threading import Lock, local
from typing import Self
from urllib.parse import quote, urlencode, urlsplit
from urllib.parse import quote as percent_encoded

import zstandard

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.destination import Item, Limits, SendResult
from bk_pipeline.deliver.honeycomb import codec
from bk_pipeline.deliver.honeycomb.answers import outcomes, refusal
from bk_pipeline.deliver.honeycomb.shape import BATCH_BYTES, BATCH_EVENTS, Shape, TraceIdStyle
from bk_pipeline.deliver.max_age import honeycomb_max_age
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import AccessDenied, NotFound, RequestRefused, ServiceUnavailable
from bk_pipeline.honeycomb.account import Account, account_in, base_url, dataset_slug, host_shown
from bk_pipeline.http.answers import unreachable
from bk_pipeline.http.network import Network
from bk_pipeline.http.retry import RetryPolicy, retry
from bk_pipeline.http.session import HttpSession, Response, Timeouts
from bk_pipeline.settings import Settings
from bk_pipeline.units import NS_PER_S

# Around a trace in its link; without times a trace must be of the last two hours.
LINK_MARGIN_S = 60


def trace_link(
    account: Account, *, endpoint: str, dataset: str, trace_text: str, start_ns: int, end_ns: int
) -> str:
    """The page that shows a trace.

    Args:
        account: Whose it is.
        endpoint: The API's URL, US or EU.
        dataset: Its name.
        trace_text: The trace's id as the events have it.
        start_ns: The root's start.
        end_ns: The root's end.
    """
    parts = urlsplit(endpoint)
    host = parts.netloc.replace("api", "ui", 1)
    environment = (
        f"/environments/{percent_encoded(account.environment)}" if account.environment else ""
    )
    query = urlencode(
        {
            "trace_id": trace_text,
            "trace_start_ts": start_ns // NS_PER_S - LINK_MARGIN_S,
            "trace_end_ts": -(-end_ns // NS_PER_S) + LINK_MARGIN_S,
        }
    )
    page = f"{percent_encoded(account.team)}{environment}/datasets/{percent_encoded(dataset_slug(dataset))}/trace"
    return f"{parts.scheme}://{host}/{page}?{query}"


# The retention of most plans; what is older is taken with a 202 and never shown.
MAX_AGE = timedelta(days=60)
# Further ahead, and Honeycomb puts the time of receipt in the place of a span's own.
FUTURE_LIMIT = timedelta(hours=1)
# Beyond level 1 it gets slower and hardly smaller.
ZSTD_LEVEL = 1
WORDS_LIMIT = 200
# Here there is a `/1/auth`, whatever a 404 says.
OWN_HOSTS = ".honeycomb.io"
HEADERS = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
LIMITS = Limits(BATCH_BYTES, BATCH_EVENTS, framing_bytes=2, separator_bytes=1)


class Honeycomb:
    """Sends events to a dataset. For several threads at once.

    Args:
        endpoint: The API's URL.
        key: Ingest key, or a configuration key that may send events.
        dataset: Its name; also the events' `service.name`.
        clock: For what the service says about time.
        style: How trace ids are written.
        max_age: Older spans are not sent; None: all are.
        max_age_description: The same for people.
        retry_policy: How long to try one batch.
        timeouts: Of each request.
        network: Proxies and CA bundle; by default those that are exported.
    """

    limits = LIMITS
    future_limit = FUTURE_LIMIT
    max_age_by_end = False
    columns = None

    def __init__(
        self,
        endpoint: str,
        key: str,
        dataset: str,
        *,
        clock: Clock,
        style: TraceIdStyle = TraceIdStyle.OTEL,
        max_age: timedelta | None = MAX_AGE,
        max_age_description: str = "",
        retry_policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        network: Network | None = None,
    ) -> None:
        endpoint = base_url(endpoint)
        self.max_age = max_age
        self.max_age_description = max_age_description
        self.retry = retry_policy or RetryPolicy()
        self._dataset = dataset
        self._clock = clock
        self._shape = Shape(dataset, style)
        self._session = HttpSession(
            endpoint,
            setting="HONEYCOMB_API_ENDPOINT",
            headers={"X-Honeycomb-Team": key},
            timeouts=timeouts or Timeouts.for_deadline(self.retry.deadline_s),
            network=network,
            clock=clock,
        )
        self._endpoint = endpoint
        self._host = host_shown(endpoint)
        self._place = f"Honeycomb (dataset {dataset} at {self._host})"
        self._path = f"/1/batch/{quote(dataset, safe='')}"
        self._own = local()
        self._naming = Lock()
        self._account: Account | None = None
        self._name: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings, *, clock: Clock) -> Self:
        """The one that the settings describe.

        Raises:
            ConfigError: No key is set.
        """
        age = honeycomb_max_age(settings)
        return cls(
            settings.honeycomb_api_endpoint,
            settings.require_honeycomb(),
            settings.honeycomb_dataset,
            clock=clock,
            style=TraceIdStyle(settings.trace_id_style),
            max_age=age.limit,
            max_age_description=age.description,
            retry_policy=RetryPolicy(deadline_s=settings.http_deadline_s),
            network=Network.of(settings.environment),
        )

    @property
    def name(self) -> str:
        """`honeycomb:<host>/<team>/<environment>/<dataset>`; a classic key's has no environment.

        Honeycomb is asked once whose the key is: with another key of the same environment it
        is the same destination, and with one of another environment it is not. A proxy that
        only takes events and has no `/1/auth` is `honeycomb:<host>/<dataset>`.

        Raises:
            PipelineError: As `describe`, after the retries.
        """
        with self._naming:
            if self._name is None:
                self._name = f"honeycomb:{self._host}/{'/'.join(self._whereabouts())}"
            return self._name

    def describe(self) -> Account:
        """Whose the key is and what it may do; asked once.

        Raises:
            TokenRefused: The key is unknown.
            NotFound: There is no `/1/auth` here.
            RetryableError: No answer until the deadline.
            UnexpectedAnswer: Something else answered.
        """
        if self._account is None:
            self._account = retry(self._ask_account, policy=self.retry, clock=self._clock)
        return self._account

    def trace_link(self, trace_id: str, *, start_ns: int, end_ns: int) -> str:
        """Honeycomb's page of a trace, given its 32 hex digits and its root's start and end.

        Raises:
            PipelineError: As `describe`.
        """
        return trace_link(
            self.describe(),
            endpoint=self._endpoint,
            dataset=self._dataset,
            trace_text=self._shape.trace_text(trace_id),
            start_ns=start_ns,
            end_ns=end_ns,
        )

    def encode(self, rows: SpanRows) -> list[Item]:
        """The events of the rows' spans and of their links. Pure."""
        return codec.items(rows, self._shape)

    def send(self, items: Sequence[Item]) -> SendResult:
        """What Honeycomb says to `items`; errors as `Destination.send` has them."""
        body = self._compressed(codec.body_of(items))
        response = self._ask("POST", self._path, body=body, headers=HEADERS)
        answered = outcomes(response, len(items), place=self._place, quote=self._quote)
        return SendResult(answered, len(body))

    def close(self) -> None:
        """Close the idle connections. Sending again opens new ones."""
        self._session.close()

    def __repr__(self) -> str:
        return f"Honeycomb({self._dataset!r} at {self._host!r})"

    def _whereabouts(self) -> list[str]:
        slug = dataset_slug(self._dataset)
        try:
            account = self.describe()
        except (NotFound, RequestRefused):
            if self._host.endswith(OWN_HOSTS):
                raise  # never another name for the same place: all would be sent again
            return [slug]
        if not account.may_send_events:
            raise AccessDenied(
                f"The key in HONEYCOMB_API_KEY may not send events to {self._place}. Give it the "
                "permission Send Events, or put an ingest key there."
            )
        return [part for part in (account.team, account.environment, slug) if part]

    def _ask_account(self) -> Account:
        return account_in(self._ask("GET", "/1/auth"), place=self._place, quote=self._quote)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer, if it is a 2xx."""
        try:
            response = self._session.send(method, path, body=body, headers=headers)
        except ServiceUnavailable as exc:
            raise unreachable(self._place, exc, setting=self._session.setting) from exc
        failed = refusal(response, place=self._place, quote=self._quote, now=self._clock.now())
        if failed is not None:
            raise failed
        return response

    def _compressed(self, body: bytes) -> bytes:
        compressor = getattr(self._own, "compressor", None)
        if compressor is None:
            compressor = self._own.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        compressed: bytes = compressor.compress(body)
        return compressed

    def _quote(self, text: str) -> str:
        return self._session.quote(text, limit=WORDS_LIMIT)

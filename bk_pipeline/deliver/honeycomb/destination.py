"""Honeycomb as a destination: one dataset of one environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from threading import Lock, local
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit
from urllib.parse import quote as percent_encoded

import msgspec
import zstandard

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.delivery import honeycomb_max_age
from bk_pipeline.deliver.destination import DROPPED, Item, Limits, Probe, SendResult
from bk_pipeline.deliver.honeycomb import codec
from bk_pipeline.deliver.honeycomb.answers import outcomes, refusal
from bk_pipeline.deliver.honeycomb.shape import BATCH_BYTES, BATCH_EVENTS, Shape, TraceIdStyle
from bk_pipeline.deliver.resource import SERVICE_NAME, resource_attributes
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.display import web_host
from bk_pipeline.errors import (
    AccessDenied,
    NotFound,
    RequestRefused,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from bk_pipeline.honeycomb.account import (
    INGEST,
    Account,
    base_url,
    dataset_slug,
    host_and_port,
    parse_account,
)
from bk_pipeline.http.answers import unreachable
from bk_pipeline.http.network import Network, Timeouts
from bk_pipeline.http.retry import RetryPolicy, retry
from bk_pipeline.http.session import HttpSession, Response
from bk_pipeline.settings import Settings
from bk_pipeline.units import NS_PER_S

# The margin around a trace in its link; without times, Honeycomb searches the last two hours.
LINK_MARGIN_S = 60


def dataset_link(account: Account, *, endpoint: str, dataset: str) -> str:
    """Return the URL of the page of a dataset; arguments as for `trace_link`."""
    parts = urlsplit(endpoint)
    host = web_host(endpoint, "ui.") + (f":{parts.port}" if parts.port else "")
    environment = (
        f"/environments/{percent_encoded(account.environment)}" if account.environment else ""
    )
    slug = percent_encoded(dataset_slug(dataset))
    return f"{parts.scheme}://{host}/{percent_encoded(account.team)}{environment}/datasets/{slug}"


def trace_link(
    account: Account, *, endpoint: str, dataset: str, trace_text: str, start_ns: int, end_ns: int
) -> str:
    """Return the URL of the page that shows a trace.

    Args:
        account: The account of the key.
        endpoint: The URL of the API, US or EU.
        dataset: The name of the dataset.
        trace_text: The trace id as written in events.
        start_ns: The start of the root span, in nanoseconds since 1970.
        end_ns: The end of the root span, in nanoseconds since 1970.
    """
    query = urlencode(
        {
            "trace_id": trace_text,
            "trace_start_ts": start_ns // NS_PER_S - LINK_MARGIN_S,
            "trace_end_ts": -(-end_ns // NS_PER_S) + LINK_MARGIN_S,
        }
    )
    page = dataset_link(account, endpoint=endpoint, dataset=dataset)
    return f"{page}/trace?{query}"


# The retention of most plans; Honeycomb accepts older events with a 202 but never shows them.
MAX_AGE = timedelta(days=60)
# If a span is further in the future, Honeycomb replaces its time by the time of receipt.
FUTURE_LIMIT = timedelta(hours=1)
# Higher levels are slower and compress hardly better.
ZSTD_LEVEL = 1
MESSAGE_LIMIT = 200
# These hosts have a `/1/auth`, even if they return a 404.
HONEYCOMB_HOSTS = ".honeycomb.io"
HEADERS = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
LIMITS = Limits(BATCH_BYTES, BATCH_EVENTS, framing_bytes=2, separator_bytes=1)


class Honeycomb:
    """Sends events to a dataset. Thread-safe.

    Args:
        endpoint: The URL of the API.
        key: An ingest key, or a configuration key that may send events.
        dataset: The name of the dataset.
        clock: The clock for retries and `Retry-After` dates.
        style: How trace ids are written.
        resource: The resource attributes of all events. Default: the dataset as service name.
        service_template: The template of the service name of each pipeline's events.
        max_age: Older spans are not sent; None sends spans of any age.
        max_age_description: A sentence about that limit.
        retry_policy: How long to retry one batch.
        timeouts: The timeouts of each request.
        network: Proxies and CA bundle; by default those of the environment.
    """

    limits = LIMITS
    future_limit = FUTURE_LIMIT
    max_age_by_end = False
    columns = None
    sampled = True

    def __init__(
        self,
        endpoint: str,
        key: str,
        dataset: str,
        *,
        clock: Clock,
        style: TraceIdStyle = TraceIdStyle.OTEL,
        resource: Mapping[str, str] | None = None,
        service_template: str = "",
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
        attributes = {SERVICE_NAME: dataset} | dict(resource or {})
        self._shape = Shape(attributes.pop(SERVICE_NAME), style, attributes, service_template)
        self._session = HttpSession(
            endpoint,
            setting="HONEYCOMB_API_ENDPOINT",
            headers={"X-Honeycomb-Team": key},
            timeouts=timeouts or Timeouts.for_deadline(self.retry.deadline_s),
            network=network,
            clock=clock,
        )
        self._endpoint = endpoint
        self._host = host_and_port(endpoint)
        self._place = f"Honeycomb (dataset {dataset} at {self._host})"
        self._path = f"/1/batch/{quote(dataset, safe='')}"
        self._thread_local = local()
        self._name_lock = Lock()
        self._account: Account | None = None
        self._name: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings, *, clock: Clock) -> Self:
        """Return the destination that the settings describe.

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
            resource=resource_attributes(
                settings.environment, default_service=settings.honeycomb_dataset
            ),
            service_template=settings.spans_service_name or "",
            max_age=age.limit,
            max_age_description=age.description,
            retry_policy=RetryPolicy(deadline_s=settings.http_deadline_s),
            network=Network.of(settings.environment),
        )

    @property
    def name(self) -> str:
        """`honeycomb:<host>/<team>/<environment>/<dataset>`; no environment for a classic key.

        Honeycomb is asked once for the account of the key: another key of the same environment is
        the same destination, a key of another environment is not. A proxy that only accepts events
        and has no `/1/auth` is `honeycomb:<host>/<dataset>`.

        Raises:
            PipelineError: Like `describe`, after retries.
        """
        with self._name_lock:
            if self._name is None:
                self._name = f"honeycomb:{self._host}/{'/'.join(self._name_parts())}"
            return self._name

    def describe(self) -> Account:
        """Return the account and permissions of the key; asks the API once.

        Raises:
            TokenRefused: The key is unknown.
            NotFound: There is no `/1/auth` at this endpoint.
            RetryableError: There was no response until the deadline.
            UnexpectedAnswer: The response is not Honeycomb's.
        """
        if self._account is None:
            self._account = retry(self._fetch_account, policy=self.retry, clock=self._clock)
        return self._account

    def probe(self) -> Probe:
        """Return what the key permits. Raises like `name`."""
        name, account = self.name, self.describe()
        kind = "an ingest key" if account.key_kind == INGEST else f"a {account.key_kind} key"
        if not account.may_create_datasets:
            return Probe(
                f"{kind} of {name}. It may not create datasets: create that one in Honeycomb "
                "first, unless it is there, or give the key the permission Create Datasets.",
                is_warning=True,
            )
        return Probe(
            f"{kind} of {name}; it may send events and create datasets. {self.max_age_description}"
        )

    def trace_link(self, trace_id: str, *, start_ns: int, end_ns: int) -> str:
        """Return the URL of Honeycomb's page of a trace, see `Destination.trace_link`.

        Raises:
            PipelineError: Like `describe`.
        """
        return trace_link(
            self.describe(),
            endpoint=self._endpoint,
            dataset=self._dataset,
            trace_text=self._shape.trace_text(trace_id),
            start_ns=start_ns,
            end_ns=end_ns,
        )

    def page_link(self) -> str:
        """Return the URL of the dataset's page, see `Destination.page_link`.

        Raises:
            PipelineError: Like `describe`.
        """
        return dataset_link(self.describe(), endpoint=self._endpoint, dataset=self._dataset)

    def encode(self, rows: SpanRows) -> list[Item]:
        """Return the events of the rows' spans and links. Pure."""
        return codec.items(rows, self._shape)

    def send(self, items: Sequence[Item]) -> SendResult:
        """Send `items` and return their outcomes. Raises like `Destination.send`."""
        body = self._compressed(codec.body_of(items))
        response = self._request("POST", self._path, body=body, headers=HEADERS)
        results = outcomes(response, len(items), place=self._place, quote=self._quote)
        return SendResult(results, len(body))

    def send_event(self, data: Mapping[str, Any], *, at: datetime) -> None:
        """Send one event by itself, with its time in a header. It is not in the ledger.

        Raises:
            UnexpectedAnswer: Honeycomb says that it dropped the event.
            PipelineError: Like `send`, without retries.
        """
        headers = {
            "Content-Type": "application/json",
            "X-Honeycomb-Event-Time": at.isoformat(),
            "X-Honeycomb-Samplerate": "1",
        }
        path = f"/1/events/{quote(self._dataset, safe='')}"
        response = self._request("POST", path, body=msgspec.json.encode(data), headers=headers)
        answer = self._quote(response.body.decode(errors="replace"))
        if DROPPED.search(answer):
            raise UnexpectedAnswer(f"{self._place} dropped the event: {answer}")

    def close(self) -> None:
        """Close the idle connections. Sending again opens new ones."""
        self._session.close()

    def __repr__(self) -> str:
        return f"Honeycomb({self._dataset!r} at {self._host!r})"

    def _name_parts(self) -> list[str]:
        slug = dataset_slug(self._dataset)
        try:
            account = self.describe()
        except (NotFound, RequestRefused):
            if self._host.endswith(HONEYCOMB_HOSTS):
                raise  # another name for the same place would send everything again
            return [slug]
        if not account.may_send_events:
            raise AccessDenied(
                f"The key in HONEYCOMB_API_KEY may not send events to {self._place}. Give it the "
                "permission Send Events, or set an ingest key."
            )
        return [part for part in (account.team, account.environment, slug) if part]

    def _fetch_account(self) -> Account:
        return parse_account(self._request("GET", "/1/auth"), place=self._place, quote=self._quote)

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request and return the response if it is a 2xx."""
        try:
            response = self._session.send(method, path, body=body, headers=headers)
        except ServiceUnavailable as exc:
            raise unreachable(self._place, exc, setting=self._session.setting) from exc
        error = refusal(response, place=self._place, quote=self._quote, now=self._clock.now())
        if error is not None:
            raise error
        return response

    def _compressed(self, body: bytes) -> bytes:
        compressor = getattr(self._thread_local, "compressor", None)
        if compressor is None:
            compressor = self._thread_local.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        compressed: bytes = compressor.compress(body)
        return compressed

    def _quote(self, text: str) -> str:
        return self._session.quote(text, limit=MESSAGE_LIMIT)

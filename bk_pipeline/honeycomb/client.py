"""Honeycomb's markers API: list, create, update, delete; the colours of types; errors by status.

Source: Honeycomb's API description, "Markers" and "Marker Settings". There is no idempotency
key: after an answer that never came, the list says whether the marker was made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote as percent_encoded

import msgspec

from bk_pipeline.clock import Clock
from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    NotFound,
    PipelineError,
    RequestRefused,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.honeycomb.account import INGEST, Account, base_url, host_and_port, parse_account
from bk_pipeline.honeycomb.rules import ListedMarker, Marker
from bk_pipeline.http import answers
from bk_pipeline.http.answers import Quote, body_summary, decoded, error_detail, unreachable
from bk_pipeline.http.network import Network, Timeouts
from bk_pipeline.http.retry import RateLimiter, RetryPolicy, retry, retry_after_s
from bk_pipeline.http.session import HttpSession, Response
from bk_pipeline.settings import Settings

# What a key for markers needs.
KEY = (
    "Markers need a configuration key with the permission Manage Markers, which no ingest key "
    "has: create one under Environment Settings > API Keys > Configuration in Honeycomb and put "
    "it into HONEYCOMB_CONFIGURATION_KEY."
)


def refusal(
    response: Response, *, place: str, dataset: str, quote: Quote, now: datetime
) -> PipelineError | None:
    """Return the error for a response's status; None for a 2xx.

    Args:
        response: The response.
        place: Honeycomb's host.
        dataset: The slug of the dataset in the request, or empty.
        quote: Makes text from the service safe to show.
        now: The current time, for `Retry-After`.
    """
    if response.ok:
        return None
    detail = error_detail(response, quote)
    messages = _messages(response, detail, place, dataset)
    retry_in_s = retry_after_s(response.headers, now)
    return answers.refusal(response, detail, messages, retry_in_s=retry_in_s)


def _messages(
    response: Response, detail: str, place: str, dataset: str
) -> dict[type[PipelineError], str]:
    status = response.status
    not_found = (
        f"{place} does not know {response.request} (404: {detail}). Check "
        "HONEYCOMB_API_ENDPOINT: a proxy for events only does not support markers."
    )
    if dataset:
        not_found = (
            f"{place} has no dataset {dataset} (404: {detail}). The first events create "
            "it: materialize honeycomb_events first, or name another dataset, or __all__ for "
            "the whole environment, in the rules file."
        )
    return {
        DeliveryThrottled: (
            f"{place} accepts no more calls at the moment (429: {detail}). Run again later; "
            "markers placed so far are recorded."
        ),
        ServiceUnavailable: (
            f"{place} has a server error ({status}: {detail}). If this persists, see "
            "https://status.honeycomb.io."
        ),
        TokenRefused: (
            f"{place} rejects the key in HONEYCOMB_CONFIGURATION_KEY: it is unknown or may not "
            f"manage markers (401: {detail}). {KEY} A key of the EU region needs "
            "HONEYCOMB_API_ENDPOINT=https://api.eu1.honeycomb.io."
        ),
        AccessDenied: (
            f"{place} does not allow this call with the key in HONEYCOMB_CONFIGURATION_KEY "
            f"(403: {detail}). {KEY}"
        ),
        NotFound: not_found,
        RequestRefused: (
            f"{place} rejected {response.request} ({status}: {detail}). Sending it again "
            "does not help; check the rule's type, message and url."
        ),
    }


T = TypeVar("T")
HEADERS = {"Content-Type": "application/json"}
MARKERS = "/1/markers"
MARKER_SETTINGS = "/1/marker_settings"


class Color(msgspec.Struct, frozen=True):
    """A marker setting: the colour of a type's markers in a dataset."""

    id: str
    type: str
    color: str


def _silent(_: str) -> None:
    """Ignore a message."""


class MarkerClient:
    """A client for markers, with one configuration key of one environment. Not thread-safe.

    Datasets are slugs, or `__all__`. Every method may raise a PipelineError: RetryableError after
    the deadline, TokenRefused or AccessDenied for the key, NotFound for the dataset.

    Args:
        endpoint: The URL of the API.
        key: A configuration key with Manage Markers.
        clock: The clock for retries and rate limits.
        retry_policy: How long to retry one call.
        timeouts: The timeouts of each request.
        network: Proxies and CA bundle; by default those of the environment.
        on_wait: Called with a sentence before each wait for the rate limit.
    """

    def __init__(
        self,
        endpoint: str,
        key: str,
        *,
        clock: Clock,
        retry_policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        network: Network | None = None,
        on_wait: Callable[[str], None] = _silent,
    ) -> None:
        self._clock = clock
        self._retry = retry_policy or RetryPolicy()
        self._limiter = RateLimiter()
        self._on_wait = on_wait
        self._session = HttpSession(
            base_url(endpoint),
            setting="HONEYCOMB_API_ENDPOINT",
            headers={"X-Honeycomb-Team": key},
            timeouts=timeouts or Timeouts.for_deadline(self._retry.deadline_s),
            network=network,
            clock=clock,
        )
        self._host = host_and_port(endpoint)
        self._place = f"Honeycomb ({self._host})"
        self._name: str | None = None
        self.request_count = 0

    @classmethod
    def from_settings(
        cls, settings: Settings, *, clock: Clock, on_wait: Callable[[str], None] = _silent
    ) -> Self:
        """Return the client that the settings describe.

        Raises:
            ConfigError: No configuration key is set.
        """
        return cls(
            settings.honeycomb_api_endpoint,
            settings.require_configuration_key(),
            clock=clock,
            retry_policy=RetryPolicy(deadline_s=settings.http_deadline_s),
            network=Network.of(settings.environment),
            on_wait=on_wait,
        )

    @property
    def name(self) -> str:
        """`markers:<host>/<team>/<environment>`, the place's id in the ledger. Requested once.

        Raises:
            AccessDenied: The key is an ingest key, or may not manage markers.
        """
        if self._name is None:
            account = retry(self._account, policy=self._retry, clock=self._clock)
            _require_marker_permission(account)
            parts = [part for part in (account.team, account.environment) if part]
            self._name = f"markers:{self._host}/{'/'.join(parts)}"
        return self._name

    def list_markers(self, dataset: str) -> list[ListedMarker]:
        """Return all markers of the dataset, by anyone; none if the dataset does not exist."""
        try:
            return self._call("GET", MARKERS, dataset, answer=list[ListedMarker])
        except NotFound:
            return []

    def create(self, dataset: str, marker: Marker, *, others: Collection[str]) -> tuple[str, bool]:
        """Create a marker, without duplicating it if a response is lost.

        If there is no response, the marker may have been created. Before another attempt, the list
        is therefore searched for it.

        Args:
            dataset: The dataset of the marker.
            marker: The marker.
            others: The ids of markers that existed before.

        Returns:
            The id of the marker, and whether it was found in the list.
        """
        maybe_created = False

        def attempt() -> tuple[str, bool]:
            nonlocal maybe_created
            if maybe_created:
                for one in self._once("GET", MARKERS, dataset, answer=list[ListedMarker]):
                    if one.id not in others and one.equals(marker):
                        return one.id, True
            try:
                created = self._once("POST", MARKERS, dataset, body=marker, answer=ListedMarker)
            except ServiceUnavailable as exc:
                maybe_created = maybe_created or exc.maybe_processed
                raise
            return created.id, False

        return retry(attempt, policy=self._retry, clock=self._clock)

    def update(self, dataset: str, marker_id: str, marker: Marker) -> bool:
        """Replace all of a marker by `marker`; return False if it does not exist."""
        return self._exists("PUT", MARKERS, dataset, marker_id, body=marker, answer=ListedMarker)

    def delete(self, dataset: str, marker_id: str) -> bool:
        """Delete a marker; return False if it does not exist."""
        return self._exists("DELETE", MARKERS, dataset, marker_id, answer=msgspec.Raw)

    def colors(self, dataset: str) -> list[Color]:
        """Return the colours of types in the dataset."""
        return self._call("GET", MARKER_SETTINGS, dataset, answer=list[Color])

    def set_color(self, dataset: str, setting: Color) -> None:
        """Set a type's colour: change the setting with `id`, or create one if that is empty."""
        body = {"type": setting.type, "color": setting.color}
        method = "PUT" if setting.id else "POST"
        item = [setting.id] if setting.id else []
        self._call(method, MARKER_SETTINGS, dataset, *item, body=body, answer=msgspec.Raw)

    def close(self) -> None:
        """Close the idle connections. Further calls open new ones."""
        self._session.close()

    def __repr__(self) -> str:
        return f"MarkerClient({self._host!r})"

    def _account(self) -> Account:
        return parse_account(self._request("GET", "/1/auth"), place=self._place, quote=self._quote)

    def _exists(self, method: str, *path: str, answer: type[T], body: Any = None) -> bool:
        """Make a call on a marker; return False if the marker does not exist."""
        try:
            self._call(method, *path, answer=answer, body=body)
        except NotFound:
            return False
        return True

    def _call(self, method: str, *path: str, answer: type[T], body: Any = None) -> T:
        """Make a call with retries; the call must be idempotent."""
        return retry(
            lambda: self._once(method, *path, answer=answer, body=body),
            policy=self._retry,
            clock=self._clock,
        )

    def _once(
        self,
        method: str,
        api: str,
        dataset: str,
        *item: str,
        answer: type[T],
        body: Any = None,
    ) -> T:
        path = "/".join([api, percent_encoded(dataset, safe=""), *item])
        response = self._request(method, path, dataset=dataset, body=body)

        def unexpected() -> UnexpectedAnswer:
            shown = body_summary(response, self._quote)
            return UnexpectedAnswer(
                f"{self._place} answered {response.request} with {shown}. "
                "Check HONEYCOMB_API_ENDPOINT and any proxy in between, then run again; markers "
                "placed so far are found."
            )

        return decoded(response, answer, place=self._place, unexpected=unexpected)

    def _request(self, method: str, path: str, *, dataset: str = "", body: Any = None) -> Response:
        """Send a request and return the response if it is a 2xx."""
        self._limiter.enter(self._clock, on_wait=self._announce)
        self.request_count += 1
        content = None if body is None else msgspec.json.encode(body)
        headers = None if body is None else HEADERS
        try:
            response = self._session.send(method, path, body=content, headers=headers)
        except ServiceUnavailable as exc:
            raise unreachable(self._place, exc, setting=self._session.setting) from exc
        self._limiter.learn(response.headers, clock=self._clock)
        error = refusal(
            response, place=self._place, dataset=dataset, quote=self._quote, now=self._clock.now()
        )
        if error is not None:
            raise error
        return response

    def _announce(self, seconds: float) -> None:
        self._on_wait(f"Honeycomb's limit on such calls is reached: waiting {seconds:.0f} s")

    def _quote(self, text: str) -> str:
        return self._session.quote(text)


def _require_marker_permission(account: Account) -> None:
    if account.key_kind == INGEST:
        raise AccessDenied(f"The key in HONEYCOMB_CONFIGURATION_KEY is an ingest key. {KEY}")
    if not account.may_place_markers:
        raise AccessDenied(f"The key in HONEYCOMB_CONFIGURATION_KEY may not manage markers. {KEY}")

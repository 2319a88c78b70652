"""Honeycomb's markers API: list, create, update, delete; and the colours of types.

Source: Honeycomb's API description, "Markers" and "Marker Settings". There is no idempotency
key: after an answer that never came, the list says whether the marker was made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Self, TypeVar
from urllib.parse import quote as percent_encoded

import msgspec

from bk_pipeline.clock import Clock
from bk_pipeline.errors import AccessDenied, NotFound, ServiceUnavailable, UnexpectedAnswer
from bk_pipeline.honeycomb.account import INGEST, Account, account_in, base_url, host_shown
from bk_pipeline.honeycomb.answers import KEY, refusal
from bk_pipeline.honeycomb.marker import Listed, Marker
from bk_pipeline.http.answers import body_shown, decoded, unreachable
from bk_pipeline.http.limiter import RateLimiter
from bk_pipeline.http.network import Network
from bk_pipeline.http.retry import RetryPolicy, retry
from bk_pipeline.http.session import HttpSession, Response, Timeouts
from bk_pipeline.settings import Settings

T = TypeVar("T")
HEADERS = {"Content-Type": "application/json"}
MARKERS = "/1/markers"
COLORS = "/1/marker_settings"


class Color(msgspec.Struct, frozen=True):
    """A marker setting: the colour of a type's markers in a dataset."""

    id: str
    type: str
    color: str


def _silent(_: str) -> None:
    """Nobody wants to know."""


class MarkerClient:
    """Speaks for one configuration key, and so for one environment. For one thread.

    Datasets are slugs, or `__all__`. Every method may raise a PipelineError: RetryableError
    when the deadline has come, TokenRefused and AccessDenied for the key, NotFound for the
    dataset.

    Args:
        endpoint: The API's URL.
        key: A configuration key with Manage Markers.
        clock: Tells time and waits.
        retry_policy: How long to try one call.
        timeouts: Of each request.
        network: Proxies and CA bundle; by default those that are exported.
        on_wait: Told of waits for the rate limit.
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
        self._host = host_shown(endpoint)
        self._place = f"Honeycomb ({self._host})"
        self._name: str | None = None
        self.request_count = 0

    @classmethod
    def from_settings(
        cls, settings: Settings, *, clock: Clock, on_wait: Callable[[str], None] = _silent
    ) -> Self:
        """The one that the settings describe.

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
        """`markers:<host>/<team>/<environment>`: what the ledger knows the place by. Asked once.

        Raises:
            AccessDenied: The key is an ingest key, or may not manage markers.
        """
        if self._name is None:
            account = retry(self._account, policy=self._retry, clock=self._clock)
            _refuse_powerless(account)
            where = [part for part in (account.team, account.environment) if part]
            self._name = f"markers:{self._host}/{'/'.join(where)}"
        return self._name

    def listed(self, dataset: str) -> list[Listed]:
        """All markers of the dataset, whoever made them; none if there is no such dataset."""
        try:
            return self._call("GET", MARKERS, dataset, answer=list[Listed])
        except NotFound:
            return []

    def create(self, dataset: str, marker: Marker, *, others: Collection[str]) -> tuple[str, bool]:
        """The id of the new marker, and whether it had to be found again.

        Where an answer does not come, the marker may have been made nevertheless: then the list
        is searched before another one is made.

        Args:
            dataset: Where.
            marker: What.
            others: Ids of markers that were there before.
        """
        lost = False

        def attempt() -> tuple[str, bool]:
            nonlocal lost
            if lost:
                listed = self._once("GET", MARKERS, dataset, answer=list[Listed])
                for one in listed:
                    if one.id not in others and one.says(marker):
                        return one.id, True
            try:
                made = self._once("POST", MARKERS, dataset, body=marker, answer=Listed)
            except ServiceUnavailable as exc:
                lost = lost or exc.maybe_processed
                raise
            return made.id, False

        return retry(attempt, policy=self._retry, clock=self._clock)

    def update(self, dataset: str, marker_id: str, marker: Marker) -> bool:
        """Have a marker say what `marker` says and nothing else; False if it is gone."""
        try:
            self._call("PUT", MARKERS, dataset, marker_id, body=marker, answer=Listed)
        except NotFound:
            return False
        return True

    def delete(self, dataset: str, marker_id: str) -> bool:
        """Delete a marker; False if it was gone already."""
        try:
            self._call("DELETE", MARKERS, dataset, marker_id, answer=msgspec.Raw)
        except NotFound:
            return False
        return True

    def colors(self, dataset: str) -> list[Color]:
        """The colours that types have in the dataset."""
        return self._call("GET", COLORS, dataset, answer=list[Color])

    def set_color(self, dataset: str, setting: Color) -> None:
        """Give the markers of a type a colour: another one than that of `id`, or (empty) a first."""
        body = {"type": setting.type, "color": setting.color}
        method = "PUT" if setting.id else "POST"
        self._call(method, COLORS, dataset, setting.id or None, body=body, answer=msgspec.Raw)

    def close(self) -> None:
        """Close the idle connections. Using it again opens new ones."""
        self._session.close()

    def __repr__(self) -> str:
        return f"MarkerClient({self._host!r})"

    def _account(self) -> Account:
        return account_in(self._ask("GET", "/1/auth"), place=self._place, quote=self._quote)

    def _call(
        self,
        method: str,
        api: str,
        dataset: str,
        item: str | None = None,
        *,
        answer: type[T],
        body: Any = None,
    ) -> T:
        """`_once`, tried again as long as that may help: the call must bear being repeated."""
        return retry(
            lambda: self._once(method, api, dataset, item, answer=answer, body=body),
            policy=self._retry,
            clock=self._clock,
        )

    def _once(
        self,
        method: str,
        api: str,
        dataset: str,
        item: str | None = None,
        *,
        answer: type[T],
        body: Any = None,
    ) -> T:
        path = "/".join([api, percent_encoded(dataset, safe=""), *([item] if item else [])])
        response = self._ask(method, path, dataset=dataset, body=body)

        def unexpected() -> UnexpectedAnswer:
            shown = body_shown(response, self._quote)
            return UnexpectedAnswer(
                f"{self._place} answered {response.request} with {shown}. "
                "Check HONEYCOMB_API_ENDPOINT and what stands between us and it; run again, and "
                "what was placed is found."
            )

        return decoded(response, answer, place=self._place, unexpected=unexpected)

    def _ask(self, method: str, path: str, *, dataset: str = "", body: Any = None) -> Response:
        """The answer, if it is a 2xx."""
        self._limiter.enter(self._clock, on_wait=self._announce)
        self.request_count += 1
        content = None if body is None else msgspec.json.encode(body)
        headers = None if body is None else HEADERS
        try:
            response = self._session.send(method, path, body=content, headers=headers)
        except ServiceUnavailable as exc:
            raise unreachable(self._place, exc, setting=self._session.setting) from exc
        self._limiter.learn(response.headers, clock=self._clock)
        failed = refusal(
            response, place=self._place, dataset=dataset, quote=self._quote, now=self._clock.now()
        )
        if failed is not None:
            raise failed
        return response

    def _announce(self, seconds: float) -> None:
        self._on_wait(f"Honeycomb's limit on such calls is reached: waiting {seconds:.0f} s")

    def _quote(self, text: str) -> str:
        return self._session.quote(text)


def _refuse_powerless(account: Account) -> None:
    if account.key_kind == INGEST:
        raise AccessDenied(f"The key in HONEYCOMB_CONFIGURATION_KEY is an ingest key. {KEY}")
    if not account.may_place_markers:
        raise AccessDenied(f"The key in HONEYCOMB_CONFIGURATION_KEY may not manage markers. {KEY}")

"""A client of Honeycomb's management API: one configuration key, its permissions, errors by status.

What it is for (markers, a board) is a subclass. Source: Honeycomb's API description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self, TypeVar
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
from bk_pipeline.http import answers
from bk_pipeline.http.answers import body_summary, decoded, error_detail, unreachable
from bk_pipeline.http.network import Network, Timeouts
from bk_pipeline.http.retry import RateLimiter, RetryPolicy, retry, retry_after_s
from bk_pipeline.http.session import HttpSession, Response
from bk_pipeline.settings import Settings

T = TypeVar("T")
HEADERS = {"Content-Type": "application/json"}
NO_CONTENT = 204


class Purpose(NamedTuple):
    """The parts of error messages that depend on what a client is for.

    Attributes:
        subject: What needs the key, like "Markers need".
        permissions: The permissions that the key needs, as they are named in Honeycomb.
        action: What the key may not do, like "manage markers".
        progress: What becomes of the calls before one that failed.
        missing_dataset: What to do if the dataset does not exist.
        refused: What to check if a request is refused.
    """

    subject: str
    permissions: tuple[str, ...]
    action: str
    progress: str
    missing_dataset: str
    refused: str

    @property
    def needed(self) -> str:
        """A sentence on the key that is needed and where to create it, without its end."""
        *others, last = self.permissions
        listed = f"permissions {', '.join(others)} and {last}" if others else f"permission {last}"
        return (
            f"{self.subject} a configuration key with the {listed}, which no ingest key has: "
            "create one under Environment Settings > API Keys > Configuration in Honeycomb"
        )

    @property
    def key(self) -> str:
        """The same sentence, with the variable to set."""
        return f"{self.needed} and put it into HONEYCOMB_CONFIGURATION_KEY."


def _silent(_: str) -> None:
    """Ignore a message."""


class ManagementClient:
    """A client with one configuration key of one environment. Not thread-safe.

    Datasets are slugs, or `__all__`. Every call may raise a PipelineError: RetryableError after
    the deadline, TokenRefused or AccessDenied for the key, NotFound for the dataset.

    Args:
        endpoint: The URL of the API.
        key: A configuration key with the permissions of `purpose`.
        clock: The clock for retries and rate limits.
        retry_policy: How long to retry one call.
        timeouts: The timeouts of each request.
        network: Proxies and CA bundle; by default those of the environment.
        on_wait: Called with a sentence before each wait for the rate limit.
    """

    purpose: ClassVar[Purpose]

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
        self._account: Account | None = None
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
            settings.require_configuration_key(cls.purpose.needed),
            clock=clock,
            retry_policy=RetryPolicy(deadline_s=settings.http_deadline_s),
            network=Network.of(settings.environment),
            on_wait=on_wait,
        )

    @property
    def account(self) -> Account:
        """The account and the permissions of the key. Requested once.

        Raises:
            AccessDenied: The key is an ingest key.
        """
        if self._account is None:
            self._account = retry(self._ask_account, policy=self._retry, clock=self._clock)
        if self._account.key_kind == INGEST:
            raise AccessDenied(
                f"The key in HONEYCOMB_CONFIGURATION_KEY is an ingest key. {self.purpose.key}"
            )
        return self._account

    def close(self) -> None:
        """Close the idle connections. Further calls open new ones."""
        self._session.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._host!r})"

    def _ask_account(self) -> Account:
        return parse_account(self._request("GET", "/1/auth"), place=self._place, quote=self._quote)

    def _create(
        self, api: str, dataset: str, *, body: Any, answer: type[T], find: Callable[[], T | None]
    ) -> T:
        """Create an item, without duplicating it if a response is lost.

        If there is no response, the item may have been created. Before another attempt, `find`
        therefore searches for it.
        """
        maybe_created = False

        def attempt() -> T:
            nonlocal maybe_created
            found = find() if maybe_created else None
            if found is not None:
                return found
            try:
                return self._once("POST", api, dataset, body=body, answer=answer)
            except ServiceUnavailable as exc:
                maybe_created = maybe_created or exc.maybe_processed
                raise

        return retry(attempt, policy=self._retry, clock=self._clock)

    def _exists(self, method: str, *path: str, answer: type[T], body: Any = None) -> bool:
        """Make a call on an item; return False if the item does not exist."""
        try:
            self._call(method, *path, answer=answer, body=body)
        except NotFound:
            return False
        return True

    def _call(
        self, method: str, *path: str, answer: type[T], body: Any = None, query: str = ""
    ) -> T:
        """Make a call with retries; the call must be idempotent."""
        return retry(
            lambda: self._once(method, *path, answer=answer, body=body, query=query),
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
        query: str = "",
    ) -> T:
        parts = [percent_encoded(one, safe="") for one in (dataset, *item) if one]
        path = "/".join([api, *parts]) + query
        response = self._request(method, path, dataset=dataset, body=body)

        def unexpected() -> UnexpectedAnswer:
            shown = body_summary(response, self._quote)
            return UnexpectedAnswer(
                f"{self._place} answered {response.request} with {shown}. "
                "Check HONEYCOMB_API_ENDPOINT and any proxy in between, then run again; "
                f"{self.purpose.progress}."
            )

        if response.status == NO_CONTENT and answer is msgspec.Raw:
            return msgspec.Raw()  # type: ignore[return-value]  # it is what `answer` says
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
        if not response.ok:
            raise self._refusal(response, dataset)
        return response

    def _refusal(self, response: Response, dataset: str) -> PipelineError:
        """Return the error for a response that is not a 2xx."""
        detail = error_detail(response, self._quote)
        messages = self._messages(response, detail, dataset)
        retry_in_s = retry_after_s(response.headers, self._clock.now())
        return answers.refusal(response, detail, messages, retry_in_s=retry_in_s)

    def _messages(
        self, response: Response, detail: str, dataset: str
    ) -> dict[type[PipelineError], str]:
        status, place, purpose = response.status, self._place, self.purpose
        not_found = (
            f"{place} does not know {response.request} (404: {detail}). Check "
            "HONEYCOMB_API_ENDPOINT: a proxy for events only does not support "
            f"{purpose.subject.split()[0].lower()}."
        )
        if dataset:
            not_found = (
                f"{place} has no dataset {dataset} (404: {detail}). {purpose.missing_dataset}"
            )
        return {
            DeliveryThrottled: (
                f"{place} accepts no more calls at the moment (429: {detail}). Run again later; "
                f"{purpose.progress}."
            ),
            ServiceUnavailable: (
                f"{place} has a server error ({status}: {detail}). If this persists, see "
                "https://status.honeycomb.io."
            ),
            TokenRefused: (
                f"{place} rejects the key in HONEYCOMB_CONFIGURATION_KEY: it is unknown or may not "
                f"{purpose.action} (401: {detail}). {purpose.key} A key of the EU region needs "
                "HONEYCOMB_API_ENDPOINT=https://api.eu1.honeycomb.io."
            ),
            AccessDenied: (
                f"{place} does not allow this call with the key in HONEYCOMB_CONFIGURATION_KEY "
                f"(403: {detail}). {purpose.key}"
            ),
            NotFound: not_found,
            RequestRefused: (
                f"{place} rejected {response.request} ({status}: {detail}). Sending it again "
                f"does not help; {purpose.refused}."
            ),
        }

    def _announce(self, seconds: float) -> None:
        self._on_wait(f"Honeycomb's limit on such calls is reached: waiting {seconds:.0f} s")

    def _quote(self, text: str) -> str:
        return self._session.quote(text)

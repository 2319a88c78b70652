"""Download artifacts from where they are stored, without credentials.

Buildkite answers a download with a redirect to an address that is signed: in its own store, or in
a bucket of the organization. Whatever that address is, the token does not go there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from urllib.parse import urljoin, urlsplit

from bk_pipeline.buildkite.streams import PARTIAL_CONTENT, OpenBody, content_range
from bk_pipeline.clock import Clock
from bk_pipeline.errors import (
    AccessDenied,
    Gone,
    PipelineError,
    RequestRefused,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from bk_pipeline.http.answers import SERVER_ERRORS
from bk_pipeline.http.network import DEFAULT_PORTS, Network, Timeouts
from bk_pipeline.http.retry import retry_after_s
from bk_pipeline.http.session import REDIRECTS, HttpSession, Response, Streamed

# Compressed, a file would not be what was uploaded, and could not be resumed.
UNCOMPRESSED = {"Accept": "*/*", "Accept-Encoding": "identity"}
GONE = frozenset({404, 410})
RETRIED = frozenset({408, 425, 429})
FORBIDDEN = 403
# Buildkite's addresses hold for 60 s.
ADDRESS_HOLDS_S = 40.0
# A store may send its client to another of its hosts.
MAX_HOPS = 3
MAX_SESSIONS = 8


@dataclass
class Address:
    """Where one artifact can be downloaded.

    Attributes:
        find: Asks Buildkite for the URL.
        subject: The artifact, for messages.
        url: The URL that was found last.
        since: When that was, in seconds of the monotonic clock.
        refused: How often the store refused a URL.
    """

    find: Callable[[], str]
    subject: str
    url: str = ""
    since: float = -math.inf
    refused: int = 0


class ArtifactStores:
    """The hosts that artifacts are downloaded from. Thread-safe.

    Args:
        network: Proxies and CA bundle. Default: from the exported variables.
        timeouts: Of the requests.
        clock: Used for measuring.
    """

    def __init__(self, *, network: Network | None, timeouts: Timeouts, clock: Clock) -> None:
        self._network = network
        self._timeouts = timeouts
        self._clock = clock
        self._lock = Lock()
        self._sessions: OrderedDict[str, HttpSession] = OrderedDict()

    @contextmanager
    def open(self, address: Address, position: int) -> Iterator[OpenBody]:
        """Request an artifact from `position` on, best; its URL is requested if need be.

        Raises:
            Gone: The store does not have it.
            AccessDenied: The store refuses it, and a new URL did not help.
            RetryableError: The store cannot send it at the moment.
            UnexpectedAnswer: A redirect leads to an unusable address.
        """
        if self._clock.monotonic() - address.since > ADDRESS_HOLDS_S:
            address.url, address.since = address.find(), self._clock.monotonic()
        headers = UNCOMPRESSED | ({"Range": f"bytes={position}-"} if position else {})
        with self._follow(address.url, headers) as streamed:
            response = streamed.response
            if not response.ok:
                address.since = -math.inf
                address.refused += response.status == FORBIDDEN
                raise self._refusal(response, address)
            start = 0
            if response.status == PARTIAL_CONTENT:
                start, _ = content_range(response.headers) or (0, None)
            yield OpenBody(streamed.chunks, start)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            while self._sessions:
                self._sessions.popitem()[1].close()

    @contextmanager
    def _follow(self, url: str, headers: dict[str, str]) -> Iterator[Streamed]:
        """Request `url`, following redirects between stores."""
        for _ in range(MAX_HOPS):
            with self._session(url).stream(url, headers=headers, redirects=True) as streamed:
                response = streamed.response
                if response.status not in REDIRECTS:
                    yield streamed
                    return
            url = store_url(response, response.headers.get("Location", ""))
        raise UnexpectedAnswer(f"{response.request}: redirected more than {MAX_HOPS} times.")

    def _session(self, url: str) -> HttpSession:
        """The session of the store with this URL. It has no credentials."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            session = self._sessions.get(origin)
            if session is None:
                session = self._sessions[origin] = HttpSession(
                    origin,
                    setting="the proxy variables",
                    timeouts=self._timeouts,
                    network=self._network,
                    clock=self._clock,
                )
                if len(self._sessions) > MAX_SESSIONS:
                    self._sessions.popitem(last=False)[1].close()
            return session

    def _refusal(self, response: Response, address: Address) -> PipelineError:
        """The error for a store's response that is not a success."""
        status, request, subject = response.status, response.request, address.subject
        if status in GONE:
            return Gone(f"{request}: the store does not have {subject} ({status}).")
        if status >= SERVER_ERRORS or status in RETRIED:
            return ServiceUnavailable(
                f"{request}: the store cannot send {subject} at the moment ({status}).",
                retry_in_s=retry_after_s(response.headers, self._clock.now()),
            )
        if status == FORBIDDEN and address.refused == 1:
            return ServiceUnavailable(
                f"{request}: the store refuses the address of {subject}; it may be out of date."
            )
        if status == FORBIDDEN:
            return AccessDenied(
                f"{request}: the store refuses {subject} (403). If artifacts are in a bucket of "
                "your own, check that it can be read from here."
            )
        return RequestRefused(f"{request}: the store refuses {subject} ({status}).", status=status)


def store_url(response: Response, target: str) -> str:
    """The absolute URL of a redirect's target, if it may be requested.

    Raises:
        UnexpectedAnswer: It is not a well-formed HTTP URL, has a user name, or is not encrypted
            although `response` was.
    """
    try:
        url = urljoin(response.url, target)
        parts, came_from = urlsplit(url), urlsplit(response.url)
        usable = (
            url.isascii()
            and url.isprintable()
            and not set(' \\"<>') & set(url)
            and parts.scheme in DEFAULT_PORTS
            and bool(parts.hostname)
            and "@" not in parts.netloc
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        usable = False
    if not usable:
        raise UnexpectedAnswer(
            f"{response.request}: redirected to an address that is not a plain HTTP URL."
        )
    if came_from.scheme == "https" and parts.scheme != "https":
        raise UnexpectedAnswer(
            f"{response.request}: redirected from https to http at {parts.hostname}, where the file "
            "could be read or changed on its way."
        )
    return url

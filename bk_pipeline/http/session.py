"""Send one request to one service, and return its response or raise an error without secrets.

Errors, reprs and quoted text from this module never contain the session's own headers or
query strings. Nothing here waits or retries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Self
from urllib.parse import SplitResult, urlsplit

import requests
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from bk_pipeline import __version__, telemetry
from bk_pipeline.clock import Clock, SystemClock
from bk_pipeline.errors import ConfigError, ServiceUnavailable, UnexpectedAnswer
from bk_pipeline.http.exchange import (
    SUCCESSES,
    Exchange,
    RequestAbandoned,
    Stream,
    WatchedAdapter,
    iter_body,
    read_body,
)
from bk_pipeline.http.failures import (
    TLS_REQUIRED_TEXTS,
    Redactor,
    explain,
    tls_required,
    without_request,
)
from bk_pipeline.http.network import DEFAULT_PORTS, Network, Timeouts

USER_AGENT = f"bk_pipeline/{__version__} python-requests/{requests.__version__}"
REDIRECTS = range(300, 400)
BAD_REQUEST = 400
# A streamed body may take a second for each of these, beyond the time of a whole request.
SLOWEST_BYTES_PER_S = 64 * 1024
# Scheme, host and port. Credentials are sent to this origin only.
Origin = tuple[str, str, int]
# Query parameters; a name with several values is repeated.
Params = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response of any status except 3xx.

    Attributes:
        status: The HTTP status.
        headers: Case-insensitive.
        body: The whole body, decompressed.
        request: Method and address for messages: "GET api.buildkite.com/v2/...", no query.
        url: The URL with its query, for resolving links; never for messages.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    request: str
    url: str = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return self.status in SUCCESSES


@dataclass(frozen=True, slots=True)
class Streamed:
    """A response whose body, if the status is 2xx, arrives piece by piece.

    Attributes:
        response: Its body is empty if the status is 2xx.
        chunks: The body, decompressed; empty for other statuses. Raises what `send` raises.
    """

    response: Response
    chunks: Iterator[bytes]


class _NoRedirects(requests.Session):
    """A session without redirects; requests would otherwise prepare the redirected request."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None for every response."""


class HttpSession:
    """A pool of connections to one service. Thread-safe.

    Proxies and CA bundles come from `network`; nothing else is read from the environment, so
    a `.netrc` cannot replace the credentials. Cookies are rejected; redirects are errors.

    Args:
        base_url: Scheme, host, port and optionally a path. Other origins are never requested.
        setting: The environment variable with `base_url`, for messages.
        headers: Sent with every request. Their values are treated as secrets.
        timeouts: Upper bounds of every request's timeouts.
        network: Proxies and CA bundle. Default: from the exported variables.
        ca_file: Path of a CA bundle to use instead of the network's.
        ca_setting: The environment variable with the CA bundle, for messages. Default: the
            network's.
        client_cert: Paths of the client's certificate and key.
        pool_size: Connections kept open; further threads get temporary ones.
        clock: Measures the time of a request.

    Raises:
        ConfigError: A header's value cannot be sent, or `base_url` is malformed.
    """

    def __init__(
        self,
        base_url: str,
        *,
        setting: str,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        network: Network | None = None,
        ca_file: str | None = None,
        ca_setting: str | None = None,
        client_cert: tuple[str, str] | None = None,
        pool_size: int = 32,
        clock: Clock | None = None,
    ) -> None:
        fixed = dict(headers or {})
        _refuse_unsendable(fixed)
        self.setting = setting
        self._base_url = base_url.rstrip("/")
        parts, self._origin = _split(self._base_url, setting)
        network = network or Network.of(os.environ)
        # Some services have a key in the path, so messages show only the origin.
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._base_path = parts.path
        self._timeouts = timeouts or Timeouts()
        self._ca_setting = ca_setting or network.ca_variable
        self._redact = Redactor(fixed)
        self._clock = clock or SystemClock()
        self._session = _NoRedirects()
        self._session.trust_env = False
        self._session.verify = ca_file or network.ca_bundle or True
        proxy = network.proxy_for(*self._origin)
        self._session.proxies = {parts.scheme: proxy} if proxy else {}
        self._session.cert = client_cert
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update(
            {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "gzip", **fixed}
        )
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, WatchedAdapter(pool_maxsize=pool_size, max_retries=0))

    def send(
        self,
        method: str,
        path_or_url: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        max_bytes: int | None = None,
        redirects: bool = False,
    ) -> Response:
        """Send one request and return the response, whatever its status except 3xx.

        Args:
            method: GET, POST, ...
            path_or_url: "/path" below the base URL, or an absolute URL of the same origin.
            params: Query parameters, added to those of the URL.
            body: Sent unchanged; the caller compresses it and sets Content-Encoding.
            headers: Additional headers. Not redacted, so they must not hold secrets.
            timeout_s: Limit for the whole request, if less than the session's timeouts.
            max_bytes: Limit of the decompressed body. Default: `MAX_BODY_BYTES`, beyond which
                a body is an UnexpectedAnswer.
            redirects: Return a redirect as a response, for a caller that expects one. It is
                never followed here.

        Raises:
            ServiceUnavailable: No response, or an incomplete one. `maybe_processed` is False
                only if no connection was made.
            UnexpectedAnswer: A redirect, an encoding that was not requested, or `path_or_url`
                has another origin, which must not receive the credentials.
            AnswerTooLarge: The body exceeds `max_bytes`. No more than that is kept in memory.
            ConfigError: The proxy or the CA bundle cannot be used, or the URL has the wrong
                one of the schemes http and https.
            FatalError: The service's certificate cannot be verified.
        """
        url = self._checked_url(path_or_url)
        request = self._named(method, url)
        timeouts = self._timeouts.within(timeout_s)
        with self._traced(method, url) as span:

            def exchange() -> Response:
                answer = self._open(method, url, params, headers, timeouts, body=body)
                with answer:
                    if not redirects:
                        self._refuse_redirect(answer, request)
                    content = read_body(answer, request=request, max_bytes=max_bytes)
                return Response(answer.status_code, answer.headers, content, request, answer.url)

            with self._explained(request, timeouts.total_s):
                until = self._clock.monotonic() + timeouts.total_s
                response = Exchange(exchange).run(clock=self._clock, until=until)
            self._refuse_plain_http(response)
            self._record(span, response)
        return response

    @contextmanager
    def stream(
        self,
        path_or_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        redirects: bool = False,
    ) -> Iterator[Streamed]:
        """Send a GET request and return its response when the headers have arrived.

        The body is read within the block, which may be left before its end. It is not limited
        in size; waiting for it is limited to the session's total, and a second more for every
        `SLOWEST_BYTES_PER_S`.

        Args:
            path_or_url: As for `send`.
            headers: Additional headers. Not redacted, so they must not hold secrets.
            redirects: Return a redirect as a response. It is never followed here.

        Raises:
            PipelineError: As `send`; also while the body is read.
        """
        url = self._checked_url(path_or_url)
        request, timeouts = self._named("GET", url), self._timeouts
        received = 0

        def exchange(put: Callable[[Response | bytes], None]) -> None:
            answer = self._open("GET", url, None, headers, timeouts)
            with answer:
                if not redirects:
                    self._refuse_redirect(answer, request)
                ok = answer.status_code in SUCCESSES
                content = b"" if ok else read_body(answer, request=request)
                put(Response(answer.status_code, answer.headers, content, request, answer.url))
                for piece in iter_body(answer, request=request) if ok else ():
                    put(piece)

        def chunks() -> Iterator[bytes]:
            nonlocal received
            with self._explained(request, timeouts.total_s):
                for piece in items:
                    assert isinstance(piece, bytes)
                    received += len(piece)
                    yield piece

        items = Stream(exchange).items(
            clock=self._clock,
            allowed_s=lambda: timeouts.total_s + received / SLOWEST_BYTES_PER_S,
        )
        with closing(items):
            with self._traced("GET", url) as span, self._explained(request, timeouts.total_s):
                response = next(items)
                assert isinstance(response, Response)
                self._record(span, response)
            self._refuse_plain_http(response)
            yield Streamed(response, chunks())

    def _open(
        self,
        method: str,
        url: str,
        params: Params | None,
        headers: Mapping[str, str] | None,
        timeouts: Timeouts,
        *,
        body: bytes | None = None,
    ) -> requests.Response:
        return self._session.request(
            method,
            url,
            params=params,
            data=body,
            headers=headers,
            timeout=(timeouts.connect_s, timeouts.read_s),
            allow_redirects=False,
            stream=True,
        )

    def _path_of(self, url: str) -> str:
        return urlsplit(url).path.removeprefix(self._base_path)

    def _named(self, method: str, url: str) -> str:
        """Method and address for messages."""
        return f"{method} {urlsplit(url).netloc}{self._path_of(url)}"

    def _traced(self, method: str, url: str) -> AbstractContextManager[telemetry.SpanHandle]:
        attributes = {
            "http.request.method": method,
            "server.address": self._origin[1],
            "url.path": self._path_of(url),
        }
        return telemetry.leaf_span(method, attributes, outgoing=True)

    @staticmethod
    def _record(span: telemetry.SpanHandle, response: Response) -> None:
        span.set_attributes({"http.response.status_code": response.status})
        if not response.ok:
            span.set_attributes({"error.type": str(response.status)})

    def quote(self, text: str, *, limit: int = 200) -> str:
        """`text` from the service for use in a message: one line, redacted, truncated."""
        return self._redact.quote(text, limit=limit)

    def is_same_origin(self, url: str) -> bool:
        """Whether `url` is absolute, well-formed and has this session's origin."""
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            return False
        try:
            parts = urlsplit(url)
            return _origin(parts) == self._origin and "@" not in parts.netloc
        except ValueError:
            return False

    def close(self) -> None:
        """Close the pooled connections. The session can still be used and opens new ones."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"HttpSession({self.origin!r})"

    @contextmanager
    def _explained(self, request: str, seconds: float) -> Iterator[None]:
        """Translate the exceptions of a request, which had about `seconds`, into errors."""
        try:
            yield
        except RequestAbandoned as exc:
            reason = f"no complete answer came in time, within {seconds:.0f} s"
            if exc.stopped:
                reason = "abandoned, because the program was asked to stop"
            raise ServiceUnavailable(f"{request}: {reason}.", maybe_processed=exc.sent) from None
        except (RequestException, HTTPError, OSError, ValueError) as exc:
            # Other ValueErrors than urllib3's about SOCKS proxies are bugs of the caller.
            known = isinstance(exc, (RequestException, HTTPError, OSError)) or "SOCKS" in str(exc)
            if not known:
                raise
            raise explain(
                exc, request=request, setting=self.setting, ca_setting=self._ca_setting
            ) from without_request(exc)

    def _checked_url(self, path_or_url: str) -> str:
        url = self._base_url + path_or_url if path_or_url.startswith("/") else path_or_url
        if not self.is_same_origin(url):
            raise UnexpectedAnswer(
                f"A URL to follow leads away from {self.origin}, and the credentials must "
                f"not go there. Check that {self.setting} is the address that the service itself "
                "uses."
            )
        return url

    def _refuse_plain_http(self, response: Response) -> None:
        plain = self._origin[0] == "http" and response.status == BAD_REQUEST
        if plain and any(text in response.body for text in TLS_REQUIRED_TEXTS):
            raise tls_required(response.request, self.setting)

    def _refuse_redirect(self, answer: requests.Response, request: str) -> None:
        if answer.status_code in REDIRECTS:
            where = _redirect_target(answer.headers.get("Location", ""))
            raise UnexpectedAnswer(
                f"{request} was redirected{where} ({answer.status_code}); credentials are not "
                f"sent along. Set {self.setting} to an address that does not redirect."
            )


def _split(base_url: str, setting: str) -> tuple[SplitResult, Origin]:
    try:
        parts = urlsplit(base_url)
        origin = _origin(parts)
    except ValueError as exc:
        raise ConfigError(f"{setting} is malformed: give a URL like https://host.") from exc
    if "@" in parts.netloc:
        raise ConfigError(f"{setting} holds a user name or password: give the URL without them.")
    return parts, origin


def _origin(parts: SplitResult) -> Origin:
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError("neither http nor https")
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]


def _redirect_target(url: str) -> str:
    """` to scheme://host`, or "" if `url` has no host. The rest may hold a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f" to {parts.scheme}://{parts.hostname}" if parts.hostname else ""


def _refuse_unsendable(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise ConfigError(
                f"The value of the header {name} cannot be sent: it has line breaks, "
                "surrounding spaces or non-ASCII characters. Copy the token or key again."
            )

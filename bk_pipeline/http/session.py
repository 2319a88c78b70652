"""One request to one service: its answer, or an error of ours that holds no secret.

Whatever reaches a caller from here, be it an error, a repr or a quotation, is free of the
session's own headers and of query strings. Nothing here waits or tries again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
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
from bk_pipeline.http.body import SUCCESSES, read_body
from bk_pipeline.http.exchange import Exchange, OutOfTime, WatchedAdapter
from bk_pipeline.http.failures import WANTS_TLS, Redactor, explain, speaks_tls, without_request
from bk_pipeline.http.network import Network

USER_AGENT = f"bk_pipeline/{__version__} python-requests/{requests.__version__}"
DEFAULT_PORTS = {"https": 443, "http": 80}
REDIRECTS = range(300, 400)
BAD_REQUEST = 400
# Scheme, host and port: where credentials may go.
Place = tuple[str, str, int]
# A query; a name with several values stands in it as often.
Params = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for making the connection, between two bytes, and for the whole request.

    The last is from the lookup of the name to the last byte of the answer.
    """

    connect_s: float = 10.0
    silence_s: float = 60.0
    answer_s: float = 300.0

    def within(self, timeout_s: float | None) -> Timeouts:
        """These, none of them longer than `timeout_s`."""
        if timeout_s is None:
            return self
        return Timeouts(
            min(self.connect_s, timeout_s),
            min(self.silence_s, timeout_s),
            min(self.answer_s, timeout_s),
        )

    @classmethod
    def for_deadline(cls, deadline_s: float) -> Timeouts:
        """Those of requests that are tried until a deadline: none outlasts it by much."""
        return cls().within(max(deadline_s, cls().silence_s))


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer of any status but 3xx.

    Attributes:
        status: The HTTP status.
        headers: Looked up without regard to case.
        body: Decompressed; never a part of what was sent.
        request: What was asked, for messages: "GET api.buildkite.com/v2/...", no query.
        url: What was asked, with its query: for resolving links, never for messages.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    request: str
    url: str = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether it is a success, 2xx."""
        return self.status in SUCCESSES


class _NowhereElse(requests.Session):
    """A session that knows no redirects: else requests prepares the next request regardless."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere, whatever `resp` says."""


class HttpSession:
    """A pool of connections to one service, for several threads at once.

    Proxies and CA bundles are those of `network`; nothing else comes from the environment, so
    no `.netrc` replaces our credentials. Cookies are refused, redirects are errors.

    Args:
        base_url: Scheme, host, port and perhaps a path. Requests to another origin are refused.
        setting: The environment variable that `base_url` comes from, for messages.
        headers: Sent with every request. Their values count as secrets.
        timeouts: Used where `send` is given none.
        network: Proxies and CA bundle; by default those that are exported.
        ca_file: Path of a CA bundle instead of the network's.
        ca_setting: The environment variable that names such a bundle, for messages; by default
            the network's.
        client_cert: Paths of the client's certificate and key.
        pool_size: Connections kept open; more threads than that get connections of their own.
        clock: Measures how long an answer takes.

    Raises:
        ConfigError: A header's value cannot be sent, or `base_url` is no URL.
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
        parts, self._place = _split(self._base_url, setting)
        network = network or Network.of(os.environ)
        # Some services put a key into the path, so messages show no more than this.
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._base_path = parts.path
        self._timeouts = timeouts or Timeouts()
        self._ca_setting = ca_setting or network.ca_variable
        self._redact = Redactor(fixed)
        self._clock = clock or SystemClock()
        self._session = _NowhereElse()
        self._session.trust_env = False
        self._session.verify = ca_file or network.ca_bundle or True
        proxy = network.proxy_for(*self._place)
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
        most_bytes: int | None = None,
    ) -> Response:
        """The service's answer to one request, whatever its status; 3xx excepted.

        Args:
            method: GET, POST, ...
            path_or_url: "/path" below the base URL, or a whole URL of the same origin.
            params: Query, added to what the URL has.
            body: Sent as it is; compressing it, and saying so, is the caller's.
            headers: Besides the fixed ones; no secrets, they are not redacted.
            timeout_s: For the whole request, if that is less than the session's timeouts.
            most_bytes: How large a body may be, decompressed; else `MOST_BYTES` of `body.py`,
                and a larger one is an UnexpectedAnswer.

        Raises:
            ServiceUnavailable: No answer, or not all of it. `maybe_processed` is False only
                if no connection was made.
            UnexpectedAnswer: A redirect, an encoding nobody asked for, or `path_or_url` is
                of another origin and would carry our credentials there.
            AnswerTooLarge: The body is larger than `most_bytes`; no more of it is held.
            ConfigError: The proxy or the CA bundle cannot be used, or the URL's scheme is
                http and the endpoint's https, or the other way round.
            FatalError: The service's certificate cannot be verified.
        """
        url = self._own(path_or_url)
        parts = urlsplit(url)
        path = parts.path.removeprefix(self._base_path)
        request = f"{method} {parts.netloc}{path}"
        timeouts = self._timeouts.within(timeout_s)
        told = {"http.request.method": method, "server.address": self._place[1], "url.path": path}
        with telemetry.leaf_span(method, told, outgoing=True) as span:

            def exchange() -> Response:
                answer = self._session.request(
                    method,
                    url,
                    params=params,
                    data=body,
                    headers=headers,
                    timeout=(timeouts.connect_s, timeouts.silence_s),
                    allow_redirects=False,
                    stream=True,
                )
                with answer:
                    self._refuse_redirect(answer, request)
                    content = read_body(answer, request=request, most_bytes=most_bytes)
                return Response(answer.status_code, answer.headers, content, request, answer.url)

            response = self._within(exchange, timeouts.answer_s, request)
            self._refuse_plain(response)
            span.set_attributes({"http.response.status_code": response.status})
            if not response.ok:
                span.set_attributes({"error.type": str(response.status)})
        return response

    def quote(self, text: str, *, limit: int = 200) -> str:
        """`text` from the service as an error may quote it: one line, cut, without our secrets."""
        return self._redact.quote(text, limit=limit)

    def owns(self, url: str) -> bool:
        """Whether `url` is whole, well-formed and of this service's origin."""
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            return False
        try:
            parts = urlsplit(url)
            return _place(parts) == self._place and "@" not in parts.netloc
        except ValueError:
            return False

    def close(self) -> None:
        """Close the pooled connections. Using the session again opens new ones."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"HttpSession({self.origin!r})"

    def _within(self, call: Callable[[], Response], seconds: float, request: str) -> Response:
        """What `call` comes to within `seconds`, its errors as errors of ours."""
        try:
            until = self._clock.monotonic() + seconds
            return Exchange(call).run(clock=self._clock, until=until)
        except OutOfTime as exc:
            why = f"no complete answer came in time, within {seconds:.0f} s"
            if exc.stopped:
                why = "it was given up, because the program was asked to stop"
            raise ServiceUnavailable(f"{request}: {why}.", maybe_processed=exc.sent) from None
        except (RequestException, HTTPError, OSError, ValueError) as exc:
            theirs = isinstance(exc, (RequestException, HTTPError, OSError)) or "SOCKS" in str(exc)
            if not theirs:
                raise
            raise explain(
                exc, request=request, setting=self.setting, ca_setting=self._ca_setting
            ) from without_request(exc)

    def _own(self, path_or_url: str) -> str:
        url = self._base_url + path_or_url if path_or_url.startswith("/") else path_or_url
        if not self.owns(url):
            raise UnexpectedAnswer(
                f"A URL to follow leads away from {self.origin}, and our credentials must "
                f"not go there. Check that {self.setting} is the address that the service itself "
                "uses."
            )
        return url

    def _refuse_plain(self, response: Response) -> None:
        plain = self._place[0] == "http" and response.status == BAD_REQUEST
        if plain and any(words in response.body for words in WANTS_TLS):
            raise speaks_tls(response.request, self.setting)

    def _refuse_redirect(self, answer: requests.Response, request: str) -> None:
        if answer.status_code in REDIRECTS:
            where = _place_shown(answer.headers.get("Location", ""))
            raise UnexpectedAnswer(
                f"{request} was redirected{where} ({answer.status_code}); credentials are not "
                f"carried along. Set {self.setting} to the address that answers itself."
            )


def _split(base_url: str, setting: str) -> tuple[SplitResult, Place]:
    try:
        parts = urlsplit(base_url)
        place = _place(parts)
    except ValueError as exc:
        raise ConfigError(f"{setting} is malformed: give a URL like https://host.") from exc
    if "@" in parts.netloc:
        raise ConfigError(f"{setting} holds a user name or password: give the URL without it.")
    return parts, place


def _place(parts: SplitResult) -> Place:
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError("neither http nor https")
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]


def _place_shown(url: str) -> str:
    """` to scheme://host`, or nothing where `url` names none; the rest may be a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f" to {parts.scheme}://{parts.hostname}" if parts.hostname else ""


def _refuse_unsendable(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise ConfigError(
                f"The value of the header {name} cannot be sent: it holds line breaks, "
                "surrounding spaces or letters beyond ASCII. Copy the token or key again."
            )

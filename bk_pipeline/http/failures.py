"""Translate exceptions of requests and urllib3 into the package's errors; redact secrets.

Those exceptions' texts contain URLs with queries, and some contain header values or a proxy's
password. So messages are derived from the exception types and never copy their text.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from http.client import BadStatusLine

from requests.exceptions import (
    ConnectTimeout,
    InvalidHeader,
    InvalidProxyURL,
    InvalidSchema,
    InvalidURL,
    ProxyError,
    RequestException,
    SSLError,
    Timeout,
)
from urllib3.exceptions import (
    ConnectTimeoutError,
    IncompleteRead,
    LocationParseError,
    NewConnectionError,
    ReadTimeoutError,
)

from bk_pipeline.errors import ConfigError, FatalError, PipelineError, ServiceUnavailable
from bk_pipeline.text import one_line

MALFORMED = (InvalidHeader, InvalidProxyURL, InvalidSchema, InvalidURL, LocationParseError)
NOT_CONNECTED = (ConnectTimeout, ConnectTimeoutError, NewConnectionError, ProxyError)
# The peer closed the connection; does not indicate a wrong setting.
TRANSIENT_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
TIMED_OUT = (Timeout, ReadTimeoutError)
# Start of a TLS server's alert record, which http.client reads as a status line.
TLS_ALERT = "\x15\x03"
# In the 400 responses of Go, nginx and Apache servers to plain HTTP on a TLS port.
TLS_REQUIRED_TEXTS = (b"to an HTTPS server", b"to HTTPS port", b"to an SSL-enabled server port")
# OpenSSL's reasons for a response that is not TLS; which one depends on its version.
NOT_TLS_REASONS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
)


def explain(exc: Exception, *, request: str, setting: str, ca_setting: str) -> PipelineError:
    """The error for a failed request; returned, not raised.

    ConfigError for an unusable proxy or CA bundle, or a wrong URL scheme. FatalError for a
    certificate or TLS handshake failure. ServiceUnavailable for everything else; its
    `maybe_processed` is False only if `exc` shows that no connection was made.

    Args:
        exc: Raised by requests or urllib3.
        request: Method and address, for messages.
        setting: The variable with the service's URL.
        ca_setting: The variable with the CA bundle.
    """
    chain = list(_chain(exc))
    if (socks := _socks_failure(exc, request=request)) is not None:
        return socks
    if any(isinstance(link, BadStatusLine) and TLS_ALERT in str(link) for link in chain):
        return tls_required(request, setting)
    if isinstance(exc, SSLError) and not any(isinstance(link, TRANSIENT_TLS) for link in chain):
        return _tls_failure(chain, request=request, setting=setting, ca_setting=ca_setting)
    if isinstance(exc, MALFORMED):
        return ConfigError(
            f"{request} cannot be sent: its URL or the proxy's is malformed. Check "
            f"{setting}, HTTPS_PROXY, HTTP_PROXY and ALL_PROXY."
        )
    if not isinstance(exc, RequestException) and type(exc) is OSError:
        return ConfigError(
            f"{request} cannot be sent: a certificate file cannot be read. Check "
            f"{ca_setting}, CURL_CA_BUNDLE and the certificate settings."
        )
    connected = not any(isinstance(link, NOT_CONNECTED) for link in chain)
    return ServiceUnavailable(f"{request}: {_what_happened(chain)}.", maybe_processed=connected)


def without_request(exc: Exception) -> Exception | None:
    """`exc` without its request, whose headers carry the token, for use as a `__cause__`.

    None if its own text may contain a header value or a proxy's password.
    """
    if isinstance(exc, MALFORMED) or type(exc) is ValueError:
        return None
    if isinstance(exc, RequestException):
        exc.request = exc.response = None
    return exc


def _what_happened(chain: list[BaseException]) -> str:
    if any(isinstance(link, ProxyError) for link in chain):
        return "the proxy could not be reached or refused to connect"
    if any(isinstance(link, NOT_CONNECTED) for link in chain):
        return "no connection could be made"
    if any(isinstance(link, TIMED_OUT) for link in chain):
        return "no answer came in time"
    if any(isinstance(link, IncompleteRead) for link in chain):
        return "the answer was cut short"
    return "the connection broke before the answer was complete"


def _tls_failure(
    chain: list[BaseException], *, request: str, setting: str, ca_setting: str
) -> PipelineError:
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        return FatalError(
            f"{request}: the service's TLS certificate cannot be verified. If a proxy intercepts "
            f"TLS, set {ca_setting} to the path of its CA bundle; otherwise check "
            f"{setting} and this machine's clock."
        )
    reasons = (link.reason for link in chain if isinstance(link, ssl.SSLError))
    reason = next(reasons, None) or "no reason given"
    if reason in NOT_TLS_REASONS and not any(isinstance(link, ProxyError) for link in chain):
        return ConfigError(
            f"{request}: the endpoint does not speak TLS ({reason}). If that is intended, use "
            f"http:// in {setting}; otherwise check its port."
        )
    return FatalError(
        f"{request}: the TLS handshake failed ({reason}). Check scheme and port in "
        f"{setting}, and the certificate settings."
    )


def tls_required(request: str, setting: str) -> ConfigError:
    """The error for plain HTTP sent to an HTTPS endpoint."""
    return ConfigError(f"{request}: the endpoint speaks TLS: use https:// in {setting}.")


def _socks_failure(exc: Exception, *, request: str) -> ConfigError | None:
    """The error for a SOCKS proxy that cannot be used; None if `exc` is about something else."""
    if "SOCKS" not in str(exc) or not isinstance(exc, InvalidSchema | ValueError):
        return None
    variables = "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
    if isinstance(exc, InvalidSchema):
        return ConfigError(
            f"{request} cannot be sent through the proxy in {variables}: SOCKS proxies need PySocks. "
            "Install it (pip install PySocks), or unset the variable."
        )
    return ConfigError(
        f"{request} cannot be sent through the proxy in {variables}: socks:// does not say which "
        "version. Use socks5h:// instead."
    )


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """`exc` and the exceptions it wraps; urllib3 passes causes as `reason` or as an argument.

    `__context__` is not followed: it may belong to another request that the caller handles.
    """
    seen: set[int] = set()
    waiting: list[object] = [exc]
    while waiting:
        link = waiting.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, getattr(link, "reason", None), *link.args]


# Headers whose values are not secret.
PUBLIC_HEADERS = {"accept", "accept-encoding", "content-encoding", "content-type", "user-agent"}
# Redacting shorter strings ("Bearer", "1") would remove ordinary text.
MIN_SECRET_LENGTH = 8


class Redactor:
    """Removes the secrets in `headers` from text: each value, and each long part of a value."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        values = [value for name, value in headers.items() if name.lower() not in PUBLIC_HEADERS]
        parts = [part for value in values for part in value.split()]
        secrets = {secret for secret in (*values, *parts) if len(secret) >= MIN_SECRET_LENGTH}
        self._secrets = sorted(secrets, key=len, reverse=True)

    def quote(self, text: str, *, limit: int) -> str:
        """`text` on one line, redacted first and then truncated to `limit` characters."""
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return one_line(text, limit)

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"

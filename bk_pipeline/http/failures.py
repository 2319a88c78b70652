"""What an exception of requests or urllib3 means to us.

Their texts hold URLs with queries, and some hold header values or a proxy's password; so
none of their text is copied, only what they are.
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

UNUSABLE = (InvalidHeader, InvalidProxyURL, InvalidSchema, InvalidURL, LocationParseError)
NOT_CONNECTED = (ConnectTimeout, ConnectTimeoutError, NewConnectionError, ProxyError)
# The other side hung up in the middle; no sign of a setting that is wrong.
PASSING_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
TIMED_OUT = (Timeout, ReadTimeoutError)
# What a TLS server's alert begins with, which http.client takes for a status line.
TLS_ALERT = "\x15\x03"
# In the words of Go's, nginx's and Apache's servers, with a 400.
WANTS_TLS = (b"to an HTTPS server", b"to HTTPS port", b"to an SSL-enabled server port")
# How OpenSSL calls an answer that is no TLS; which of these depends on its version.
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")


def explain(exc: Exception, *, request: str, setting: str, ca_setting: str) -> PipelineError:
    """The error of ours to raise for `exc`; made, not raised.

    ConfigError for a proxy or CA bundle that cannot be used or a scheme that is the other one's,
    FatalError for a certificate
    or TLS that cannot be agreed on, ServiceUnavailable for all else. Its `maybe_processed`
    is False where `exc` says that no connection was made: only then was nothing sent.
    """
    chain = list(_chain(exc))
    if (socks := _socks_failure(exc, request=request)) is not None:
        return socks
    if any(isinstance(link, BadStatusLine) and TLS_ALERT in str(link) for link in chain):
        return speaks_tls(request, setting)
    if isinstance(exc, SSLError) and not any(isinstance(link, PASSING_TLS) for link in chain):
        return _tls_failure(chain, request=request, setting=setting, ca_setting=ca_setting)
    if isinstance(exc, UNUSABLE):
        return ConfigError(
            f"{request} cannot be sent: the address or the proxy's is malformed. Check "
            f"{setting}, HTTPS_PROXY, HTTP_PROXY and ALL_PROXY."
        )
    if not isinstance(exc, RequestException) and type(exc) is OSError:
        return ConfigError(
            f"{request} cannot be sent: a file of certificates cannot be read. Check "
            f"{ca_setting}, CURL_CA_BUNDLE and the certificate settings."
        )
    connected = not any(isinstance(link, NOT_CONNECTED) for link in chain)
    return ServiceUnavailable(f"{request}: {_what_happened(chain)}.", maybe_processed=connected)


def without_request(exc: Exception) -> Exception | None:
    """`exc` as a cause to keep: without its request, whose headers carry the token.

    None where its own text may quote a header or a proxy's password.
    """
    if isinstance(exc, UNUSABLE) or type(exc) is ValueError:
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
    return "the connection broke before the whole answer was there"


def _tls_failure(
    chain: list[BaseException], *, request: str, setting: str, ca_setting: str
) -> PipelineError:
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        return FatalError(
            f"{request}: the service's TLS certificate cannot be verified. Where a proxy signs "
            f"anew, put the path of its CA bundle into {ca_setting}; else check "
            f"{setting} and this machine's clock."
        )
    reasons = (link.reason for link in chain if isinstance(link, ssl.SSLError))
    reason = next(reasons, None) or "no reason given"
    if reason in NO_TLS and not any(isinstance(link, ProxyError) for link in chain):
        return ConfigError(
            f"{request}: the endpoint does not speak TLS ({reason}). If that is right, use "
            f"http:// in {setting}; else check its port."
        )
    return FatalError(
        f"{request}: no TLS connection can be agreed on ({reason}). Check scheme and port in "
        f"{setting}, and the certificate settings."
    )


def speaks_tls(request: str, setting: str) -> ConfigError:
    """What to raise where a server of HTTPS was sent plain HTTP."""
    return ConfigError(f"{request}: the endpoint speaks TLS: use https:// in {setting}.")


def _socks_failure(exc: Exception, *, request: str) -> ConfigError | None:
    """For a proxy that is well-formed, and cannot be used as it is."""
    if "SOCKS" not in str(exc) or not isinstance(exc, InvalidSchema | ValueError):
        return None
    shown = "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
    if isinstance(exc, InvalidSchema):
        return ConfigError(
            f"{request} cannot be sent through the proxy in {shown}: SOCKS proxies need PySocks. "
            "Install it (pip install PySocks), or unset the variable."
        )
    return ConfigError(
        f"{request} cannot be sent through the proxy in {shown}: socks:// does not say which "
        "version. Write socks5h://."
    )


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """`exc` and what it wraps: urllib3 passes causes as `reason` or as an argument.

    Never `__context__`: it may be another request's failure that the caller is handling.
    """
    seen: set[int] = set()
    waiting: list[object] = [exc]
    while waiting:
        link = waiting.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, getattr(link, "reason", None), *link.args]


# Headers that a session may fix and that everybody may know.
PUBLIC = {"accept", "accept-encoding", "content-encoding", "content-type", "user-agent"}
# Shorter words ("Bearer", "1") would blot out ordinary text.
SHORTEST_SECRET = 8


class Redactor:
    """Knows the secrets in `headers`: each value, and each long word of it."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        values = [value for name, value in headers.items() if name.lower() not in PUBLIC]
        words = [word for value in values for word in value.split()]
        secrets = {secret for secret in (*values, *words) if len(secret) >= SHORTEST_SECRET}
        self._secrets = sorted(secrets, key=len, reverse=True)

    def quote(self, text: str, *, limit: int) -> str:
        """`text` on one line, its secrets blotted out first, then cut after `limit` letters."""
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return one_line(text, limit)

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"

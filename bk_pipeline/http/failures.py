"""What an exception of requests or urllib3 means to us.

Their texts hold URLs with queries, and some hold header values or a proxy's password; so
none of their text is copied, only what they are.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

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

UNUSABLE = (InvalidHeader, InvalidProxyURL, InvalidSchema, InvalidURL, LocationParseError)
NOT_CONNECTED = (ConnectTimeout, ConnectTimeoutError, NewConnectionError, ProxyError)
# The other side hung up in the middle; no sign of a setting that is wrong.
PASSING_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
TIMED_OUT = (Timeout, ReadTimeoutError)


def explain(exc: Exception, *, request: str, setting: str, ca_setting: str) -> PipelineError:
    """The error of ours to raise for `exc`; made, not raised.

    ConfigError for a proxy or CA bundle that cannot be used, FatalError for a certificate
    or TLS that cannot be agreed on, ServiceUnavailable for all else. Its `maybe_processed`
    is False where `exc` says that no connection was made: only then was nothing sent.
    """
    chain = list(_chain(exc))
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
    if isinstance(exc, UNUSABLE):
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
) -> FatalError:
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        return FatalError(
            f"{request}: the service's TLS certificate cannot be verified. Where a proxy signs "
            f"anew, put the path of its CA bundle into {ca_setting}; else check "
            f"{setting} and this machine's clock."
        )
    reasons = (link.reason for link in chain if isinstance(link, ssl.SSLError))
    reason = next(reasons, None) or "no reason given"
    return FatalError(
        f"{request}: no TLS connection can be agreed on ({reason}). Check scheme and port in "
        f"{setting}, and the certificate settings."
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

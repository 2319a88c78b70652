"""Interpret the responses of any service: error for a status, error message, JSON body.

Each package that talks to a service supplies its own messages. The service's text is only
quoted; no decision depends on it, with one exception: "too large" in a 400.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    NotFound,
    PipelineError,
    RequestRefused,
    RequestTooLarge,
    ServiceUnavailable,
    TokenRefused,
)
from bk_pipeline.http.session import BAD_REQUEST, Response

T = TypeVar("T")
# Redacts and shortens a service's text for use in a message.
Quote = Callable[[str], str]
# The message for each class of error; see `refusal`.
Messages = Mapping[type[PipelineError], str]

REQUEST_TIMEOUT = 408
PAYLOAD_TOO_LARGE = 413
TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500
# Sent by a load balancer that did not forward the request, or by an overloaded server.
NOT_PASSED_ON = 503
BY_STATUS: Mapping[int, type[PipelineError]] = {401: TokenRefused, 403: AccessDenied, 404: NotFound}

# Raised by msgspec for a body that is not JSON, or is JSON of another type.
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_object = msgspec.json.Decoder(dict[str, Any])


def refusal(
    response: Response,
    detail: str,
    messages: Messages,
    *,
    retry_in_s: float | None,
    throttling: Collection[int] = (TOO_MANY_REQUESTS,),
    permanent: Collection[int] = (),
) -> PipelineError:
    """The error for a response that is not a success; returned, not raised.

    Args:
        response: The response; its status is not 2xx.
        detail: The service's own message, redacted.
        messages: Message for each class of error. A class without one becomes RequestRefused.
        retry_in_s: Delay that the service asks for, in seconds.
        throttling: Statuses that mean "slow down".
        permanent: Statuses of 500 and above for which a retry does not help.
    """
    status = response.status
    kind: type[PipelineError] = BY_STATUS.get(status, RequestRefused)
    if status in throttling:
        kind = DeliveryThrottled
    elif (status >= SERVER_ERRORS and status not in permanent) or status == REQUEST_TIMEOUT:
        kind = ServiceUnavailable
    elif status == PAYLOAD_TOO_LARGE or (status == BAD_REQUEST and "too large" in detail.lower()):
        kind = RequestTooLarge
    if kind not in messages:
        kind = RequestRefused
    message = messages[kind]
    if kind is ServiceUnavailable:
        maybe_processed = status != NOT_PASSED_ON
        return ServiceUnavailable(message, retry_in_s=retry_in_s, maybe_processed=maybe_processed)
    if kind is DeliveryThrottled:
        return DeliveryThrottled(message, retry_in_s=retry_in_s)
    if issubclass(kind, RequestRefused):
        return kind(message, status=status, detail=detail)
    return kind(message)


def unreachable(
    place: str, exc: ServiceUnavailable, *, setting: str, hint: str = ""
) -> ServiceUnavailable:
    """`exc` with the name of the service (`place`) and the setting to check."""
    return ServiceUnavailable(
        f"{place} cannot be reached. {exc} Check {setting} and the network if that goes on.{hint}",
        maybe_processed=exc.maybe_processed,
    )


def error_detail(response: Response, quote: Quote) -> str:
    """The service's error message on one line, or a summary of the body if it has none."""
    return quote(service_message(response) or "") or body_summary(response, quote)


def service_message(response: Response) -> str | None:
    """The service's error message, unredacted; None if the body has none."""
    return next(_messages(json_object(response.body)), None)


def body_summary(response: Response, quote: Quote) -> str:
    """A description of an unexpected body, like `text/html beginning with "<html>..."`."""
    if not response.body:
        return "an empty body"
    kind = quote(response.headers.get("Content-Type", "")) or "a body of no declared type"
    return f'{kind} beginning with "{quote(response.body[:400].decode(errors="replace"))}"'


def json_object(body: bytes) -> dict[str, Any]:
    """`body` as a JSON object; empty if it is anything else."""
    try:
        return _object.decode(body)
    except DECODE_ERRORS:
        return {}


def decoded(
    response: Response, kind: type[T], *, place: str, unexpected: Callable[[], PipelineError]
) -> T:
    """The JSON body of a 2xx response, decoded as `kind`.

    Raises:
        ServiceUnavailable: The body is truncated.
        PipelineError: The body is not a `kind`; `unexpected` returns the error to raise.
    """
    try:
        return msgspec.json.decode(response.body, type=kind)
    except DECODE_ERRORS as exc:
        raise (
            truncated_answer(response, place) if is_truncated(exc, response.body) else unexpected()
        ) from exc


def is_truncated(exc: Exception | None, body: bytes) -> bool:
    """Whether `body`, which failed to decode with `exc`, looks like truncated JSON.

    A retry can return the whole body. It does not help for JSON of another type or for HTML.
    """
    if isinstance(exc, msgspec.ValidationError | RecursionError):
        return False
    return body.lstrip()[:1] in {b"[", b"{"}


def truncated_answer(response: Response, place: str) -> ServiceUnavailable:
    """The error for a 2xx with an incomplete body: the request may have been processed."""
    return ServiceUnavailable(
        f"{place}: the JSON of the answer to {response.request} is broken or cut short."
    )


def _messages(fields: dict[str, Any]) -> Iterator[str]:
    """Messages found in the known shapes of error bodies, top-level fields first."""
    errors = fields.get("errors")
    inner = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    for one in (fields, *inner):
        for name in ("message", "error", "detail", "title"):
            text = one.get(name)
            if isinstance(text, str) and text.strip():
                yield text

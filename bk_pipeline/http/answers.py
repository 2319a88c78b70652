"""What the answers of any service mean: the error for a status, the service's message, the JSON.

Each room adds its own messages. A service's text is quoted, never obeyed.
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
# Makes a service's text fit to be quoted.
Quote = Callable[[str], str]
# The message for each class of error; see `refusal`.
Messages = Mapping[type[PipelineError], str]

REQUEST_TIMEOUT = 408
PAYLOAD_TOO_LARGE = 413
TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500
# What a load balancer says before it has passed a request on, or a server that is overloaded.
NOT_PASSED_ON = 503
BY_STATUS: Mapping[int, type[PipelineError]] = {401: TokenRefused, 403: AccessDenied, 404: NotFound}

# What msgspec raises for a body that is no JSON, or other JSON than was wanted.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_object = msgspec.json.Decoder(dict[str, Any])


def refusal(
    response: Response,
    said: str,
    messages: Messages,
    *,
    retry_in_s: float | None,
    throttling: Collection[int] = (TOO_MANY_REQUESTS,),
    permanent: Collection[int] = (),
) -> PipelineError:
    """The error that the status of a failure stands for.

    Args:
        response: The answer; no 2xx.
        said: The service's own message, quoted.
        messages: By class of error. A class that is missing becomes a RequestRefused.
        retry_in_s: After how many seconds the service said to try again.
        throttling: The statuses that ask to slow down.
        permanent: The statuses from 500 on that say that trying again does not help.
    """
    status = response.status
    kind: type[PipelineError] = BY_STATUS.get(status, RequestRefused)
    if status in throttling:
        kind = DeliveryThrottled
    elif (status >= SERVER_ERRORS and status not in permanent) or status == REQUEST_TIMEOUT:
        kind = ServiceUnavailable
    elif status == PAYLOAD_TOO_LARGE or (status == BAD_REQUEST and "too large" in said.lower()):
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
        return kind(message, status=status, detail=said)
    return kind(message)


def unreachable(
    place: str, exc: ServiceUnavailable, *, setting: str, hint: str = ""
) -> ServiceUnavailable:
    """The same error, with what cannot be reached and which setting to look at."""
    return ServiceUnavailable(
        f"{place} cannot be reached. {exc} Check {setting} and the network if that goes on.{hint}",
        maybe_processed=exc.maybe_processed,
    )


def said_in(response: Response, quote: Quote) -> str:
    """The service's own message on a failure, on one line, else what kind of body came."""
    return quote(message_in(response) or "") or body_shown(response, quote)


def message_in(response: Response) -> str | None:
    """The service's own message, as it came; None if the body has none."""
    return next(_messages(json_object(response.body)), None)


def body_shown(response: Response, quote: Quote) -> str:
    """`text/html beginning with "<html>..."`, for a body that is not what it should be."""
    if not response.body:
        return "an empty body"
    kind = quote(response.headers.get("Content-Type", "")) or "a body of no declared type"
    return f'{kind} beginning with "{quote(response.body[:400].decode(errors="replace"))}"'


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that `body` is; an empty one if it is something else."""
    try:
        return _object.decode(body)
    except UNDECODABLE:
        return {}


def decoded(
    response: Response, kind: type[T], *, place: str, unexpected: Callable[[], PipelineError]
) -> T:
    """The JSON of a 2xx as a `kind`.

    Raises:
        ServiceUnavailable: It was cut on its way.
        PipelineError: It is something else: what `unexpected` returns.
    """
    try:
        return msgspec.json.decode(response.body, type=kind)
    except UNDECODABLE as exc:
        raise (cut_short(response, place) if is_cut(exc, response.body) else unexpected()) from exc


def is_cut(exc: Exception | None, body: bytes) -> bool:
    """Whether `body`, which could not be decoded because of `exc`, is JSON that was cut.

    Such an answer may come whole the next time. JSON of another shape will not, nor a page.
    """
    if isinstance(exc, msgspec.ValidationError | RecursionError):
        return False
    return body.lstrip()[:1] in {b"[", b"{"}


def cut_short(response: Response, place: str) -> ServiceUnavailable:
    """What to raise for a 2xx of which a part is missing: what was asked for may be done."""
    return ServiceUnavailable(
        f"{place}: the JSON of the answer to {response.request} is broken or cut short."
    )


def _messages(fields: dict[str, Any]) -> Iterator[str]:
    """From each of the shapes that error bodies have, the plainest first."""
    errors = fields.get("errors")
    inner = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    for one in (fields, *inner):
        for name in ("message", "error", "detail", "title"):
            text = one.get(name)
            if isinstance(text, str) and text.strip():
                yield text

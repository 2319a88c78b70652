"""What an OTLP endpoint's answers mean: an outcome for each item, or an error for the request.

Decided by status; the server's own words are quoted, cut and free of our secrets. Two
things are not as the specification has them. It lets clients try again after 429, 502, 503
and 504 alone, so that live ones do not pile up on a broken server; here pauses grow under
one deadline, and giving up fails the run, so 500 and 408 and what proxies make of outages
(520 and the like) are tried again as well. And a 400 that speaks of size is taken for a 413,
as older collectors have it.

Sources: OTLP specification, "OTLP/HTTP Response", "Partial Success" and "Failures".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no stubs
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # as above
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # as above
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bk_pipeline.deliver.destination import ACCEPTED, Answer, Outcome, Verdict
from bk_pipeline.deliver.otlp.signals import TRACES, Signal
from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    NotFound,
    PipelineError,
    RequestRefused,
    RequestTooLarge,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.http.body import is_cut
from bk_pipeline.http.retry_after import retry_after_s, wait_s
from bk_pipeline.http.session import Response

Quote = Callable[[str], str]

PROTOBUF = ("application/x-protobuf", "application/protobuf", "")
JSON = "application/json"
# The tag of the only field that an answer has: whatever begins otherwise is none.
PARTIAL_SUCCESS = b"\x0a"
TOO_MANY_REQUESTS = 429
# What a server says that is overloaded, or a load balancer before it has passed a request on.
NOT_TAKEN = 503
# Server errors that say that no repetition helps.
NEVER = (501, 505)


@dataclass(frozen=True, slots=True)
class Words:
    """What messages are made with.

    Attributes:
        place: The destination, as a message begins.
        endpoint: The variable that holds its URL.
        headers: The variable that holds, or should hold, our credentials.
        quote: Makes the server's words fit to be quoted.
        signal: What was sent.
    """

    place: str
    endpoint: str
    headers: str
    quote: Quote
    signal: Signal = TRACES


class _PartialSuccess(msgspec.Struct, rename="camel"):
    """In JSON the number has a name for each signal."""

    rejected_spans: int = 0
    rejected_data_points: int = 0
    error_message: str = ""

    @property
    def rejected(self) -> int:
        return self.rejected_spans + self.rejected_data_points


class _JsonResponse(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


# 64-bit numbers are strings in protobuf's JSON.
_json_response = msgspec.json.Decoder(_JsonResponse, strict=False)
_object = msgspec.json.Decoder(dict[str, Any])


def answer(
    response: Response, count: int, *, sent_bytes: int, words: Words, things: int | None = None
) -> Answer:
    """What a 2xx says to `count` items.

    A partial success says how many things were rejected, and not which; so unless that is
    all of them, no item can be recorded as rejected. Sending them again would double the
    accepted ones, and the specification forbids it; so all are settled as accepted, the
    number is told with the server's words, and the run reports it.

    Args:
        response: The answer.
        count: How many items were sent.
        sent_bytes: In how many bytes.
        words: What messages are made with.
        things: How many spans or data points the items made, if that is not `count`.

    Raises:
        ServiceUnavailable: It was cut on its way; everything may have been accepted.
        UnexpectedAnswer: It is no answer to an export of the signal.
    """
    said = _partial_success(response, words)
    message = words.quote(said.error_message) or "no reason given"
    sent = count if things is None else things
    rejected = min(max(said.rejected, 0), sent)
    if rejected == sent:
        return Answer([Outcome(Verdict.REJECTED, message)] * count, sent_bytes)
    remark = ""
    what = words.signal.things
    if rejected:
        remark = (
            f"{words.place} rejected {rejected} of {sent} {what} and did not say which: {message}"
        )
    elif said.error_message:
        remark = f"{words.place} accepted {sent} {what} with a warning: {message}"
    return Answer([ACCEPTED] * count, sent_bytes, rejected_unnamed=rejected, remark=remark)


def _partial_success(response: Response, words: Words) -> _PartialSuccess:
    kind = _kind(response)
    try:
        if not response.body:
            return _PartialSuccess()
        if kind == JSON:
            return _json_response.decode(response.body).partial_success or _PartialSuccess()
        if kind in PROTOBUF:
            # In bytes the answers for all signals are the same.
            found = ExportTraceServiceResponse.FromString(response.body).partial_success
            return _PartialSuccess(found.rejected_spans, error_message=found.error_message)
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        begun = kind in PROTOBUF[:2] and response.body[:1] == PARTIAL_SUCCESS
        if begun if isinstance(exc, DecodeError) else is_cut(exc, response.body):
            raise ServiceUnavailable(
                f"{words.place}: the answer to {response.request} is broken or cut short."
            ) from exc
    raise UnexpectedAnswer(
        f"{words.place} answered {response.status} with something else than OTLP: "
        f"{_shown(response, words.quote)}. Check {words.endpoint} and what stands between us "
        "and it; the batch is in doubt and will be sent again."
    )


def refusal(response: Response, *, words: Words, now: datetime) -> PipelineError | None:
    """The error that the status of a request stands for; None for a 2xx."""
    status = response.status
    if status in range(200, 300):
        return None
    said = _said(response, words.quote)
    pause_s = _pause_s(response, now)
    if status == TOO_MANY_REQUESTS or (status == NOT_TAKEN and pause_s is not None):
        return DeliveryThrottled(
            f"{words.place} takes no more {words.signal.things} at the moment ({status}: {said}). "
            "Run again later if that goes on: what was accepted is not sent again.",
            retry_in_s=pause_s,
        )
    if (status >= 500 and status not in NEVER) or status == 408:  # noqa: PLR2004  # HTTP
        return ServiceUnavailable(
            f"{words.place} is in trouble ({status}: {said}). Check {words.endpoint} and the "
            "service's own logs if that goes on.",
            retry_in_s=pause_s,
            maybe_processed=status != NOT_TAKEN,
        )
    return _refused_us(status, said, words) or _refused(status, said, words)


def _refused_us(status: int, said: str, words: Words) -> PipelineError | None:
    match status:
        case 401:
            return TokenRefused(
                f"{words.place} does not know our credentials (401: {said}). Put the header "
                f"that it asks for into {words.headers}, like Authorization=Bearer%20..."
            )
        case 403:
            return AccessDenied(
                f"{words.place} does not let us send {words.signal.things} (403: {said}). Give the "
                f"key in {words.headers} the permission to write {words.signal.name}, or put "
                "another there."
            )
        case 404:
            return NotFound(
                f"{words.place} does not exist (404: {said}). Check the path in "
                f"{words.endpoint}: /{words.signal.path} is added to OTEL_EXPORTER_OTLP_ENDPOINT, "
                f"and nothing to {words.signal.prefix}ENDPOINT. If it takes no "
                f"{words.signal.name}, set {words.signal.switch}=none."
            )
        case _:
            return None


def _refused(status: int, said: str, words: Words) -> RequestRefused:
    if status == 413 or (status == 400 and "too large" in said.lower()):  # noqa: PLR2004  # HTTP
        return RequestTooLarge(
            f"{words.place} refuses a batch as too large ({status}: {said}).",
            status=status,
            said=said,
        )
    advice = f"Check {words.endpoint}"
    if status in {405, 415}:
        advice = f"No receiver of OTLP/HTTP with protobuf seems to be there: check {words.endpoint}"
    return RequestRefused(
        f"{words.place} refuses a batch ({status}: {said}). Nothing of it was stored; sending it "
        f"again does not help. {advice}.",
        status=status,
        said=said,
    )


def _pause_s(response: Response, now: datetime) -> float | None:
    """How long to wait: Retry-After, else the RetryInfo of gRPC servers behind a gateway."""
    asked = retry_after_s(response.headers, now)
    if asked is not None:
        return asked
    try:
        if _kind(response) == JSON:
            details = _object.decode(response.body).get("details")
            delays = [one.get("retryDelay") for one in details or () if isinstance(one, dict)]
            told = next((one for one in delays if isinstance(one, str)), "")
            return wait_s(told.removesuffix("s"), now)
        for detail in Status.FromString(response.body).details:
            info = RetryInfo()
            if detail.Unpack(info) and info.HasField("retry_delay"):
                return wait_s(info.retry_delay.seconds + info.retry_delay.nanos / 1e9, now)
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
        pass
    return None


def _said(response: Response, quote: Quote) -> str:
    """The server's own words on a failure, on one line, else what kind of body came."""
    kind = _kind(response)
    if kind in PROTOBUF[:2]:
        try:
            return quote(Status.FromString(response.body).message) or _shown(response, quote)
        except DecodeError:
            return _shown(response, quote)
    try:
        fields = _object.decode(response.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _shown(response, quote)
    told = (fields.get(name) for name in ("message", "error", "detail", "title"))
    return next((quote(one) for one in told if isinstance(one, str)), "") or _shown(response, quote)


def _kind(response: Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _shown(response: Response, quote: Quote) -> str:
    """`text/html beginning with "<html>..."`, for a body that is not what it should be."""
    if not response.body:
        return "an empty body"
    kind = quote(response.headers.get("Content-Type", "")) or "a body of no declared type"
    return f'{kind} beginning with "{quote(response.body[:400].decode(errors="replace"))}"'

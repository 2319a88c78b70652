"""What an OTLP endpoint's answers mean: an outcome for each item, or an error for the request.

Decided by status; the server's own words are quoted, cut and free of our secrets. Two
things are not as the specification has them. It lets clients try again after 429, 502, 503
and 504 alone, so that live ones do not pile up on a broken server; here pauses grow under
one deadline, and giving up fails the run, so 500 and 408 and what proxies make of outages
(520 and the like) are tried again as well. And a 400 that speaks of size is taken for a 413,
as older collectors have it.

The specification wants failures to have a 4xx or 5xx status. Gateways send some with a 2xx all
the same: a `google.rpc.Status` with a code, or JSON with an `error`. Nothing counts as accepted
then. An object without either, like `{"status": "ok"}`, is a success: fields that are not known
are ignored, as protobuf does.

Sources: OTLP specification, "OTLP/HTTP Response", "Partial Success" and "Failures".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no stubs
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # as above
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # as above
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bk_pipeline.deliver.destination import ACCEPTED, DROPPED, Outcome, SendResult, Verdict
from bk_pipeline.deliver.otlp.variables import TRACES, Signal
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
from bk_pipeline.http import answers
from bk_pipeline.http.answers import (
    NOT_PASSED_ON,
    TOO_MANY_REQUESTS,
    Quote,
    body_shown,
    cut_short,
    is_cut,
    json_object,
    said_in,
)
from bk_pipeline.http.retry import retry_after_s, wait_s
from bk_pipeline.http.session import Response

PROTOBUF = ("application/x-protobuf", "application/protobuf", "")
JSON = "application/json"
# The tag of the only field that an answer has: whatever begins otherwise is none.
PARTIAL_SUCCESS = b"\x0a"
# Codes in a body that say that nothing was taken: RESOURCE_EXHAUSTED and UNAVAILABLE of gRPC,
# and those of HTTP.
NOT_NOW = (8, 14, 429, 503)
# gRPC's, for a failure without one.
UNKNOWN = 2
_UNDERSCORE = re.compile("_([a-z])")
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


_object = msgspec.json.Decoder(dict[str, Any])


def answer(
    response: Response, count: int, *, sent_bytes: int, words: Words, things: int | None = None
) -> SendResult:
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
        DeliveryThrottled: The body says so, whatever the status.
        ServiceUnavailable: It was cut on its way; everything may have been accepted.
        UnexpectedAnswer: It is no answer to an export of the signal, or reports a failure.
    """
    said = _partial_success(response, words)
    message = words.quote(said.error_message) or "no reason given"
    sent = count if things is None else things
    rejected = min(max(said.rejected, 0), sent)
    if rejected == sent:
        return SendResult([Outcome(Verdict.REJECTED, message)] * count, sent_bytes)
    warning = ""
    what = words.signal.noun
    if rejected:
        warning = (
            f"{words.place} rejected {rejected} of {sent} {what} and did not say which: {message}"
        )
    elif said.error_message:
        warning = f"{words.place} accepted {sent} {what} with a warning: {message}"
    return SendResult([ACCEPTED] * count, sent_bytes, rejected_unnamed=rejected, warning=warning)


def _partial_success(response: Response, words: Words) -> _PartialSuccess:
    kind = _kind(response)
    try:
        if not response.body:
            return _PartialSuccess()
        if kind == JSON:
            return _partial_success_of_json(response, words)
        if kind in PROTOBUF:
            # In bytes the answers for all signals are the same.
            found = ExportTraceServiceResponse.FromString(response.body)
            if not found.HasField("partial_success"):
                _require_success(*_code_and_message(response.body), response, words)
            partial = found.partial_success
            return _PartialSuccess(partial.rejected_spans, error_message=partial.error_message)
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        begun = kind in PROTOBUF[:2] and response.body[:1] == PARTIAL_SUCCESS
        if begun if isinstance(exc, DecodeError) else is_cut(exc, response.body):
            raise cut_short(response, words.place) from exc
    raise UnexpectedAnswer(
        f"{words.place} answered {response.status} with something else than OTLP: "
        f"{body_shown(response, words.quote)}. Check {words.endpoint} and what stands between us "
        "and it; the batch is in doubt and will be sent again."
    )


def _partial_success_of_json(response: Response, words: Words) -> _PartialSuccess:
    """Protobuf's JSON has two spellings of each name, and its 64-bit numbers are strings."""
    fields = _object.decode(response.body)
    partial = fields.get("partialSuccess", fields.get("partial_success"))
    if partial is not None:
        named = msgspec.convert(partial, dict[str, Any])
        camel = {
            _UNDERSCORE.sub(lambda at: at[1].upper(), name): one for name, one in named.items()
        }
        return msgspec.convert(camel, _PartialSuccess, strict=False)
    error = fields.get("error") or fields.get("errors")
    nested = error if isinstance(error, dict) else {}
    code = _number(nested.get("code", fields.get("code")))
    if not code and (error or fields.get("success") is False):
        code = UNKNOWN
    texts = (nested.get("message"), error, fields.get("message"))
    message = next((one for one in texts if one and isinstance(one, str)), "")
    _require_success(code, message, response, words)
    return _PartialSuccess()


def _number(value: Any) -> int:
    """A code as a number; 0 if it is none."""
    return (
        int(value)
        if isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
        else 0
    )


def _code_and_message(body: bytes) -> tuple[int, str]:
    """Those of a `google.rpc.Status`; code 0 if `body` is none."""
    try:
        status = Status.FromString(body)
    except DecodeError:
        return 0, ""
    return status.code, status.message


def _require_success(code: int, message: str, response: Response, words: Words) -> None:
    """Do nothing if the body of a 2xx reports no failure.

    Args:
        code: Of gRPC, or of HTTP.
        message: The server's.
        response: The answer.
        words: What messages are made with.

    Raises:
        DeliveryThrottled: Nothing was taken, for the moment.
        UnexpectedAnswer: It is not clear whether anything was taken.
    """
    if (code == 0 or code in range(200, 300)) and not DROPPED.search(message):
        return
    said = f"{response.status}: {words.quote(message) or body_shown(response, words.quote)}"
    if code in NOT_NOW:
        raise DeliveryThrottled(
            f"{words.place} takes no more {words.signal.things} at the moment ({said}). "
            "Run again later if that goes on: what was accepted is not sent again."
        )
    raise UnexpectedAnswer(
        f"{words.place} reports a failure in an answer that is a success by its status ({said}). "
        f"Check {words.endpoint} and {words.headers}; the batch is in doubt and will be sent again."
    )


def refusal(response: Response, *, words: Words, now: datetime) -> PipelineError | None:
    """The error that the status of a request stands for; None for a 2xx."""
    if response.ok:
        return None
    said, pause_s = _said(response, words.quote), _pause_s(response, now)
    # A server that is overloaded says when to come back; a broken one does not.
    overloaded = [] if pause_s is None else [NOT_PASSED_ON]
    return answers.refusal(
        response,
        said,
        _messages(response.status, said, words),
        retry_in_s=pause_s,
        throttling=[TOO_MANY_REQUESTS, *overloaded],
        permanent=NEVER,
    )


def _messages(status: int, said: str, words: Words) -> dict[type[PipelineError], str]:
    place, signal = words.place, words.signal
    advice = f"Check {words.endpoint}"
    if status in {405, 415}:
        advice = f"No receiver of OTLP/HTTP with protobuf seems to be there: check {words.endpoint}"
    return {
        DeliveryThrottled: (
            f"{place} takes no more {signal.noun} at the moment ({status}: {said}). "
            "Run again later if that goes on: what was accepted is not sent again."
        ),
        ServiceUnavailable: (
            f"{place} is in trouble ({status}: {said}). Check {words.endpoint} and the "
            "service's own logs if that goes on."
        ),
        TokenRefused: (
            f"{place} does not know our credentials (401: {said}). Put the header "
            f"that it asks for into {words.headers}, like Authorization=Bearer%20..."
        ),
        AccessDenied: (
            f"{place} does not let us send {signal.noun} (403: {said}). Give the "
            f"key in {words.headers} the permission to write {signal.name}, or put "
            "another there."
        ),
        NotFound: (
            f"{place} does not exist (404: {said}). Check the path in "
            f"{words.endpoint}: /{signal.path} is added to OTEL_EXPORTER_OTLP_ENDPOINT, "
            f"and nothing to {signal.variable_prefix}ENDPOINT. If it takes no "
            f"{signal.name}, set {signal.exporter_variable}=none."
        ),
        RequestTooLarge: f"{place} refuses a batch as too large ({status}: {said}).",
        RequestRefused: (
            f"{place} refuses a batch ({status}: {said}). Nothing of it was stored; sending it "
            f"again does not help. {advice}."
        ),
    }


def _pause_s(response: Response, now: datetime) -> float | None:
    """How long to wait: Retry-After, else the RetryInfo of gRPC servers behind a gateway."""
    asked = retry_after_s(response.headers, now)
    if asked is not None:
        return asked
    try:
        if _kind(response) == JSON:
            details = json_object(response.body).get("details")
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
    """The server's own message on a failure, on one line, else what kind of body came."""
    if _kind(response) not in PROTOBUF[:2]:
        return said_in(response, quote)
    try:
        return quote(Status.FromString(response.body).message) or body_shown(response, quote)
    except DecodeError:
        return body_shown(response, quote)


def _kind(response: Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

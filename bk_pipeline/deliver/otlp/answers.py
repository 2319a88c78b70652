"""Interpret responses of an OTLP endpoint: an outcome for each item, or an error for the request.

The status decides; the server's message is quoted, truncated and without our secrets. This differs
from the specification in two ways:

- Clients may only retry after 429, 502, 503 and 504, so that running clients do not overload a
  broken server. Here pauses grow up to a deadline, and then the run fails, so 500, 408 and the
  statuses of proxies for outages (such as 520) are retried too.
- A 400 whose message is about size is treated like a 413, for older collectors.

Failures should have a 4xx or 5xx status, but some gateways send them with a 2xx: as a
`google.rpc.Status` with a code, as JSON with an `error`, a failed `status` or the like, or in a
`grpc-status` header. Then nothing counts as accepted. An object with none of these, like
`{"status": "ok"}`, is a success, because unknown fields are ignored as in protobuf.

Sources: OTLP specification, "OTLP/HTTP Response", "Partial Success" and "Failures".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

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
    body_summary,
    error_detail,
    is_truncated,
    json_object,
    truncated_answer,
)
from bk_pipeline.http.retry import retry_after_s, wait_s
from bk_pipeline.http.session import Response

PROTOBUF = ("application/x-protobuf", "application/protobuf", "")
JSON = "application/json"
# Of a gRPC server behind a gateway; the message is percent-encoded.
GRPC_STATUS, GRPC_MESSAGE = "grpc-status", "grpc-message"
# The tag of the only field of a response; a body that starts otherwise is not one.
PARTIAL_SUCCESS = b"\x0a"
# Codes in a body that mean that nothing was accepted: gRPC's RESOURCE_EXHAUSTED and UNAVAILABLE,
# and HTTP's.
THROTTLING_CODES = (8, 14, 429, 503)
# The gRPC code for a failure without a code.
UNKNOWN = 2
_UNDERSCORE = re.compile("_([a-z])")
# Members of a JSON object that report a failure, by name or value; names in snake case.
_WORD_START = re.compile(r"(?<=[a-z0-9])([A-Z])")
_FAILURE = re.compile(
    r"(?:^|[_\W])(?:err(?:or)?s?|faults?|exceptions?|fail(?:ed|ures?)?|reject(?:ed|ions?)?|denied"
    r"|dropped|unauthorized|forbidden|throttled|invalid)(?:$|[_\W])",
    re.IGNORECASE,
)
_CODES = ("code", "status", "status_code", "http_status", "error_code")
_STATES = ("status", "state", "result", "outcome")
_FLAGS = ("success", "successful", "succeeded", "ok", "accepted")
_NOTHING: tuple[Any, ...] = (None, False, 0, "", "0", [], {})
# Server errors for which retries do not help.
PERMANENT = (501, 505)


@dataclass(frozen=True, slots=True)
class MessageContext:
    """The parts of messages about an endpoint.

    Attributes:
        place: The destination, as the start of a message.
        endpoint: The variable that has the URL.
        headers: The variable that has, or should have, our credentials.
        quote: Makes a message of the server safe to quote.
        signal: The signal that was sent.
        grpc: Whether it was sent by gRPC.
    """

    place: str
    endpoint: str
    headers: str
    quote: Quote
    signal: Signal = TRACES
    grpc: bool = False


class _PartialSuccess(msgspec.Struct, rename="camel"):
    """A partial success; JSON has a different name for the number in each signal."""

    rejected_spans: int = 0
    rejected_data_points: int = 0
    error_message: str = ""

    @property
    def rejected(self) -> int:
        return self.rejected_spans + self.rejected_data_points


_object = msgspec.json.Decoder(dict[str, Any])


def parse_response(
    response: Response,
    count: int,
    *,
    sent_bytes: int,
    context: MessageContext,
    sent_count: int | None = None,
) -> SendResult:
    """Return the result of a request with `count` items from its 2xx response.

    A partial success counts rejected spans or data points without naming them and must not be
    resent: unless all were rejected, all items are settled as accepted, and the number is reported.

    Args:
        response: The response.
        count: The number of items sent.
        sent_bytes: The size of the request.
        context: The parts of messages.
        sent_count: The number of spans or data points sent, if it is not `count`.

    Raises:
        DeliveryThrottled: The body says so, whatever the status.
        ServiceUnavailable: The response is truncated; everything may have been accepted.
        UnexpectedAnswer: The body is not a response to an export, or reports a failure.
    """
    partial = _partial_success(response, context)
    message = context.quote(partial.error_message) or "no reason given"
    sent = count if sent_count is None else sent_count
    rejected = min(max(partial.rejected, 0), sent)
    if rejected == sent:
        return SendResult([Outcome(Verdict.REJECTED, message)] * count, sent_bytes)
    warning = ""
    what = context.signal.noun
    if rejected:
        warning = (
            f"{context.place} rejected {rejected} of {sent} {what} and did not say which: {message}"
        )
    elif partial.error_message:
        warning = f"{context.place} accepted {sent} {what} with a warning: {message}"
    return SendResult([ACCEPTED] * count, sent_bytes, rejected_unnamed=rejected, warning=warning)


def _partial_success(response: Response, context: MessageContext) -> _PartialSuccess:
    content_type = _content_type(response)
    grpc_code = _number(response.headers.get(GRPC_STATUS, ""))
    _require_success(grpc_code, unquote(response.headers.get(GRPC_MESSAGE, "")), response, context)
    try:
        if not response.body:
            return _PartialSuccess()
        if content_type == JSON:
            return _partial_success_of_json(response, context)
        if content_type in PROTOBUF:
            # The responses for all signals have the same encoding.
            found = ExportTraceServiceResponse.FromString(response.body)
            if not found.HasField("partial_success"):
                _require_success(*_code_and_message(response.body), response, context)
            partial = found.partial_success
            return _PartialSuccess(partial.rejected_spans, error_message=partial.error_message)
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        is_partial_message = content_type in PROTOBUF[:2] and response.body[:1] == PARTIAL_SUCCESS
        if is_partial_message if isinstance(exc, DecodeError) else is_truncated(exc, response.body):
            raise truncated_answer(response, context.place) from exc
    raise UnexpectedAnswer(
        f"{context.place} answered {response.status} with something other than OTLP: "
        f"{body_summary(response, context.quote)}. Check {context.endpoint} and any proxy in "
        "between; the batch is in doubt and will be sent again."
    )


def _partial_success_of_json(response: Response, context: MessageContext) -> _PartialSuccess:
    """Parse JSON, in which names have two spellings and 64-bit integers are strings."""
    fields = _object.decode(response.body)
    partial = fields.get("partialSuccess", fields.get("partial_success"))
    if partial is not None:
        named = msgspec.convert(partial, dict[str, Any])
        camel = {
            _UNDERSCORE.sub(lambda at: at[1].upper(), name): one for name, one in named.items()
        }
        return msgspec.convert(camel, _PartialSuccess, strict=False)
    code, message = _failure_in(fields)
    _require_success(code, message, response, context)
    return _PartialSuccess()


def _failure_in(fields: Mapping[str, Any]) -> tuple[int, str]:
    """Return code and message of the failure that a JSON object reports; code 0 without one."""
    words = {_WORD_START.sub(r"_\1", name).lower(): one for name, one in fields.items()}
    errors = [one for name, one in words.items() if _FAILURE.search(name) and one not in _NOTHING]
    nested = [one for one in (*errors, words.get("status")) if isinstance(one, dict)]
    code = next(
        filter(None, (_number(one.get(name)) for one in (*nested, words) for name in _CODES)), 0
    )
    failed = any(words.get(name) is False for name in _FLAGS) or any(
        _FAILURE.search(one) for name in _STATES if isinstance(one := words.get(name), str)
    )
    if (not code or code in range(200, 300)) and (errors or failed):
        code = UNKNOWN
    texts = (*(one.get("message") for one in nested), *errors, words.get("message"))
    return code, next((one for one in texts if one and isinstance(one, str)), "")


def _number(value: Any) -> int:
    """Return a code as a number; 0 if it is not a number."""
    return (
        int(value)
        if isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
        else 0
    )


def _code_and_message(body: bytes) -> tuple[int, str]:
    """Return code and message of a `google.rpc.Status`; code 0 if `body` is not one."""
    try:
        status = Status.FromString(body)
    except DecodeError:
        return 0, ""
    return status.code, status.message


def _require_success(code: int, message: str, response: Response, context: MessageContext) -> None:
    """Check that the body of a 2xx reports no failure.

    Args:
        code: A gRPC or HTTP status code.
        message: The server's message.
        response: The response.
        context: The parts of messages.

    Raises:
        DeliveryThrottled: Nothing was accepted for now.
        UnexpectedAnswer: It is unknown whether anything was accepted.
    """
    if (code == 0 or code in range(200, 300)) and not DROPPED.search(message):
        return
    detail = f"{response.status}: {context.quote(message) or body_summary(response, context.quote)}"
    if code in THROTTLING_CODES:
        raise DeliveryThrottled(
            f"{context.place} accepts no more {context.signal.noun} at the moment ({detail}). "
            "If this persists, run again later; what was accepted is not sent again."
        )
    raise UnexpectedAnswer(
        f"{context.place} reports a failure in a response with a success status ({detail}). "
        f"Check {context.endpoint} and {context.headers}; the batch is in doubt and will be sent again."
    )


def refusal(response: Response, *, context: MessageContext, now: datetime) -> PipelineError | None:
    """Return the error for the status of a response; None for a 2xx."""
    if response.ok:
        return None
    detail, pause_s = _detail(response, context.quote), _pause_s(response, now)
    # An overloaded server says when to retry; a broken one does not.
    overloaded = [] if pause_s is None else [NOT_PASSED_ON]
    return answers.refusal(
        response,
        detail,
        _messages(response.status, detail, context),
        retry_in_s=pause_s,
        throttling=[TOO_MANY_REQUESTS, *overloaded],
        permanent=PERMANENT,
    )


def _messages(status: int, detail: str, context: MessageContext) -> dict[type[PipelineError], str]:
    place, signal = context.place, context.signal
    advice = f"Check {context.endpoint}"
    if status in {405, 415}:
        advice = (
            f"No receiver of OTLP/HTTP with protobuf seems to be there: check {context.endpoint}"
        )
    return {
        DeliveryThrottled: (
            f"{place} accepts no more {signal.noun} at the moment ({status}: {detail}). "
            "If this persists, run again later; what was accepted is not sent again."
        ),
        ServiceUnavailable: (
            f"{place} has a server error ({status}: {detail}). If this persists, check "
            f"{context.endpoint} and the service's logs."
        ),
        TokenRefused: (
            f"{place} rejects our credentials (401: {detail}). Put the header "
            f"that it requires into {context.headers}, like Authorization=Bearer%20..."
        ),
        AccessDenied: (
            f"{place} does not let us send {signal.noun} (403: {detail}). Give the "
            f"key in {context.headers} permission to write {signal.name}, or set another "
            "one."
        ),
        NotFound: (
            f"{place} does not exist (404: {detail}). {_where_to_look(context)} If it does not "
            f"accept {signal.name}, set {signal.exporter_variable}=none."
        ),
        RequestTooLarge: f"{place} rejected a batch as too large ({status}: {detail}).",
        RequestRefused: (
            f"{place} rejected a batch ({status}: {detail}). Nothing of it was stored, and sending "
            f"it again does not help. {advice}."
        ),
    }


def _where_to_look(context: MessageContext) -> str:
    signal = context.signal
    if context.grpc:
        return f"Check host and port in {context.endpoint}."
    return (
        f"Check the path in {context.endpoint}: /{signal.path} is added to "
        f"OTEL_EXPORTER_OTLP_ENDPOINT, and nothing to {signal.variable_prefix}ENDPOINT."
    )


def _pause_s(response: Response, now: datetime) -> float | None:
    """Return Retry-After in seconds, else the RetryInfo of gRPC servers behind a gateway."""
    retry_after = retry_after_s(response.headers, now)
    if retry_after is not None:
        return retry_after
    try:
        if _content_type(response) == JSON:
            details = json_object(response.body).get("details")
            delays = [one.get("retryDelay") for one in details or () if isinstance(one, dict)]
            delay = next((one for one in delays if isinstance(one, str)), "")
            return wait_s(delay.removesuffix("s"), now)
        for any_message in Status.FromString(response.body).details:
            info = RetryInfo()
            if any_message.Unpack(info) and info.HasField("retry_delay"):
                return wait_s(info.retry_delay.seconds + info.retry_delay.nanos / 1e9, now)
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
        pass
    return None


def _detail(response: Response, quote: Quote) -> str:
    """Return the server's message about a failure on one line, else the kind of body."""
    if _content_type(response) not in PROTOBUF[:2]:
        return error_detail(response, quote)
    try:
        return quote(Status.FromString(response.body).message) or body_summary(response, quote)
    except DecodeError:
        return body_summary(response, quote)


def _content_type(response: Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

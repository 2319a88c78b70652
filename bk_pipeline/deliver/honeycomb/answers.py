"""Interpret Honeycomb's responses: an outcome for each event, or an error for the request.

The status decides and, where it is ambiguous, Honeycomb's documented messages. Messages are quoted
truncated and with our key redacted. A success may still report that events were dropped, for
example by server-side sampling; those are not stored, so they do not count as accepted.

Sources: Honeycomb's API description, `createEvents`; the tables of responses in its older
documentation ("blacklist", "request dropped due to server side sampling").
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from bk_pipeline.deliver.destination import ACCEPTED, DROPPED, Outcome, Verdict
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
    DECODE_ERRORS,
    PAYLOAD_TOO_LARGE,
    TOO_MANY_REQUESTS,
    Quote,
    body_summary,
    error_detail,
    is_truncated,
    service_message,
    truncated_answer,
)
from bk_pipeline.http.retry import retry_after_s
from bk_pipeline.http.session import BAD_REQUEST, Response

ACCEPTED_STATUS = 202
# Statuses of a single event that its content can cause; resending it does not help.
PERMANENT_STATUSES = (BAD_REQUEST, PAYLOAD_TOO_LARGE, 422)
# "Event dropped due to administrative denylist", in the wordings of several years.
DENYLIST = re.compile(r"(deny|black|block).?list", re.IGNORECASE)
# The reasons for dropped events that may pass soon.
TEMPORARY = re.compile(r"rate.?limit|throttl", re.IGNORECASE)


class _Element(msgspec.Struct):
    status: int
    error: str | None = None


_elements = msgspec.json.Decoder(list[_Element])


def outcomes(response: Response, count: int, *, place: str, quote: Quote) -> list[Outcome]:
    """Return the outcomes of `count` events, in order, from a 2xx response.

    Events missing at the end of the response are unanswered. An empty 202 accepts all.

    Raises:
        ServiceUnavailable: The response is truncated; the missing events may have been accepted.
        UnexpectedAnswer: The body is not a response to this many events.
        AccessDenied: The response says that we are on a denylist.
    """
    if response.status == ACCEPTED_STATUS and not response.body.strip():
        return [ACCEPTED] * count
    try:
        elements = _elements.decode(response.body)
    except DECODE_ERRORS as exc:
        verdict = _verdict_of_drop(service_message(response) or _plain_text(response))
        if verdict is not None:
            detail = error_detail(response, quote)
            if DENYLIST.search(detail):
                raise _on_denylist(response, detail, place) from exc
            return [Outcome(verdict, f"{response.status}: {detail}")] * count
        if is_truncated(exc, response.body):
            raise truncated_answer(response, place) from exc
        raise UnexpectedAnswer(
            f"{place} answered {response.status} with something other than an outcome for each "
            f"event: {body_summary(response, quote)}. Check HONEYCOMB_API_ENDPOINT and any "
            "proxy in between; the batch is in doubt and will be sent again."
        ) from exc
    if len(elements) > count:
        raise UnexpectedAnswer(
            f"{place} answered with {len(elements)} outcomes for {count} events. Check "
            "HONEYCOMB_API_ENDPOINT; the batch is in doubt and will be sent again."
        )
    answered = [
        ACCEPTED if one.status == ACCEPTED_STATUS and not one.error else _outcome(one, quote)
        for one in elements
    ]
    return answered + [Outcome(Verdict.UNANSWERED, "no answer")] * (count - len(elements))


def _outcome(element: _Element, quote: Quote) -> Outcome:
    status = element.status
    message = f"{status}: {quote(element.error or 'no reason given')}"
    if status in range(200, 300):
        verdict = _verdict_of_drop(element.error)
        return ACCEPTED if verdict is None else Outcome(verdict, message)
    if status == TOO_MANY_REQUESTS:
        return Outcome(Verdict.REJECTED if DENYLIST.search(message) else Verdict.THROTTLED, message)
    return Outcome(Verdict.REJECTED if status in PERMANENT_STATUSES else Verdict.FAILED, message)


def refusal(response: Response, *, place: str, quote: Quote, now: datetime) -> PipelineError | None:
    """Return the error for the status of a whole request; None for a 2xx."""
    if response.ok:
        return None
    status, detail = response.status, error_detail(response, quote)
    if status == TOO_MANY_REQUESTS and DENYLIST.search(detail):
        return _on_denylist(response, detail, place)
    message = (
        f"{place} rejected a batch ({status}: {detail}). Nothing of it was stored, and sending it "
        "again does not help. Check HONEYCOMB_API_ENDPOINT and HONEYCOMB_DATASET."
    )
    if "too many columns" in detail.lower():
        message = (
            f"{place} cannot store more columns ({status}: {detail}). Drop attributes with "
            "BK_PIPELINE_SPANS_DROP, or set HONEYCOMB_DATASET to a new dataset."
        )
    messages = _messages(status, detail, place) | {RequestRefused: message}
    retry_in_s = retry_after_s(response.headers, now)
    return answers.refusal(response, detail, messages, retry_in_s=retry_in_s)


def _messages(status: int, detail: str, place: str) -> dict[type[PipelineError], str]:
    return {
        DeliveryThrottled: (
            f"{place} accepts no more events at the moment (429: {detail}). If this persists, run "
            "again later; accepted events are not sent again."
        ),
        ServiceUnavailable: (
            f"{place} has a server error ({status}: {detail}). If this persists, see "
            "https://status.honeycomb.io."
        ),
        TokenRefused: (
            f"{place} rejects the key in HONEYCOMB_API_KEY: it is unknown or may not send "
            f"events (401: {detail}). Set it to an ingest key of this environment; a key of the "
            "EU region needs HONEYCOMB_API_ENDPOINT=https://api.eu1.honeycomb.io."
        ),
        AccessDenied: (
            f"{place} drops our events (403: {detail}). Honeycomb does this when a team exceeds the "
            "event volume of its plan: see Usage in Honeycomb, and deliver again when the "
            "throttling is lifted."
        ),
        NotFound: (
            f"{place} does not exist, and the key in HONEYCOMB_API_KEY may not create it "
            f"(404: {detail}). Create the dataset, or use a key with Create Datasets."
        ),
        RequestTooLarge: f"{place} rejected a batch as too large ({status}: {detail}).",
    }


def _on_denylist(response: Response, detail: str, place: str) -> AccessDenied:
    return AccessDenied(
        f"{place} has us on a denylist ({response.status}: {detail}). Waiting does not help: ask "
        "Honeycomb's support to lift it, then deliver again."
    )


def _plain_text(response: Response) -> str:
    """Return a body that is a sentence, in quotes or without; empty for a page or other JSON."""
    text = response.body.decode(errors="replace").strip().strip('"')
    return "" if text[:1] in {"<", "[", "{"} else text


def _verdict_of_drop(message: str | None) -> Verdict | None:
    """Return the verdict if a successful response says that events were dropped, else None."""
    if not message or not DROPPED.search(message):
        return None
    return Verdict.THROTTLED if TEMPORARY.search(message) else Verdict.REJECTED

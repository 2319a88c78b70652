"""What Honeycomb's answers mean: an outcome for each event, or an error for the request.

Decided by status and, where two meanings share one, by Honeycomb's documented words; those
are quoted, cut and free of our key. A success may still say that events were dropped, by
sampling at the server, say: those are not stored, and so not accepted.

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
    PAYLOAD_TOO_LARGE,
    TOO_MANY_REQUESTS,
    UNDECODABLE,
    Quote,
    body_shown,
    cut_short,
    is_cut,
    message_in,
    said_in,
)
from bk_pipeline.http.retry import retry_after_s
from bk_pipeline.http.session import BAD_REQUEST, Response

TAKEN = 202
# Of a single event. Any other status of one is none that its content could be the cause of.
REFUSED_FOR_GOOD = (BAD_REQUEST, PAYLOAD_TOO_LARGE, 422)
# "Event dropped due to administrative denylist", in the wordings of several years.
DENYLIST = re.compile(r"(deny|black|block).?list", re.IGNORECASE)
# What may be over soon, of all that has Honeycomb drop events.
FOR_NOW = re.compile(r"rate.?limit|throttl", re.IGNORECASE)


class _Element(msgspec.Struct):
    status: int
    error: str | None = None


_elements = msgspec.json.Decoder(list[_Element])


def outcomes(response: Response, count: int, *, place: str, quote: Quote) -> list[Outcome]:
    """The outcomes of `count` events, in their order, from a 2xx.

    Events that a shorter answer passes over are unanswered. An empty 202 accepts all.

    Raises:
        ServiceUnavailable: It was cut on its way, and what is missing may have been accepted.
        UnexpectedAnswer: It is no answer to this many events.
        AccessDenied: It says that we are on a denylist.
    """
    if response.status == TAKEN and not response.body.strip():
        return [ACCEPTED] * count
    try:
        elements = _elements.decode(response.body)
    except UNDECODABLE as exc:
        verdict = _verdict_of_drop(message_in(response))
        if verdict is not None:
            said = said_in(response, quote)
            if DENYLIST.search(said):
                raise _on_denylist(response, said, place) from exc
            return [Outcome(verdict, f"{response.status}: {said}")] * count
        if is_cut(exc, response.body):
            raise cut_short(response, place) from exc
        raise UnexpectedAnswer(
            f"{place} answered {response.status} with something else than an outcome for each "
            f"event: {body_shown(response, quote)}. Check HONEYCOMB_API_ENDPOINT and what stands "
            "between us and it; the batch is in doubt and will be sent again."
        ) from exc
    if len(elements) > count:
        raise UnexpectedAnswer(
            f"{place} answered with {len(elements)} outcomes to {count} events. Check "
            "HONEYCOMB_API_ENDPOINT; the batch is in doubt and will be sent again."
        )
    answered = [
        ACCEPTED if one.status == TAKEN and not one.error else _outcome(one, quote)
        for one in elements
    ]
    return answered + [Outcome(Verdict.UNANSWERED, "no answer")] * (count - len(elements))


def _outcome(element: _Element, quote: Quote) -> Outcome:
    status = element.status
    words = f"{status}: {quote(element.error or 'no reason given')}"
    if status in range(200, 300):
        verdict = _verdict_of_drop(element.error)
        return ACCEPTED if verdict is None else Outcome(verdict, words)
    if status == TOO_MANY_REQUESTS:
        return Outcome(Verdict.REJECTED if DENYLIST.search(words) else Verdict.THROTTLED, words)
    return Outcome(Verdict.REJECTED if status in REFUSED_FOR_GOOD else Verdict.FAILED, words)


def refusal(response: Response, *, place: str, quote: Quote, now: datetime) -> PipelineError | None:
    """The error that the status of a whole request stands for; None for a 2xx."""
    if response.ok:
        return None
    status, said = response.status, said_in(response, quote)
    if status == TOO_MANY_REQUESTS and DENYLIST.search(said):
        return _on_denylist(response, said, place)
    refused = (
        f"{place} refuses a batch ({status}: {said}). Nothing of it was stored; sending it again "
        "does not help. Check HONEYCOMB_API_ENDPOINT and HONEYCOMB_DATASET."
    )
    if "too many columns" in said.lower():
        refused = (
            f"{place} has no room for more columns ({status}: {said}). Drop attributes with "
            "BK_PIPELINE_SPANS_DROP, or set HONEYCOMB_DATASET to a new dataset."
        )
    messages = _messages(status, said, place) | {RequestRefused: refused}
    retry_in_s = retry_after_s(response.headers, now)
    return answers.refusal(response, said, messages, retry_in_s=retry_in_s)


def _messages(status: int, said: str, place: str) -> dict[type[PipelineError], str]:
    return {
        DeliveryThrottled: (
            f"{place} takes no more events at the moment (429: {said}). Run again later if that "
            "goes on: what was accepted is not sent again."
        ),
        ServiceUnavailable: (
            f"{place} is in trouble ({status}: {said}). See https://status.honeycomb.io if that "
            "goes on."
        ),
        TokenRefused: (
            f"{place} does not know the key in HONEYCOMB_API_KEY, or it may not send events "
            f"(401: {said}). Put an ingest key of this environment there; a key of the EU "
            "region needs HONEYCOMB_API_ENDPOINT=https://api.eu1.honeycomb.io."
        ),
        AccessDenied: (
            f"{place} drops our events (403: {said}). That is what a team beyond the event "
            "volume of its plan is told: see Usage in Honeycomb, and deliver again when the "
            "throttling is lifted."
        ),
        NotFound: (
            f"{place} does not exist, and the key in HONEYCOMB_API_KEY may not create it "
            f"(404: {said}). Create the dataset, or use a key with Create Datasets."
        ),
        RequestTooLarge: f"{place} refuses a batch as too large ({status}: {said}).",
    }


def _on_denylist(response: Response, said: str, place: str) -> AccessDenied:
    return AccessDenied(
        f"{place} has us on a denylist ({response.status}: {said}). Waiting does not lift it: ask "
        "Honeycomb's support, and deliver again afterwards."
    )


def _verdict_of_drop(words: str | None) -> Verdict | None:
    """What a success means whose words say that events were dropped; None if they do not."""
    if not words or not DROPPED.search(words):
        return None
    return Verdict.THROTTLED if FOR_NOW.search(words) else Verdict.REJECTED

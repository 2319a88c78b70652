"""What Honeycomb's refusals of marker calls mean. Decided by status; its words are quoted."""

from __future__ import annotations

from datetime import datetime

from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    NotFound,
    PipelineError,
    RequestRefused,
    ServiceUnavailable,
    TokenRefused,
)
from bk_pipeline.http.honeycomb import Quote, said_in
from bk_pipeline.http.retry_after import retry_after_s
from bk_pipeline.http.session import Response

UNKNOWN_KEY = 401
FORBIDDEN = 403
NO_SUCH_THING = 404
TIMEOUT = 408
TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500
NOT_PASSED_ON = 503
KEY = (
    "Markers need a configuration key with the permission Manage Markers, which no ingest key "
    "has: create one under Environment Settings > API Keys > Configuration in Honeycomb and put "
    "it into HONEYCOMB_CONFIGURATION_KEY."
)


def refusal(
    response: Response, *, place: str, dataset: str, quote: Quote, now: datetime
) -> PipelineError | None:
    """The error that an answer's status stands for; None for a 2xx.

    Args:
        response: The answer.
        place: Honeycomb's host.
        dataset: Slug of the dataset that was named, or empty.
        quote: Makes the service's words fit to be shown.
        now: The moment, for `Retry-After`.
    """
    if response.ok:
        return None
    said = said_in(response, quote)
    return (
        _not_now(response, said, place, retry_after_s(response.headers, now))
        or _not_with_this_key(response.status, said, place)
        or _not_found(response, said, place, dataset)
        or RequestRefused(
            f"{place} refuses {response.request} ({response.status}: {said}). Sending it again "
            "does not help; check the rule's type, message and url.",
            status=response.status,
            said=said,
        )
    )


def _not_now(
    response: Response, said: str, place: str, retry_in_s: float | None
) -> PipelineError | None:
    status = response.status
    if status == TOO_MANY_REQUESTS:
        return DeliveryThrottled(
            f"{place} takes no more calls at the moment (429: {said}). Run again later; markers "
            "that are placed stay known.",
            retry_in_s=retry_in_s,
        )
    if status >= SERVER_ERRORS or status == TIMEOUT:
        return ServiceUnavailable(
            f"{place} is in trouble ({status}: {said}). See https://status.honeycomb.io if that "
            "goes on.",
            retry_in_s=retry_in_s,
            maybe_processed=status != NOT_PASSED_ON,
        )
    return None


def _not_with_this_key(status: int, said: str, place: str) -> PipelineError | None:
    if status == UNKNOWN_KEY:
        return TokenRefused(
            f"{place} does not know the key in HONEYCOMB_CONFIGURATION_KEY, or it may not "
            f"manage markers (401: {said}). {KEY} A key of the EU region needs "
            "HONEYCOMB_API_ENDPOINT=https://api.eu1.honeycomb.io."
        )
    if status == FORBIDDEN:
        return AccessDenied(
            f"{place} does not let the key in HONEYCOMB_CONFIGURATION_KEY do this "
            f"(403: {said}). {KEY}"
        )
    return None


def _not_found(response: Response, said: str, place: str, dataset: str) -> PipelineError | None:
    if response.status != NO_SUCH_THING:
        return None
    if dataset:
        return NotFound(
            f"{place} has no dataset {dataset} (404: {said}). A dataset is made by its first "
            "events: materialize honeycomb_events first, or name another dataset, or "
            "__all__ for the whole environment, in the rules file."
        )
    return NotFound(
        f"{place} has nothing at {response.request} (404: {said}). Check "
        "HONEYCOMB_API_ENDPOINT: a proxy that only takes events cannot do markers."
    )

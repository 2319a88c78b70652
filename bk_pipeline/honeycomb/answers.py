"""Errors for Honeycomb's refusals of marker calls, by status; its message is quoted."""

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
from bk_pipeline.http import answers
from bk_pipeline.http.answers import Quote, error_detail
from bk_pipeline.http.retry import retry_after_s
from bk_pipeline.http.session import Response

# What a key for markers needs.
KEY = (
    "Markers need a configuration key with the permission Manage Markers, which no ingest key "
    "has: create one under Environment Settings > API Keys > Configuration in Honeycomb and put "
    "it into HONEYCOMB_CONFIGURATION_KEY."
)


def refusal(
    response: Response, *, place: str, dataset: str, quote: Quote, now: datetime
) -> PipelineError | None:
    """Return the error for a response's status; None for a 2xx.

    Args:
        response: The response.
        place: Honeycomb's host.
        dataset: The slug of the dataset in the request, or empty.
        quote: Makes text from the service safe to show.
        now: The current time, for `Retry-After`.
    """
    if response.ok:
        return None
    detail = error_detail(response, quote)
    messages = _messages(response, detail, place, dataset)
    retry_in_s = retry_after_s(response.headers, now)
    return answers.refusal(response, detail, messages, retry_in_s=retry_in_s)


def _messages(
    response: Response, detail: str, place: str, dataset: str
) -> dict[type[PipelineError], str]:
    status = response.status
    not_found = (
        f"{place} does not know {response.request} (404: {detail}). Check "
        "HONEYCOMB_API_ENDPOINT: a proxy for events only does not support markers."
    )
    if dataset:
        not_found = (
            f"{place} has no dataset {dataset} (404: {detail}). The first events create "
            "it: materialize honeycomb_events first, or name another dataset, or __all__ for "
            "the whole environment, in the rules file."
        )
    return {
        DeliveryThrottled: (
            f"{place} accepts no more calls at the moment (429: {detail}). Run again later; "
            "markers placed so far are recorded."
        ),
        ServiceUnavailable: (
            f"{place} has a server error ({status}: {detail}). If this persists, see "
            "https://status.honeycomb.io."
        ),
        TokenRefused: (
            f"{place} rejects the key in HONEYCOMB_CONFIGURATION_KEY: it is unknown or may not "
            f"manage markers (401: {detail}). {KEY} A key of the EU region needs "
            "HONEYCOMB_API_ENDPOINT=https://api.eu1.honeycomb.io."
        ),
        AccessDenied: (
            f"{place} does not allow this call with the key in HONEYCOMB_CONFIGURATION_KEY "
            f"(403: {detail}). {KEY}"
        ),
        NotFound: not_found,
        RequestRefused: (
            f"{place} rejected {response.request} ({status}: {detail}). Sending it again "
            "does not help; check the rule's type, message and url."
        ),
    }

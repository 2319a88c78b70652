"""What Honeycomb's refusals of marker calls mean. Decided by status; its message is quoted."""

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
from bk_pipeline.http.answers import Quote, said_in
from bk_pipeline.http.retry import retry_after_s
from bk_pipeline.http.session import Response

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
    status = response.status
    missing = (
        f"{place} has nothing at {response.request} (404: {said}). Check "
        "HONEYCOMB_API_ENDPOINT: a proxy that only takes events cannot do markers."
    )
    if dataset:
        missing = (
            f"{place} has no dataset {dataset} (404: {said}). A dataset is made by its first "
            "events: materialize honeycomb_events first, or name another dataset, or "
            "__all__ for the whole environment, in the rules file."
        )
    messages = {
        DeliveryThrottled: (
            f"{place} takes no more calls at the moment (429: {said}). Run again later; markers "
            "that are placed stay known."
        ),
        ServiceUnavailable: (
            f"{place} is in trouble ({status}: {said}). See https://status.honeycomb.io if that "
            "goes on."
        ),
        TokenRefused: (
            f"{place} does not know the key in HONEYCOMB_CONFIGURATION_KEY, or it may not "
            f"manage markers (401: {said}). {KEY} A key of the EU region needs "
            "HONEYCOMB_API_ENDPOINT=https://api.eu1.honeycomb.io."
        ),
        AccessDenied: (
            f"{place} does not let the key in HONEYCOMB_CONFIGURATION_KEY do this "
            f"(403: {said}). {KEY}"
        ),
        NotFound: missing,
        RequestRefused: (
            f"{place} refuses {response.request} ({status}: {said}). Sending it again "
            "does not help; check the rule's type, message and url."
        ),
    }
    retry_in_s = retry_after_s(response.headers, now)
    return answers.refusal(response, said, messages, retry_in_s=retry_in_s)

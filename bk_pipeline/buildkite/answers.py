"""What Buildkite's answers mean: which error a status is, and how a body is read.

Decided by status, headers and fields. The service's words are quoted, never obeyed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from bk_pipeline.buildkite.elements import Split, split_elements, whole_object
from bk_pipeline.buildkite.quota import WINDOW_S
from bk_pipeline.errors import (
    AccessDenied,
    NotFound,
    PipelineError,
    RequestRefused,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.http import answers
from bk_pipeline.http.answers import (
    Quote,
    body_summary,
    decoded,
    error_detail,
    is_truncated,
    json_object,
    truncated_answer,
)
from bk_pipeline.http.retry import http_date, retry_after_s, wait_s
from bk_pipeline.http.session import Response

T = TypeVar("T")

PLACE = "Buildkite"
CREATE_TOKEN = "Personal Settings > API Access Tokens in Buildkite"  # noqa: S105 - a menu


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked for, for messages and for knowing which setting is to blame."""

    organization: str
    pipeline: str | None = None
    scope: str | None = "read_builds"
    number: int | None = None

    def __str__(self) -> str:
        if self.scope is None:
            return "what the token may do"
        if self.number is not None:
            return f"build {self.number} of {self.organization}/{self.pipeline}"
        return f"builds of {self.organization}" + (f"/{self.pipeline}" if self.pipeline else "")


def refusal(
    response: Response, subject: Subject, *, quote: Quote, now: datetime
) -> PipelineError | None:
    """The error that the status stands for; None for a success. 429 is `api.py`'s."""
    if response.ok:
        return None
    status, said = response.status, error_detail(response, quote)
    messages = {
        TokenRefused: (
            "Buildkite does not know the token in BUILDKITE_API_TOKEN (401). It may have been "
            f"revoked or have expired: create one with the scope read_builds under "
            f"{CREATE_TOKEN} and put it there."
        ),
        AccessDenied: (
            f"The token in BUILDKITE_API_TOKEN may not read {subject} (403: {said}). Give it "
            f"the scope {subject.scope or 'read_builds'} and access to the organization "
            f"{subject.organization} under {CREATE_TOKEN}."
        ),
        NotFound: _not_found(subject),
        ServiceUnavailable: (
            f"Buildkite cannot answer for {subject} at the moment ({status}: {said})."
        ),
        RequestRefused: (
            f"Buildkite refuses to tell {subject} ({status}: {said}). Asking again does not "
            f"help; check BUILDKITE_ORGANIZATION_SLUG and BUILDKITE_API_URL."
        ),
    }
    retry_in_s = retry_after_s(response.headers, now)
    return answers.refusal(response, said, messages, retry_in_s=retry_in_s)


def _not_found(subject: Subject) -> str:
    if subject.number is not None:
        return (
            f"Buildkite has no build {subject.number} of {subject.organization}/"
            f"{subject.pipeline}, or the token may not see it (404). It keeps builds for 30, 90 or "
            "365 days, depending on the plan; check the number and the pipeline."
        )
    if subject.pipeline is not None:
        return (
            f"The organization {subject.organization} has no pipeline {subject.pipeline}, or the "
            "token may not see it (404). Check BK_PIPELINE_PIPELINES and "
            "BUILDKITE_ORGANIZATION_SLUG."
        )
    return (
        f"Buildkite has no organization {subject.organization}, or the token may not see it (404). "
        "Check BUILDKITE_ORGANIZATION_SLUG, and BUILDKITE_API_URL if it is set."
    )


def sent_at(response: Response) -> datetime | None:
    """The moment at which Buildkite says it answered, on its own clock; None if it does not say."""
    return http_date(response.headers.get("Date", ""))


def reset_in_s(response: Response, now: datetime) -> float:
    """Seconds that a 429 wants us to wait; a whole window where it does not say.

    From the body's `reset`, the headers of the scope that the body names, `Retry-After`.
    """
    fields = json_object(response.body)
    prefix = "RateLimit-User" if fields.get("scope") == "rest_user" else "RateLimit"
    for value in (fields.get("reset"), response.headers.get(f"{prefix}-Reset")):
        seconds = wait_s(value, now)
        if seconds is not None:
            return seconds
    asked = retry_after_s(response.headers, now)
    return WINDOW_S if asked is None else asked


def spent_shown(response: Response) -> str:
    """Which quota a 429 is about: "user quota (50 a minute)"."""
    fields = json_object(response.body)
    names = {"rest": "organization quota", "rest_user": "user quota"}
    name = names.get(str(fields.get("scope")), "quota")
    limit = fields.get("limit")
    return f"{name} ({limit} a minute)" if isinstance(limit, int) else name


def read_elements(response: Response, quote: Quote) -> Split:
    """The elements of a JSON array, each exactly as it was sent and free of the page's memory.

    An element that is broken does not keep the others from being read.

    Raises:
        ServiceUnavailable: The array was cut on its way: it has no end.
        UnexpectedAnswer: The body is something else.
    """
    split = split_elements(response.body)
    if split is None:
        raise _not_wanted(response, "a JSON array of builds", quote)
    if not split.closed:
        raise truncated_answer(response, PLACE)
    return split


def read_payload(response: Response, quote: Quote) -> bytes:
    """The JSON object that the body is, exactly as it was sent; the errors are the same."""
    payload = whole_object(response.body)
    if payload is None:
        if is_truncated(None, response.body):
            raise truncated_answer(response, PLACE)
        raise _not_wanted(response, "a JSON object", quote)
    return payload


def read_object(response: Response, kind: type[T], quote: Quote) -> T:
    """The body as a `kind`; the errors are those of `read_elements`."""
    return decoded(
        response,
        kind,
        place=PLACE,
        unexpected=lambda: _not_wanted(response, "a JSON object", quote),
    )


def _not_wanted(response: Response, wanted: str, quote: Quote) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{response.request}: wanted {wanted}, got {body_summary(response, quote)}. Check that "
        "BUILDKITE_API_URL is Buildkite's REST API and that no login page stands before it."
    )

"""Interpret Buildkite's responses: the error for a status, and the parsed body.

Decisions are based on status, headers and JSON fields. Buildkite's messages are only quoted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from bk_pipeline.buildkite.elements import Split, split_elements, whole_object
from bk_pipeline.buildkite.quota import WINDOW_S
from bk_pipeline.errors import (
    AccessDenied,
    Gone,
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

SERVICE = "Buildkite"
GONE = (404, 410)
CREATE_TOKEN = "Personal Settings > API Access Tokens in Buildkite"  # noqa: S105 - a menu


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request asks for, used in messages and to name the setting to check.

    Attributes:
        organization: Slug of the organization.
        pipeline: Slug of the pipeline; None: all pipelines.
        scope: The token scope that is needed; None for a request about the token itself.
        number: Number of the build; None for a listing.
        what: What is read of the organization, if not builds.
        part: What is read of the build, if not the build itself: "the log of job ...". It can
            be missing although the build is there. Without `number`, it names the build itself.
    """

    organization: str
    pipeline: str | None = None
    scope: str | None = "read_builds"
    number: int | None = None
    what: str = "builds"
    part: str | None = None

    def __str__(self) -> str:
        if self.scope is None:
            return "what the token may do"
        if self.number is not None:
            build = f"build {self.number} of {self.organization}/{self.pipeline}"
            return f"{self.part} of {build}" if self.part else build
        if self.part is not None:
            return f"{self.part} of {self.organization}"
        return f"{self.what} of {self.organization}" + (
            f"/{self.pipeline}" if self.pipeline else ""
        )


def refusal(
    response: Response, subject: Subject, *, quote: Quote, now: datetime
) -> PipelineError | None:
    """The error for the status; None for a success. `api.py` handles 429."""
    if response.ok:
        return None
    status, detail = response.status, error_detail(response, quote)
    if subject.part and status in GONE:
        return Gone(
            f"Buildkite does not have {subject} ({status}): it was deleted, is kept no longer, or "
            "the token may not see it."
        )
    messages = {
        TokenRefused: (
            "Buildkite does not know the token in BUILDKITE_API_TOKEN (401). It may have been "
            f"revoked or have expired: create one with the scope read_builds under "
            f"{CREATE_TOKEN} and set the variable to it."
        ),
        AccessDenied: (
            f"The token in BUILDKITE_API_TOKEN may not read {subject} (403: {detail}). Give it "
            f"the scope {subject.scope or 'read_builds'} and access to the organization "
            f"{subject.organization} under {CREATE_TOKEN}."
        ),
        NotFound: _not_found(subject),
        ServiceUnavailable: (
            f"Buildkite cannot serve {subject} at the moment ({status}: {detail})."
        ),
        RequestRefused: (
            f"Buildkite rejected the request for {subject} ({status}: {detail}). A retry does not "
            f"help; check BUILDKITE_ORGANIZATION_SLUG and BUILDKITE_API_URL."
        ),
    }
    retry_in_s = retry_after_s(response.headers, now)
    return answers.refusal(response, detail, messages, retry_in_s=retry_in_s)


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


def server_time(response: Response) -> datetime | None:
    """The response's `Date` header: Buildkite's own time, aware UTC; None without one."""
    return http_date(response.headers.get("Date", ""))


def reset_in_s(response: Response, now: datetime) -> float:
    """Seconds to wait after a 429; a whole window if the response does not say.

    Read from the body's `reset`, else from the Reset header of the body's `scope`, else from
    `Retry-After`.
    """
    fields = json_object(response.body)
    prefix = "RateLimit-User" if fields.get("scope") == "rest_user" else "RateLimit"
    for value in (fields.get("reset"), response.headers.get(f"{prefix}-Reset")):
        seconds = wait_s(value, now)
        if seconds is not None:
            return seconds
    seconds = retry_after_s(response.headers, now)
    return WINDOW_S if seconds is None else seconds


def exhausted_quota(response: Response) -> str:
    """The quota that a 429 is about, for messages: "user quota (50 a minute)"."""
    fields = json_object(response.body)
    names = {"rest": "organization quota", "rest_user": "user quota"}
    name = names.get(str(fields.get("scope")), "quota")
    limit = fields.get("limit")
    return f"{name} ({limit} a minute)" if isinstance(limit, int) else name


def read_elements(response: Response, quote: Quote) -> Split:
    """The elements of a JSON array, each as copied bytes, unchanged.

    A broken element does not prevent the others from being read.

    Raises:
        ServiceUnavailable: The array is truncated.
        UnexpectedAnswer: The body is not an array.
    """
    split = split_elements(response.body)
    if split is None:
        raise _unexpected_body(response, "a JSON array", quote)
    if not split.closed:
        raise truncated_answer(response, SERVICE)
    return split


def read_payload(response: Response, quote: Quote) -> bytes:
    """The bytes of the JSON object in the body, unchanged.

    Raises:
        ServiceUnavailable: The object is truncated.
        UnexpectedAnswer: The body is not an object.
    """
    payload = whole_object(response.body)
    if payload is None:
        if is_truncated(None, response.body):
            raise truncated_answer(response, SERVICE)
        raise _unexpected_body(response, "a JSON object", quote)
    return payload


def read_object(response: Response, kind: type[T], quote: Quote) -> T:
    """The body decoded as a `kind`.

    Raises:
        ServiceUnavailable: The body is truncated.
        UnexpectedAnswer: The body is not a `kind`.
    """
    return decoded(
        response,
        kind,
        place=SERVICE,
        unexpected=lambda: _unexpected_body(response, "a JSON object", quote),
    )


def _unexpected_body(response: Response, expected: str, quote: Quote) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{response.request}: expected {expected}, got {body_summary(response, quote)}. Check that "
        "BUILDKITE_API_URL is Buildkite's REST API and that no login page is in front of it."
    )

"""What Buildkite's answers mean: which error a status is, and how a body is read.

Decided by status, headers and fields. The service's words are quoted, never obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

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
from bk_pipeline.http.retry_after import http_date, retry_after_s, wait_s
from bk_pipeline.http.session import Response

T = TypeVar("T")
Quote = Callable[[str], str]

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
    status, said = response.status, said_in(response, quote)
    match status:
        case 401:
            return TokenRefused(
                "Buildkite does not know the token in BUILDKITE_API_TOKEN (401). It may have been "
                f"revoked or have expired: create one with the scope read_builds under "
                f"{CREATE_TOKEN} and put it there."
            )
        case 403:
            return AccessDenied(
                f"The token in BUILDKITE_API_TOKEN may not read {subject} (403: {said}). Give it "
                f"the scope {subject.scope or 'read_builds'} and access to the organization "
                f"{subject.organization} under {CREATE_TOKEN}."
            )
        case 404:
            return _not_found(subject)
        case _ if status >= 500 or status == 408:  # noqa: PLR2004 - HTTP's own numbers
            return ServiceUnavailable(
                f"Buildkite cannot answer for {subject} at the moment ({status}: {said}).",
                retry_in_s=retry_after_s(response.headers, now),
            )
        case _:
            return RequestRefused(
                f"Buildkite refuses to tell {subject} ({status}: {said}). Asking again does not "
                f"help; check BUILDKITE_ORGANIZATION_SLUG and BUILDKITE_API_URL.",
                status=status,
                said=said,
            )


def _not_found(subject: Subject) -> NotFound:
    if subject.number is not None:
        return NotFound(
            f"Buildkite has no build {subject.number} of {subject.organization}/"
            f"{subject.pipeline}, or the token may not see it (404). It keeps builds for 30, 90 or "
            "365 days, depending on the plan; check the number and the pipeline."
        )
    if subject.pipeline is not None:
        return NotFound(
            f"The organization {subject.organization} has no pipeline {subject.pipeline}, or the "
            "token may not see it (404). Check BK_PIPELINE_PIPELINES and "
            "BUILDKITE_ORGANIZATION_SLUG."
        )
    return NotFound(
        f"Buildkite has no organization {subject.organization}, or the token may not see it (404). "
        "Check BUILDKITE_ORGANIZATION_SLUG, and BUILDKITE_API_URL if it is set."
    )


def sent_at(response: Response) -> datetime | None:
    """The moment at which Buildkite says it answered, on its own clock; None if it does not say."""
    return http_date(response.headers.get("Date", ""))


def said_in(response: Response, quote: Quote) -> str:
    """The service's own words on a failure, on one line, else what kind of body came."""
    fields = _object(response.body)
    words = fields.get("message") or fields.get("error")
    return quote(words) if isinstance(words, str) and words.strip() else body_shown(response, quote)


def body_shown(response: Response, quote: Quote) -> str:
    """`text/html beginning with "<html>..."`, for a body that is not what it should be."""
    if not response.body:
        return "an empty body"
    kind = quote(response.headers.get("Content-Type", "")) or "a body of no declared type"
    return f'{kind} beginning with "{quote(response.body[:400].decode(errors="replace"))}"'


def reset_in_s(response: Response, now: datetime) -> float:
    """Seconds that a 429 wants us to wait; a whole window where it does not say.

    From the body's `reset`, the headers of the scope that the body names, `Retry-After`.
    """
    fields = _object(response.body)
    prefix = "RateLimit-User" if fields.get("scope") == "rest_user" else "RateLimit"
    for value in (fields.get("reset"), response.headers.get(f"{prefix}-Reset")):
        seconds = wait_s(value, now)
        if seconds is not None:
            return seconds
    asked = retry_after_s(response.headers, now)
    return WINDOW_S if asked is None else asked


def spent_shown(response: Response) -> str:
    """Which quota a 429 is about: "user quota (50 a minute)"."""
    fields = _object(response.body)
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
        raise _cut_short(response)
    return split


def read_payload(response: Response, quote: Quote) -> bytes:
    """The JSON object that the body is, exactly as it was sent; the errors are the same."""
    payload = whole_object(response.body)
    if payload is None:
        raise _broken(response, "a JSON object", quote)
    return payload


def read_object(response: Response, kind: type[T], quote: Quote) -> T:
    """The body as a `kind`; the errors are those of `read_elements`."""
    wanted = "a JSON object"
    try:
        return msgspec.json.decode(response.body, type=kind)
    except (msgspec.ValidationError, RecursionError):
        raise _not_wanted(response, wanted, quote) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _broken(response, wanted, quote) from None


def _broken(response: Response, wanted: str, quote: Quote) -> PipelineError:
    begins_well = response.body.lstrip()[:1] in {b"[", b"{"}
    return _cut_short(response) if begins_well else _not_wanted(response, wanted, quote)


def _cut_short(response: Response) -> ServiceUnavailable:
    return ServiceUnavailable(f"{response.request}: the JSON of the answer is broken or cut short.")


def _not_wanted(response: Response, wanted: str, quote: Quote) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{response.request}: wanted {wanted}, got {body_shown(response, quote)}. Check that "
        "BUILDKITE_API_URL is Buildkite's REST API and that no login page stands before it."
    )


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

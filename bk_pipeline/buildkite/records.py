"""What the client hands out: small structs, and a build's JSON exactly as it was sent.

A build that cannot be used is a `RecordError`, which `Page.set_aside` holds: one bad build never stops a listing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec

from bk_pipeline.buildkite.answers import read_elements
from bk_pipeline.buildkite.elements import id_in
from bk_pipeline.buildkite.paging import Paging, page_count
from bk_pipeline.errors import RecordError
from bk_pipeline.http.session import Response
from bk_pipeline.spans.timing import parse_ns
from bk_pipeline.text import sanitize_json

Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class BuildRecord(msgspec.Struct, frozen=True):
    """One build: what it is found by, and `payload`, its JSON as Buildkite sent it.

    `pipeline` is the slug. `state` is "unknown" where Buildkite gives none. `finished_ns` is
    None until the build has finished, and again when it goes on.
    """

    id: str
    number: int
    pipeline: str
    state: str
    blocked: bool
    created_ns: int
    finished_ns: int | None
    payload: bytes
    branch: str | None = None

    def __repr__(self) -> str:
        return f"BuildRecord({self.pipeline}#{self.number}, {self.id}, {self.state})"


class FinishedBuild(msgspec.Struct, frozen=True):
    """A build that finished lately, without its jobs."""

    id: str
    number: int
    pipeline: str
    state: str
    created_ns: int
    finished_ns: int


class Page(msgspec.Struct, frozen=True):
    """Builds that were not on an earlier page, and why others had to be left out."""

    builds: list[BuildRecord]
    set_aside: list[RecordError]


class Sample(msgspec.Struct, frozen=True):
    """The first page of a listing, newest creation first.

    `pages` is how many pages there are; None where there are more, or may be, and Buildkite
    does not say how many. `size` is how many builds the page has, readable or not.
    """

    builds: list[BuildRecord]
    pages: int | None
    size: int = 0


class FinishedListing(msgspec.Struct, frozen=True):
    """Newest creation first. If `cut_off`, builds created earlier may have finished as well.

    `oldest_ns` is when the oldest of all that was listed was created, wanted or not.
    """

    builds: list[FinishedBuild]
    set_aside: list[str]
    cut_off: bool
    oldest_ns: int | None

    def __iter__(self) -> Iterator[FinishedBuild]:
        return iter(self.builds)


class TokenOwner(msgspec.Struct, frozen=True):
    name: str | None = None
    email: str | None = None


class AccessToken(msgspec.Struct, frozen=True):
    """What a token may do. `expires_at` is None if it never expires."""

    uuid: str
    scopes: list[str]
    description: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    user: TokenOwner | None = None


class _Pipeline(msgspec.Struct):
    slug: Text


class _Keys(msgspec.Struct):
    id: Text
    number: Number
    created_at: str
    state: str | None = None
    blocked: bool | None = None
    finished_at: str | None = None
    url: str | None = None
    pipeline: _Pipeline | None = None
    branch: Any = None


_decode_keys = msgspec.json.Decoder(_Keys).decode


def read_build(payload: bytes) -> BuildRecord:
    """The record of one build's JSON. `payload` is kept as it is.

    Raises:
        RecordError: It is no JSON object, or its id, number, pipeline, `created_at` or
            `finished_at` cannot be used.
    """
    try:
        keys = _keys_of(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RecordError(str(exc), record_id=id_in(payload)) from exc
    slug = keys.pipeline.slug if keys.pipeline else _slug_in(keys.url)
    if slug is None:
        raise RecordError("neither pipeline.slug nor url names its pipeline", record_id=keys.id)
    return BuildRecord(
        id=keys.id,
        number=keys.number,
        pipeline=slug,
        state=keys.state or "unknown",
        blocked=keys.blocked or False,
        created_ns=_moment(keys.created_at, "created_at", keys.id),
        finished_ns=_moment(keys.finished_at, "finished_at", keys.id) if keys.finished_at else None,
        payload=payload,
        branch=keys.branch if isinstance(keys.branch, str) else None,
    )


def _moment(text: str, name: str, record_id: str) -> int:
    try:
        return parse_ns(text)
    except (ValueError, OverflowError):
        # Without the cause: its text quotes the payload.
        raise RecordError(f"`$.{name}` is not a time", record_id=record_id) from None


def _keys_of(payload: bytes) -> _Keys:
    try:
        return _decode_keys(payload)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_keys(sanitize_json(payload))


def _slug_in(url: str | None) -> str | None:
    """The pipeline in `.../pipelines/{slug}/builds/{number}`, a build's own API address."""
    try:
        match urlsplit(url or "").path.split("/"):
            case [*_, "pipelines", slug, "builds", _] if slug:
                return unquote(slug)
    except ValueError:
        pass
    return None


def sample_in(
    response: Response, *, quote: Callable[[str], str], paging: Paging, asked: int
) -> Sample:
    """The readable builds of a listing's first page, and how many pages there are.

    Raises:
        ServiceUnavailable: The answer was cut on its way.
        UnexpectedAnswer: It is no array.
    """
    builds = []
    elements = read_elements(response, quote).elements
    more = paging.more(response, len(elements), asked)
    for element in elements:
        try:
            builds.append(read_build(element))
        except RecordError:
            continue  # one of a hundred changes no estimate
    return Sample(builds, 1 if more is False else page_count(response), len(elements))

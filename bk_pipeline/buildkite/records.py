"""The client's return types, and the parser of a build's JSON.

A build's payload keeps its original bytes. An unusable build becomes a `RecordError` in
`Page.quarantined`, so one bad build never stops a listing.
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
from bk_pipeline.spans.organizations import Cluster, Organization
from bk_pipeline.spans.timing import parse_ns
from bk_pipeline.text import sanitize_json, truncate

Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class BuildRecord(msgspec.Struct, frozen=True):
    """One build: its key fields, and `payload`, its JSON as Buildkite sent it.

    `pipeline` is the slug. `state` is "unknown" if Buildkite sends none. `finished_ns` is None
    until the build has finished, and again while it is resumed. Times are Unix nanoseconds.
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
    """A recently finished build, without its jobs. Times are Unix nanoseconds."""

    id: str
    number: int
    pipeline: str
    state: str
    created_ns: int
    finished_ns: int


class ActiveBuild(msgspec.Struct, frozen=True):
    """A build that has not ended: its state, and slug and name of its pipeline."""

    state: str
    pipeline: str
    pipeline_name: str | None = None


class Page(msgspec.Struct, frozen=True):
    """Builds that were not on an earlier page, and the errors of unusable ones."""

    builds: list[BuildRecord]
    quarantined: list[RecordError]


class Sample(msgspec.Struct, frozen=True):
    """The first page of a listing, newest creation first.

    `pages` is the number of pages; None if there may be more than one and Buildkite does not
    send the number. `size` is the number of builds on the page, usable or not.
    """

    builds: list[BuildRecord]
    pages: int | None
    size: int = 0


class FinishedListing(msgspec.Struct, frozen=True):
    """Newest creation first. If `cut_off`, builds created earlier may have finished as well.

    `oldest_ns` is the creation time of the oldest listed build, including those filtered out.
    """

    builds: list[FinishedBuild]
    quarantined: list[str]
    cut_off: bool
    oldest_ns: int | None

    def __iter__(self) -> Iterator[FinishedBuild]:
        return iter(self.builds)


class TokenOwner(msgspec.Struct, frozen=True):
    """The user that an access token belongs to."""

    name: str | None = None
    email: str | None = None


class AccessToken(msgspec.Struct, frozen=True):
    """An access token's properties. `expires_at` is None if it never expires."""

    uuid: str
    scopes: list[str]
    description: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    user: TokenOwner | None = None


class _Pipeline(msgspec.Struct):
    slug: Text


class _PipelineName(msgspec.Struct):
    name: str | None = None


class _WithPipeline(msgspec.Struct):
    pipeline: _PipelineName | None = None


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
_decode_pipeline = msgspec.json.Decoder(_WithPipeline).decode


def read_build(payload: bytes) -> BuildRecord:
    """Parse one build's JSON. `payload` is kept unchanged.

    Raises:
        RecordError: It is not a JSON object, or its id, number, pipeline, `created_at` or
            `finished_at` is missing or invalid.
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


def read_active(build: BuildRecord) -> ActiveBuild:
    """The parts of an unfinished build that say what is active. The name may be missing."""
    try:
        pipeline = _decode_pipeline(build.payload).pipeline
    except (msgspec.DecodeError, UnicodeDecodeError):
        pipeline = None
    return ActiveBuild(build.state, build.pipeline, pipeline.name if pipeline else None)


def _moment(text: str, name: str, record_id: str) -> int:
    try:
        return parse_ns(text)
    except (ValueError, OverflowError):
        # The cause is dropped because its text quotes the payload.
        raise RecordError(f"`$.{name}` is not a time", record_id=record_id) from None


def _keys_of(payload: bytes) -> _Keys:
    try:
        return _decode_keys(payload)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_keys(sanitize_json(payload))


def _slug_in(url: str | None) -> str | None:
    """The pipeline's slug in a build's API URL, `.../pipelines/{slug}/builds/{number}`."""
    try:
        match urlsplit(url or "").path.split("/"):
            case [*_, "pipelines", slug, "builds", _] if slug:
                return unquote(slug)
    except ValueError:
        pass
    return None


def read_sample(
    response: Response, *, quote: Callable[[str], str], paging: Paging, per_page: int
) -> Sample:
    """The usable builds of a listing's first page, and the number of pages.

    Raises:
        ServiceUnavailable: The body is truncated.
        UnexpectedAnswer: The body is not an array.
    """
    builds = []
    elements = read_elements(response, quote).elements
    more = paging.more(response, len(elements), per_page)
    for element in elements:
        try:
            builds.append(read_build(element))
        except RecordError:
            continue  # one of a hundred does not matter to an estimate
    return Sample(builds, 1 if more is False else page_count(response), len(elements))


def read_organization(payload: bytes, slug: str) -> Organization:
    """The organization in an object; `slug` is the one that was requested."""
    found = _strings(payload, "slug", "id", "name")
    return Organization(found["slug"] or slug, found["id"], found["name"])


def read_cluster(element: bytes) -> Cluster | None:
    """The cluster in an element of a listing; None if it cannot be read."""
    found = _strings(element, "id", "graphql_id", "name")
    return Cluster(found["id"], found["graphql_id"], found["name"]) if found["id"] else None


def _strings(payload: bytes, *keys: str) -> dict[str, str | None]:
    """The values of `keys` in an object, truncated; None for those that are not strings.

    Characters that a string cannot hold are replaced, as in builds.
    """
    try:
        found = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            found = msgspec.json.decode(sanitize_json(payload))
        except (msgspec.DecodeError, RecursionError):
            found = None
    values = found if isinstance(found, dict) else {}
    return {
        key: truncate(value) if isinstance(value := values.get(key), str) else None for key in keys
    }

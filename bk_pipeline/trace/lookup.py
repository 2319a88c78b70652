"""Find one build by URL, number, or UUID.

The span table is searched first, then Buildkite. The API finds a build by pipeline and number, or by
a UUID that contains its creation time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.records import BuildRecord
from bk_pipeline.errors import ConfigError, NotFound
from bk_pipeline.store.spans import FoundBuild, SpanSearch
from bk_pipeline.window import Window, day_key

UUID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}")
NUMBER = re.compile(r"#?([0-9]{1,18})")
NAMED = re.compile(r"(?:([^/#\s]+)/)?([^/#\s]+)[/#]([0-9]{1,18})")
IN_PATH = re.compile(
    r"(?:/v2)?(?:/organizations)?/([^/]+)(?:/pipelines)?/([^/]+)/builds/([0-9]{1,18})(?:/.*)?"
)
# How far a build's creation may be from the time in its UUID.
UUID_SLACK = timedelta(seconds=5)
TIMED = "7"  # the version of UUIDs that begin with a time


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a build: `trace_id`, or `number` with an optional pipeline and organization."""

    number: int | None = None
    pipeline: str | None = None
    organization: str | None = None
    trace_id: str | None = None

    @property
    def created_at(self) -> datetime | None:
        """The build's creation time, if its UUID contains it."""
        if self.trace_id is None or self.trace_id[12] != TIMED:
            return None
        moment = timedelta(milliseconds=int(self.trace_id[:12], 16))
        return (
            datetime(1970, 1, 1, tzinfo=UTC) + moment if moment < timedelta(days=80_000) else None
        )

    def __str__(self) -> str:
        if self.trace_id is not None:
            parts = (self.trace_id[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
            return "-".join(parts)
        return f"{self.pipeline}#{self.number}" if self.pipeline else f"{self.number}"


def read_reference(text: str) -> Reference:
    """Parse a reference to a build.

    Args:
        text: The URL of a build's page or API resource, or of its trace in Honeycomb;
            pipeline#number; a number; or a UUID with or without dashes.

    Raises:
        ConfigError: The text refers to no build.
    """
    text = text.strip()
    if UUID.fullmatch(text.lower()):
        return Reference(trace_id=text.lower().replace("-", ""))
    if found := NUMBER.fullmatch(text):
        return Reference(number=int(found[1]))
    if "://" in text or text.startswith("buildkite.com/"):
        return _in_url(text)
    if found := NAMED.fullmatch(text):
        return Reference(int(found[3]), found[2], found[1])
    raise _no_build(text)


def _in_url(text: str) -> Reference:
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError as exc:
        raise _no_build(text) from exc
    if found := IN_PATH.fullmatch(parts.path):
        return Reference(int(found[3]), unquote(found[2]), unquote(found[1]))
    [trace_id] = parse_qs(parts.query).get("trace_id", [""])[:1]
    if UUID.fullmatch(trace_id):
        return Reference(trace_id=trace_id.replace("-", ""))
    raise _no_build(text)


def _no_build(text: str) -> ConfigError:
    return ConfigError(
        f"{text} names no build. Give its URL, like https://buildkite.com/acme/web/builds/4182, "
        "or web#4182, its number, or its UUID."
    )


def in_table(
    reference: Reference, search: SpanSearch, zone: ZoneInfo, *, organization: str | None = None
) -> FoundBuild | None:
    """Return the build from the span table; None if the table does not have it.

    Args:
        reference: The build to find.
        search: The search in the span table.
        zone: The time zone of the days.
        organization: The organization of builds without one in the table, if known.

    Raises:
        ConfigError: Several builds match; the message lists them.
    """
    if reference.trace_id is not None:
        return search.find_by_trace_id(reference.trace_id, _likely(reference, zone))
    assert reference.number is not None
    found = [
        one
        for one in search.find_by_number(reference.number, reference.pipeline)
        if _same(reference.organization, one.organization or organization)
    ]
    if len(found) > 1:
        raise ConfigError(_several(reference, found))
    return found[0] if found else None


def _same(one: str | None, other: str | None) -> bool:
    """Return whether both may be the same organization; an unknown one matches any."""
    return not one or not other or one.casefold() == other.casefold()


def _likely(reference: Reference, zone: ZoneInfo) -> list[str] | None:
    """Return the days around the creation time, if the UUID contains it."""
    moment = reference.created_at
    if moment is None:
        return None
    return sorted({day_key(moment + slack, zone) for slack in (-UUID_SLACK, UUID_SLACK)})


def _several(reference: Reference, found: list[FoundBuild]) -> str:
    lines = [
        f"  {one.pipeline}#{one.number}  {one.state}, created {one.created_at}" for one in found
    ]
    return (
        f"{len(found)} builds have the number {reference.number}. Name the pipeline too, like "
        f"{found[0].pipeline}#{found[0].number}:\n" + "\n".join(lines)
    )


def at_buildkite(
    reference: Reference,
    connect: Callable[[], BuildkiteClient],
    *,
    where: str,
    organization: str | None,
) -> BuildRecord:
    """Fetch the build from Buildkite.

    Args:
        reference: The build to find.
        connect: Returns the client; called only if the API can find such a reference.
        where: The data directory, for messages.
        organization: The organization in the settings; None if it is not set.

    Raises:
        NotFound: Buildkite does not have the build, or cannot find it by this reference.
        ConfigError: The build belongs to another organization.
        PipelineError: From the client.
    """
    if not _same(reference.organization, organization):
        raise ConfigError(
            f"The build is one of {reference.organization}, and BUILDKITE_ORGANIZATION_SLUG is "
            f"{organization}. Set it, and a token that may read there."
        )
    if reference.number is not None and reference.pipeline is None:
        raise NotFound(
            f"There is no build {reference} in the span table of {where}. Name its pipeline, like "
            f"web#{reference}, or give its URL, and Buildkite is asked for it."
        )
    moment = reference.created_at
    if reference.number is None and moment is None:
        raise NotFound(
            f"There is no build {reference} in the span table of {where}, and Buildkite cannot be "
            "asked by this UUID. Give the build's URL."
        )
    with connect() as client:
        if reference.number is not None:
            return client.build(reference.pipeline or "", reference.number)
        assert moment is not None
        window = Window(moment - UUID_SLACK, moment + UUID_SLACK)
        for page in client.iter_builds(window):
            for build in page.builds:
                if build.id.replace("-", "").lower() == reference.trace_id:
                    return build
    raise NotFound(
        f"Buildkite lists no build {reference} in {client.organization}. Is it the UUID of a "
        "build, and not of a job? Else give the build's URL."
    )

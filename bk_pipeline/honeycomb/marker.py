"""A marker: what we want of one, what Honeycomb says of one, and what it is about."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import msgspec

from bk_pipeline.contracts import PlacedMarker


class Marker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of a marker that can be set, as the API takes it. Times are whole Unix seconds.

    An update sends all of it: what it leaves out, Honeycomb erases.
    """

    start_time: int
    end_time: int | None = None
    type: str
    message: str
    url: str | None = None

    @property
    def digest(self) -> bytes:
        """8 bytes that change with any of it."""
        return sha256(msgspec.json.encode(self)).digest()[:8]


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A marker as Honeycomb lists it; whoever made it may have left out anything."""

    id: str
    start_time: int | None = None
    end_time: int | None = None
    type: str | None = None
    message: str | None = None
    url: str | None = None

    def says(self, marker: Marker) -> bool:
        """Whether it is `marker`, field for field."""
        return self.resembles(marker) and (self.end_time or None, self.message or "") == (
            marker.end_time,
            marker.message,
        )

    def resembles(self, marker: Marker) -> bool:
        """Whether it marks the same thing: type, URL and start are those of `marker`.

        A build's message and end may have changed since it was placed; what its URL leads to
        and when it began have not.
        """
        mine = (self.type, self.url or None, self.start_time)
        return mine == (marker.type, marker.url, marker.start_time)


class Subject(NamedTuple):
    """What a marker is about: a rule, in a dataset, and a build's or job's span."""

    rule: str
    dataset: str
    trace_id: bytes
    span_id: bytes


def subject_of(placed: PlacedMarker) -> Subject:
    """What a remembered marker is about."""
    return Subject(placed.rule, placed.dataset, placed.trace_id, placed.span_id)

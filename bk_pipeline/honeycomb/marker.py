"""Markers as we want them, as Honeycomb lists them, and what they are about."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import msgspec

from bk_pipeline.contracts import PlacedMarker


class Marker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All settable fields of a marker, as in the API. Times are Unix seconds.

    An update sends all of them, because Honeycomb erases those that are left out.
    """

    start_time: int
    end_time: int | None = None
    type: str
    message: str
    url: str | None = None

    @property
    def digest(self) -> bytes:
        """8 bytes that change with any field."""
        return sha256(msgspec.json.encode(self)).digest()[:8]


class ListedMarker(msgspec.Struct, frozen=True, kw_only=True):
    """A marker as listed by Honeycomb; others may have created it without some fields."""

    id: str
    start_time: int | None = None
    end_time: int | None = None
    type: str | None = None
    message: str | None = None
    url: str | None = None

    def equals(self, marker: Marker) -> bool:
        """Return whether all fields equal those of `marker`."""
        return self.marks_the_same(marker) and (self.end_time or None, self.message or "") == (
            marker.end_time,
            marker.message,
        )

    def marks_the_same(self, marker: Marker) -> bool:
        """Return whether type, URL and start equal those of `marker`.

        A build's message and end may have changed since the marker was placed, but not its URL and
        start.
        """
        fields = (self.type, self.url or None, self.start_time)
        return fields == (marker.type, marker.url, marker.start_time)


class Subject(NamedTuple):
    """What a marker is about: a rule, in a dataset, and the span of a build or job."""

    rule: str
    dataset: str
    trace_id: bytes
    span_id: bytes


def subject_of(placed: PlacedMarker) -> Subject:
    """Return the subject of a recorded marker."""
    return Subject(placed.rule, placed.dataset, placed.trace_id, placed.span_id)

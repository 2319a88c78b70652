"""The types that rooms pass to each other, for example a delivery and the ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

# Trace id -> item ids.
ItemIds = Mapping[bytes, Collection[bytes]]


@dataclass(frozen=True, slots=True)
class Rejection:
    """An item that the destination will not take, and why, in its own words."""

    trace_id: bytes
    item_id: bytes
    span_name: str
    reason: str


class PlacedMarker(NamedTuple):
    """A marker that we made. `digest` is that of what was last sent."""

    rule: str
    dataset: str
    trace_id: bytes
    span_id: bytes
    day: str
    marker_id: str
    digest: bytes

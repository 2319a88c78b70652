"""Types that one subpackage passes to another, for example `deliver` to `ledger`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

# Trace id -> item ids.
ItemIds = Mapping[bytes, Collection[bytes]]


@dataclass(frozen=True, slots=True)
class Rejection:
    """An item that the destination rejected, with the destination's own error message."""

    trace_id: bytes
    item_id: bytes
    span_name: str
    reason: str


class PlacedMarker(NamedTuple):
    """A marker created by this pipeline. `digest` is the digest of the body last sent."""

    rule: str
    dataset: str
    trace_id: bytes
    span_id: bytes
    day: str
    marker_id: str
    digest: bytes

"""How to deliver, and what came of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import StrEnum
from typing import Self

from bk_pipeline.contracts import Rejection

REJECTIONS_SHOWN = 10


class Guarantee(StrEnum):
    """What happens to a batch whose answer never came."""

    AT_LEAST_ONCE = "at_least_once"  # sent again: nothing is lost, some may be doubled
    AT_MOST_ONCE = "at_most_once"  # taken for sent: nothing is doubled, some may be lost


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How to deliver.

    Attributes:
        guarantee: What to do with what is in doubt.
        in_flight: How many requests at once.
    """

    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE
    in_flight: int = 4


@dataclass(slots=True)
class Delivery:
    """What came of a delivery, in items. Deliveries add up with `+`.

    Attributes:
        accepted: Taken by the destination.
        rejected: Refused for good; the first few stand in `rejections`.
        rejected_unnamed: Of the accepted ones: so many the destination rejected without
            saying which; `remarks` has its words. They are settled: to send them again is to
            double their neighbours.
        already_settled: Not sent, because the ledger has them, or because they were
            among the tables twice.
        presumed_sent: Of earlier runs, in doubt and taken for sent ("at most once").
        in_doubt_resent: Of earlier runs, in doubt and sent again ("at least once").
        too_old: Not sent: older than the destination keeps.
        future: Sent, but so far ahead that the destination does not keep their time.
        trimmed: Accepted with less than the whole span.
        batches: Requests that were answered.
        body_bytes: In those requests, before compression.
        sent_bytes: In those requests, as sent.
        seconds: How long it took.
        rejections: The first few.
        remarks: What the destination had to say besides; the first few.
        age_limit: Which spans are too old for the destination, and why, for people.
    """

    accepted: int = 0
    rejected: int = 0
    rejected_unnamed: int = 0
    already_settled: int = 0
    presumed_sent: int = 0
    in_doubt_resent: int = 0
    too_old: int = 0
    future: int = 0
    trimmed: int = 0
    batches: int = 0
    body_bytes: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    rejections: list[Rejection] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    age_limit: str = ""

    def __add__(self, other: Delivery) -> Delivery:
        total = Delivery()
        total += self
        total += other
        return total

    def __iadd__(self, other: Delivery) -> Self:
        age_limit = other.age_limit or self.age_limit
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        del self.rejections[REJECTIONS_SHOWN:]
        del self.remarks[REJECTIONS_SHOWN:]
        self.age_limit = age_limit
        return self


def aged_note(part: str, too_old: int, max_age: timedelta) -> str:
    """What the ledger notes for `part`, of which so many spans were not sent."""
    return f"{_begin(part, max_age)}{too_old}"


def too_old_in(notes: Collection[str], part: str, max_age: timedelta | None) -> int | None:
    """How many spans of `part` are too old and all others settled, if a note says so."""
    if max_age is None:
        return None
    begin = _begin(part, max_age)
    return next((int(note[len(begin) :]) for note in notes if note.startswith(begin)), None)


def _begin(part: str, max_age: timedelta) -> str:
    return f"{part} older than {int(max_age.total_seconds())} s: "

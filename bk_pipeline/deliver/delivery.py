"""Delivery policies and delivery results, and the notes on too-old spans in the ledger."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import StrEnum
from typing import Self

from bk_pipeline.contracts import Rejection

REJECTIONS_SHOWN = 10


class Guarantee(StrEnum):
    """What happens to a batch whose response never arrived."""

    AT_LEAST_ONCE = "at_least_once"  # resent: nothing is lost, some items may be duplicated
    AT_MOST_ONCE = "at_most_once"  # presumed sent: nothing is duplicated, some items may be lost


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """Guarantee and concurrency of a delivery.

    Attributes:
        guarantee: What to do with items in doubt.
        in_flight: The maximum number of concurrent requests.
    """

    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE
    in_flight: int = 4


@dataclass(slots=True)
class Delivery:
    """The result of a delivery, counted in items. Results are added up with `+`.

    Attributes:
        accepted: Accepted by the destination.
        rejected: Rejected permanently; `rejections` has the first few.
        rejected_unnamed: The number of accepted items that the destination rejected without naming
            them; `warnings` has its message. They are settled, because resending them would
            duplicate the others of their batch.
        already_settled: Not sent, because the ledger has them settled or because they were in the
            tables twice.
        presumed_sent: In doubt from earlier runs and presumed sent ("at most once").
        in_doubt_resent: In doubt from earlier runs and sent again ("at least once").
        too_old: Not sent, because they exceed the maximum age of the destination.
        future: Sent, but too far in the future for the destination to keep their time.
        trimmed: Accepted with less than the whole span.
        batches: The number of requests that got a response.
        body_bytes: The size of those requests before compression.
        sent_bytes: The size of those requests as sent.
        seconds: The duration of the delivery.
        rejections: The first few rejected items.
        warnings: The first few warnings of the destination.
        age_limit: A sentence that says which spans are too old for the destination, and why.
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
    warnings: list[str] = field(default_factory=list)
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
        del self.warnings[REJECTIONS_SHOWN:]
        self.age_limit = age_limit
        return self


def too_old_note(part: str, too_old: int, max_age: timedelta) -> str:
    """Return the ledger's note that `part` is delivered except for its too-old spans.

    Args:
        part: The name of the part.
        too_old: The number of its spans that were not sent.
        max_age: The maximum age they exceeded.
    """
    return f"{_note_prefix(part, max_age)}{too_old}"


def too_old_count(notes: Collection[str], part: str, max_age: timedelta | None) -> int | None:
    """Return the number of too-old spans of `part` if everything else in it is settled.

    Returns:
        None if no note says so, or if there is no maximum age.
    """
    if max_age is None:
        return None
    prefix = _note_prefix(part, max_age)
    return next((int(note[len(prefix) :]) for note in notes if note.startswith(prefix)), None)


def _note_prefix(part: str, max_age: timedelta) -> str:
    return f"{part} older than {int(max_age.total_seconds())} s: "

"""Mark: the markers that rules ask for of a day's builds and jobs, planned, placed, pruned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.honeycomb.matching import columns_for
from bk_pipeline.honeycomb.placing import DayPlan, Listing, Placement, place, plan_day, prune
from bk_pipeline.honeycomb.rules import Rules
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, silent
from bk_pipeline.store.spans import SpanPart, SpanStore


@dataclass(frozen=True, slots=True)
class Marking:
    """What placing markers takes, whichever the day.

    `oldest`: what began before is not marked, since Honeycomb would not show what it is about.
    """

    spans: SpanStore
    rules: Rules
    client: MarkerClient
    ledger: Ledger
    oldest: datetime | None = None

    def plan(
        self, day: str, parts: list[SpanPart], *, listed: Listing | None, restore: bool
    ) -> DayPlan:
        """What is to be done about the day's markers, as far as these parts tell."""
        columns = columns_for(self.rules.rules)
        return plan_day(
            day,
            (table for part in parts for table in self.spans.tables(day, part, columns=columns)),
            self.rules,
            client=self.client,
            memory=self.ledger.markers,
            oldest=int(self.oldest.timestamp()) if self.oldest else 0,
            listed=listed,
            restore=restore,
        )


def plan_markers(
    day: str, marking: Marking, *, listed: Listing | None = None, restore: bool = False
) -> DayPlan:
    """What is to be done about the markers of `day`, all its spans considered. Changes nothing.

    Args:
        listed: Asked for a dataset's markers, instead of Honeycomb: for many days once.
        restore: Also place again what somebody deleted in Honeycomb.
    """
    parts = marking.spans.parts(day)
    return marking.plan(day, parts, listed=listed or marking.client.listed, restore=restore)


def place_markers(
    day: str,
    marking: Marking,
    *,
    whole: bool = False,
    restore: bool = False,
    progress: Progress = silent,
    on_wait: Progress = silent,
    result: Placement | None = None,
) -> Placement:
    """Place the markers that the rules ask for of `day` and that are not there; mend the others.

    Only spans that came since the last time with these rules are looked at, unless `whole`.
    Deletes nothing. Two runs for the same day take turns.

    Raises:
        PipelineError: From Honeycomb or the ledger. What was placed until then is known.
    """
    rules, client, book = marking.rules, marking.client, marking.ledger.markers
    with marking.ledger.delivery_lock(client.name, day, on_wait=on_wait):
        noted = set() if whole else book.checked_parts(client.name, day, rules.digest)
        parts = [part for part in marking.spans.parts(day) if part.name not in noted]
        listed = client.listed if restore else None
        planned = marking.plan(day, parts, listed=listed, restore=restore)
        placed = place(planned, rules, client=client, memory=book, progress=progress, result=result)
        book.mark_parts_checked(client.name, day, [part.name for part in parts], rules.digest)
    return placed


def prune_markers(day: str, marking: Marking, *, on_wait: Progress = silent) -> Placement:
    """Delete those markers of `day` that we made and no rule asks for any more."""
    with marking.ledger.delivery_lock(marking.client.name, day, on_wait=on_wait):
        planned = plan_markers(day, marking)
        return prune(planned, client=marking.client, memory=marking.ledger.markers)

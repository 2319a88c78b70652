"""Mark: plan, place and prune the Honeycomb markers that rules define for a day's spans."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.honeycomb.matching import columns_for
from bk_pipeline.honeycomb.placing import DayPlan, ListMarkers, Placement, place, plan_day, prune
from bk_pipeline.honeycomb.rules import Rules
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, no_progress
from bk_pipeline.store.spans import SpanPart, SpanStore


@dataclass(frozen=True, slots=True)
class MarkerContext:
    """What placing markers needs for any day.

    Attributes:
        spans: The span store.
        rules: The marker rules.
        client: Honeycomb's markers API.
        ledger: Where placed markers are recorded.
        oldest: Spans that began earlier get no marker, since Honeycomb no longer shows them.
    """

    spans: SpanStore
    rules: Rules
    client: MarkerClient
    ledger: Ledger
    oldest: datetime | None = None

    def plan(
        self, day: str, parts: list[SpanPart], *, listed: ListMarkers | None, restore: bool
    ) -> DayPlan:
        """Plan the changes to the day's markers for the spans of `parts`."""
        columns = columns_for(self.rules.rules)
        return plan_day(
            day,
            (table for part in parts for table in self.spans.tables(day, part, columns=columns)),
            self.rules,
            client=self.client,
            ledger=self.ledger.markers,
            oldest=int(self.oldest.timestamp()) if self.oldest else 0,
            list_markers=listed,
            restore=restore,
        )


def plan_markers(
    day: str, context: MarkerContext, *, listed: ListMarkers | None = None, restore: bool = False
) -> DayPlan:
    """Plan the changes to the markers of `day`, from all its spans. Changes nothing.

    Args:
        day: The partition.
        context: What placing markers needs.
        listed: Returns a dataset's markers; by default they are listed from Honeycomb. Pass a
            cached one for many days.
        restore: Also restore markers that were deleted in Honeycomb.
    """
    parts = context.spans.parts(day)
    return context.plan(day, parts, listed=listed or context.client.list_markers, restore=restore)


def place_markers(
    day: str,
    context: MarkerContext,
    *,
    whole: bool = False,
    restore: bool = False,
    progress: Progress = no_progress,
    on_wait: Progress = no_progress,
    result: Placement | None = None,
) -> Placement:
    """Place the missing markers of `day`, and update those that differ from the rules.

    Deletes nothing. Runs for the same day wait for each other.

    Args:
        day: The partition.
        context: What placing markers needs.
        whole: Check all spans, not only those that are new since the last run with these rules.
        restore: Also restore markers that were deleted in Honeycomb.
        progress: Called as markers are placed.
        on_wait: Called with a sentence when waiting for another run.
        result: Updated as markers are placed. Returned at the end.

    Raises:
        PipelineError: From Honeycomb or the ledger. Markers placed until then are recorded.
    """
    rules, client, markers = context.rules, context.client, context.ledger.markers
    with context.ledger.delivery_lock(client.name, day, on_wait=on_wait):
        checked = set() if whole else markers.checked_parts(client.name, day, rules.digest)
        parts = [part for part in context.spans.parts(day) if part.name not in checked]
        listed = client.list_markers if restore else None
        planned = context.plan(day, parts, listed=listed, restore=restore)
        placed = place(
            planned, rules, client=client, ledger=markers, progress=progress, result=result
        )
        markers.mark_parts_checked(client.name, day, [part.name for part in parts], rules.digest)
    return placed


def prune_markers(
    day: str, context: MarkerContext, *, on_wait: Progress = no_progress
) -> Placement:
    """Delete the markers of `day` that this program placed and no rule asks for any more."""
    with context.ledger.delivery_lock(context.client.name, day, on_wait=on_wait):
        planned = plan_markers(day, context)
        return prune(planned, client=context.client, ledger=context.ledger.markers)

"""Mark: plan, place and prune the Honeycomb markers that rules define for a day's spans."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from bk_pipeline.analysis.change import Change, shown
from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.honeycomb.matching import columns_for
from bk_pipeline.honeycomb.placing import DayPlan, ListMarkers, Placement, place, plan_day, prune
from bk_pipeline.honeycomb.rules import REGRESSION, Regression, Rules
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.changes import StoredChanges
from bk_pipeline.pipeline.days import Progress, no_progress
from bk_pipeline.store.spans import SpanPart, SpanStore

NO_CHANGES = (
    "Rules with regression = true have no effect yet: materialize the asset changes, or turn on "
    "the schedule nightly_changes."
)


@dataclass(frozen=True, slots=True)
class MarkerContext:
    """What placing markers needs for any day.

    Attributes:
        spans: The span store.
        rules: The marker rules.
        client: Honeycomb's markers API.
        ledger: Where placed markers are recorded.
        changes: The changes that the asset `changes` stored.
        oldest: Spans that began earlier get no marker, since Honeycomb no longer shows them.
    """

    spans: SpanStore
    rules: Rules
    client: MarkerClient
    ledger: Ledger
    changes: StoredChanges
    oldest: datetime | None = None

    @property
    def lacks_changes(self) -> bool:
        """Whether a rule has `regression = true` and no changes were stored yet."""
        return self.rules.use_regressions and not self.changes.days

    def regressions(self, day: str) -> list[Regression]:
        """Return the changes for the worse that began on `day`, if a rule asks for them."""
        if not self.rules.use_regressions:
            return []
        return [_regression(one) for one in self.changes.regressions(day) if one.build_id]

    def plan(
        self,
        day: str,
        parts: list[SpanPart],
        *,
        listed: ListMarkers | None,
        restore: bool,
        regressions: list[Regression],
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
            regressions=regressions,
        )


def _regression(change: Change) -> Regression:
    step = f"/{sha256(change.step.encode()).hexdigest()[:8]}" if change.step else ""
    values = {
        "subject": change.subject,
        "step": change.step,
        "measure": change.measure,
        "effect": change.effect,
        "before": shown(change.measure, change.before),
        "after": shown(change.measure, change.after),
        "percent": change.size,
        "since": change.since,
    }
    return Regression(
        build_id=change.build_id or "",
        name=f"{change.measure}{step}",
        values={f"{REGRESSION}{name}": value for name, value in values.items()},
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
    return context.plan(
        day,
        parts,
        listed=listed or context.client.list_markers,
        restore=restore,
        regressions=context.regressions(day),
    )


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
        regressions = context.regressions(day)
        digest = rules.digest_with(regressions)
        checked = set() if whole else markers.checked_parts(client.name, day, digest)
        parts = [part for part in context.spans.parts(day) if part.name not in checked]
        listed = client.list_markers if restore else None
        planned = context.plan(day, parts, listed=listed, restore=restore, regressions=regressions)
        placed = place(
            planned, rules, client=client, ledger=markers, progress=progress, result=result
        )
        markers.mark_parts_checked(client.name, day, [part.name for part in parts], digest)
    return placed


def place_regression_markers(
    day: str,
    context: MarkerContext,
    *,
    progress: Progress = no_progress,
    on_wait: Progress = no_progress,
    result: Placement | None = None,
) -> Placement:
    """Place the markers of the days on which changes began that were found and stored for `day`.

    Args, Raises: As for `place_markers`. Without a rule with `regression = true`, nothing is done.
    """
    placed = Placement() if result is None else result
    if context.rules.use_regressions:
        for first in context.changes.regression_days(day):
            place_markers(first, context, progress=progress, on_wait=on_wait, result=placed)
    return placed


def prune_markers(
    day: str, context: MarkerContext, *, on_wait: Progress = no_progress
) -> Placement:
    """Delete the markers of `day` that this program placed and no rule asks for any more."""
    with context.ledger.delivery_lock(context.client.name, day, on_wait=on_wait):
        planned = plan_markers(day, context)
        return prune(planned, client=context.client, ledger=context.ledger.markers)

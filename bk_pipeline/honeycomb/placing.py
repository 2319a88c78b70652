"""The colours of markers, by type: what the rules file says is what Honeycomb shall have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from bk_pipeline.contracts import PlacedMarker
from bk_pipeline.errors import RequestRefused
from bk_pipeline.honeycomb.client import Color, MarkerClient
from bk_pipeline.honeycomb.marker import Listed, Subject, subject_of
from bk_pipeline.honeycomb.matching import markers_in
from bk_pipeline.honeycomb.planning import Plan, open_questions, plan
from bk_pipeline.honeycomb.rules import Rules


def unlike(dataset: str, colors: Mapping[str, str], *, client: MarkerClient) -> dict[str, Color]:
    """What is to be set: each type whose colour in `dataset` is another one, or none.

    A type that has none yet has an empty `id`.
    """
    present = {one.type: one for one in client.colors(dataset)} if colors else {}
    return {
        kind: Color(present[kind].id if kind in present else "", kind, color)
        for kind, color in colors.items()
        if kind not in present or present[kind].color.lower() != color
    }


def paint(dataset: str, colors: Mapping[str, str], *, client: MarkerClient) -> int:
    """Give the types in `dataset` their colours; how many had another one or none.

    Types that `colors` does not name keep theirs. Two runs may do this at once: whoever comes
    second is refused, and content if the colour is there.
    """
    todo = unlike(dataset, colors, client=client)
    for kind, setting in todo.items():
        try:
            client.set_color(dataset, setting)
        except RequestRefused:
            if unlike(dataset, {kind: setting.color}, client=client):
                raise
    return len(todo)


# A dataset's markers, as Honeycomb has them.
Listing = Callable[[str], Sequence[Listed]]


class Memory(Protocol):
    """The ledger's part for markers. `bk_pipeline.ledger` has the real one."""

    def placed(self, place: str, *, day: str | None = None) -> Sequence[PlacedMarker]:
        """The markers that we made, of one day or all."""
        ...

    def remember(self, place: str, marker: PlacedMarker) -> None:
        """Know a marker from now on, in the place of another of the same subject."""
        ...

    def forget(self, place: str, marker: PlacedMarker) -> None:
        """Know a marker no longer."""
        ...


@dataclass(slots=True)
class Placement:
    """What was done. `found_again` are markers that Honeycomb had and the ledger did not know."""

    created: int = 0
    found_again: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    missing: int = 0
    too_old: int = 0
    colors_set: int = 0


@dataclass(frozen=True, slots=True)
class DayPlan:
    """A day's plan, and the ids of all markers there are, by dataset, when it was made."""

    day: str
    plan: Plan
    present: Mapping[str, set[str]] = field(repr=False)


def plan_day(
    day: str,
    tables: Iterable[pa.Table],
    rules: Rules,
    *,
    client: MarkerClient,
    memory: Memory,
    oldest: int,
    listed: Listing | None = None,
    restore: bool = False,
) -> DayPlan:
    """What to do about the markers of `day`. Changes nothing.

    Args:
        day: Its key.
        tables: Its spans, those that may have changed at least; oldest fetch first.
        rules: All there are.
        client: Asked for the markers of datasets in which something may have to be done.
        memory: What we made.
        oldest: Nothing that begins before this Unix second is placed.
        listed: Asked for those of all datasets instead: only so is it known what somebody
            deleted.
        restore: Place that again.
    """
    known = list(memory.placed(client.name, day=day))
    spans = {(one.trace_id, one.span_id) for one in known}
    wanted, seen = markers_in(tables, rules.rules, held=spans)
    placed = {subject_of(one): one for one in known}
    if listed is None:
        asked, listed = open_questions(wanted, placed, oldest=oldest), client.listed
    else:
        asked = {subject.dataset for subject in wanted}
    listings = {dataset: listed(dataset) for dataset in sorted(asked)}
    ours = {one.marker_id for one in memory.placed(client.name)} if listings else set()
    made = plan(wanted, placed, listings, ours=ours, oldest=oldest, restore=restore)
    present = {(rule.id, rule.dataset) for rule in rules.rules}
    made.delete = [
        one
        for one in known
        if (one.rule, one.dataset) not in present
        or ((one.trace_id, one.span_id) in seen and subject_of(one) not in wanted)
    ]
    ids = {dataset: {one.id for one in listed} for dataset, listed in listings.items()}
    return DayPlan(day, made, ids)


def place(
    planned: DayPlan,
    rules: Rules,
    *,
    client: MarkerClient,
    memory: Memory,
    progress: Callable[[str], None],
    result: Placement | None = None,
) -> Placement:
    """Create, change and remember what the plan says; delete nothing.

    Each marker is remembered, and counted in `result`, as soon as it is made.
    """
    todo = planned.plan
    done = Placement() if result is None else result
    done.unchanged += todo.unchanged
    done.missing += len(todo.missing)
    done.too_old += todo.too_old
    done.found_again += len(todo.found)

    def remember(subject: Subject, marker_id: str, digest: bytes) -> None:
        made = PlacedMarker(*subject, day=planned.day, marker_id=marker_id, digest=digest)
        memory.remember(client.name, made)

    for one in todo.found:
        remember(one.subject, one.marker_id, one.marker.digest)
    for one in todo.change:
        if client.update(one.subject.dataset, one.marker_id, one.marker):
            done.changed += 1
        else:
            done.missing += 1
        remember(one.subject, one.marker_id, one.marker.digest)
    for subject, marker in todo.create:
        others = planned.present[subject.dataset]
        marker_id, found = client.create(subject.dataset, marker, others=others)
        others.add(marker_id)
        remember(subject, marker_id, marker.digest)
        done.created += 1
        done.found_again += found
        progress(f"{planned.day}: {done.created:,} of {len(todo.create):,} markers placed")
    for dataset in sorted({subject.dataset for subject, _ in todo.create}):
        done.colors_set += paint(dataset, rules.colors_in(dataset), client=client)
    return done


def prune(planned: DayPlan, *, client: MarkerClient, memory: Memory) -> Placement:
    """Delete the markers that we made and that no rule asks for any more."""
    done = Placement()
    for one in planned.plan.delete:
        if client.delete(one.dataset, one.marker_id):
            done.deleted += 1
        else:
            done.missing += 1
        memory.forget(client.name, one)
    return done

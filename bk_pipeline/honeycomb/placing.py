"""Place the markers and colours of a day: plan the changes, then create, update and delete.

A marker has no id of ours; it is ours if the ledger says so. If the ledger does not know a marker
(because a response or the ledger itself was lost), it is recovered from Honeycomb's list: first one
with the same fields, else one of the same type, URL and start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from bk_pipeline.contracts import PlacedMarker
from bk_pipeline.errors import RequestRefused
from bk_pipeline.honeycomb.client import Color, MarkerClient
from bk_pipeline.honeycomb.matching import SpanKey, markers_in
from bk_pipeline.honeycomb.rules import (
    ListedMarker,
    Marker,
    Regression,
    Rules,
    Subject,
    subject_of,
)


@dataclass(frozen=True, slots=True)
class Change:
    """A marker that exists in Honeycomb, with the fields it is to have."""

    subject: Subject
    marker: Marker
    marker_id: str


@dataclass(slots=True)
class Plan:
    """The changes for one day's markers.

    Attributes:
        create: Markers to create.
        recovered: Markers that exist as they should be but are not in the ledger.
        change: Markers to update, because the build resumed or the rule was edited.
        delete: Markers that we placed and that no rule defines any more.
        unchanged: The number of markers that are as they should be.
        missing: Markers deleted in Honeycomb by others and not placed again.
        too_old: The number of markers not placed because their data is no longer shown.
    """

    create: list[tuple[Subject, Marker]] = field(default_factory=list)
    recovered: list[Change] = field(default_factory=list)
    change: list[Change] = field(default_factory=list)
    delete: list[PlacedMarker] = field(default_factory=list)
    unchanged: int = 0
    missing: list[Subject] = field(default_factory=list)
    too_old: int = 0


def datasets_to_list(
    markers: Mapping[Subject, Marker], placed: Mapping[Subject, PlacedMarker], *, oldest: int
) -> set[str]:
    """Return the datasets whose markers have to be listed to plan `markers`."""
    return {
        subject.dataset
        for subject, marker in markers.items()
        if (subject in placed and placed[subject].digest != marker.digest)
        or (subject not in placed and marker.start_time >= oldest)
    }


def plan(
    markers: Mapping[Subject, Marker],
    placed: Mapping[Subject, PlacedMarker],
    listings: Mapping[str, Iterable[ListedMarker]],
    *,
    ours: Collection[str] = (),
    oldest: int = 0,
    restore: bool = False,
) -> Plan:
    """Plan the changes for `markers`, except for `delete`.

    Args:
        markers: The markers that the rules define.
        placed: Their records in the ledger.
        listings: Honeycomb's markers by dataset; none is missing in datasets without a list.
        ours: The ids of markers in the ledger, which are not recovered as others.
        oldest: Markers that start before this Unix second are not placed.
        restore: Place markers deleted by others again.
    """
    result = Plan()
    ids = {dataset: {one.id for one in listed} for dataset, listed in listings.items()}
    unknown = dict(markers)
    for subject in markers.keys() & placed.keys():
        marker, known = unknown.pop(subject), placed[subject]
        if known.marker_id not in ids.get(subject.dataset, {known.marker_id}):
            if restore and marker.start_time >= oldest:
                result.create.append((subject, marker))
            else:
                result.missing.append(subject)
        elif known.digest != marker.digest:
            result.change.append(Change(subject, marker, known.marker_id))
        else:
            result.unchanged += 1
    _recover(unknown, _UnrecordedMarkers(listings, ours), result)
    for subject, marker in unknown.items():
        if marker.start_time < oldest:
            result.too_old += 1
        else:
            result.create.append((subject, marker))
    return result


def _recover(unknown: dict[Subject, Marker], unrecorded: _UnrecordedMarkers, result: Plan) -> None:
    """Move markers that exist in Honeycomb from `unknown` to `result`, exact matches first."""
    for matches, target in (
        (ListedMarker.equals, result.recovered),
        (ListedMarker.marks_the_same, result.change),
    ):
        for subject in list(unknown):
            marker_id = unrecorded.claim(subject.dataset, unknown[subject], matches)
            if marker_id is not None:
                target.append(Change(subject, unknown.pop(subject), marker_id))


class _UnrecordedMarkers:
    """Listed markers that the ledger does not know; each can be claimed once."""

    def __init__(
        self, listings: Mapping[str, Iterable[ListedMarker]], ours: Collection[str]
    ) -> None:
        self._candidates: dict[tuple[str, str | None, int | None], list[ListedMarker]] = {}
        for dataset, listed in listings.items():
            for one in listed:
                if one.id not in ours:
                    self._candidates.setdefault((dataset, one.type, one.start_time), []).append(one)

    def claim(
        self, dataset: str, marker: Marker, matches: Callable[[ListedMarker, Marker], bool]
    ) -> str | None:
        """Return the id of a matching marker and claim it; None if there is none."""
        candidates = self._candidates.get((dataset, marker.type, marker.start_time), [])
        recovered = next((one for one in candidates if matches(one, marker)), None)
        if recovered is None:
            return None
        candidates.remove(recovered)
        return recovered.id


def color_changes(
    dataset: str, colors: Mapping[str, str], *, client: MarkerClient
) -> dict[str, Color]:
    """Return the colour settings to change: types with another colour in `dataset`, or none.

    For a type without a colour, `id` is empty.
    """
    present = {one.type: one for one in client.colors(dataset)} if colors else {}
    return {
        kind: Color(present[kind].id if kind in present else "", kind, color)
        for kind, color in colors.items()
        if kind not in present or present[kind].color.lower() != color
    }


def set_colors(dataset: str, colors: Mapping[str, str], *, client: MarkerClient) -> int:
    """Set the colours of types in `dataset` and return how many were changed.

    Types not in `colors` keep theirs. If two runs do this concurrently, the second one is rejected;
    that is fine if the colour is set.
    """
    changes = color_changes(dataset, colors, client=client)
    for kind, setting in changes.items():
        try:
            client.set_color(dataset, setting)
        except RequestRefused:
            if color_changes(dataset, {kind: setting.color}, client=client):
                raise
    return len(changes)


# A dataset's markers, as Honeycomb has them.
ListMarkers = Callable[[str], Sequence[ListedMarker]]


class MarkerLedger(Protocol):
    """The part of the ledger for markers, see `bk_pipeline.ledger`."""

    def placed(self, place: str, *, day: str | None = None) -> Sequence[PlacedMarker]:
        """Return the markers that we placed, of one day or all days."""
        ...

    def remember(self, place: str, marker: PlacedMarker) -> None:
        """Record a marker, replacing any other one of the same subject."""
        ...

    def forget(self, place: str, marker: PlacedMarker) -> None:
        """Delete the record of a marker."""
        ...


@dataclass(slots=True)
class Placement:
    """The result of placing markers, as counts.

    `found_again` counts markers that Honeycomb had and the ledger did not know.
    """

    created: int = 0
    found_again: int = 0  # names of fields are labels in the command line's output
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    missing: int = 0
    too_old: int = 0
    colors_set: int = 0


@dataclass(frozen=True, slots=True)
class DayPlan:
    """A day's plan, with the ids of all existing markers by dataset at that time."""

    day: str
    plan: Plan
    present: Mapping[str, set[str]] = field(repr=False)


def plan_day(
    day: str,
    tables: Iterable[pa.Table],
    rules: Rules,
    *,
    client: MarkerClient,
    ledger: MarkerLedger,
    oldest: int,
    list_markers: ListMarkers | None = None,
    restore: bool = False,
    regressions: Iterable[Regression] = (),
) -> DayPlan:
    """Plan the markers of `day`. Changes nothing.

    Args:
        day: The key of the day.
        tables: The day's spans, at least those that may have changed, oldest fetch first.
        rules: All rules.
        client: Lists the markers of datasets that may need changes.
        ledger: The markers that we placed.
        oldest: Markers that start before this Unix second are not placed.
        list_markers: Lists the markers of a dataset, for all datasets. Only with it, markers
            deleted by others are noticed.
        restore: Place markers deleted by others again.
        regressions: The changes for the worse that began with the day's builds.
    """
    known = list(ledger.placed(client.name, day=day))
    spans = {(one.trace_id, one.span_id) for one in known}
    markers, seen = markers_in(
        tables, rules.rules, hosts=rules.hosts, held=spans, regressions=regressions
    )
    placed = {subject_of(one): one for one in known}
    if list_markers is None:
        list_markers = client.list_markers
        datasets = datasets_to_list(markers, placed, oldest=oldest)
    else:
        datasets = {subject.dataset for subject in markers}
    listings = {dataset: list_markers(dataset) for dataset in sorted(datasets)}
    ours = {one.marker_id for one in ledger.placed(client.name)} if listings else set()
    planned = plan(markers, placed, listings, ours=ours, oldest=oldest, restore=restore)
    planned.delete = [one for one in known if _is_obsolete(one, rules, markers, seen)]
    ids = {dataset: {one.id for one in listed} for dataset, listed in listings.items()}
    return DayPlan(day, planned, ids)


def _is_obsolete(
    placed: PlacedMarker,
    rules: Rules,
    markers: Collection[Subject],
    seen: Collection[SpanKey],
) -> bool:
    """Return whether the marker's rule is gone or no longer matches its span, if seen."""
    subject = subject_of(placed)
    if (subject.rule_id, subject.dataset) not in {(one.id, one.dataset) for one in rules.rules}:
        return True
    return (placed.trace_id, placed.span_id) in seen and subject not in markers


def place(
    planned: DayPlan,
    rules: Rules,
    *,
    client: MarkerClient,
    ledger: MarkerLedger,
    progress: Callable[[str], None],
    result: Placement | None = None,
) -> Placement:
    """Create, change and record planned markers one by one, counted in `result`; delete none."""
    changes = planned.plan
    done = Placement() if result is None else result
    done.unchanged += changes.unchanged
    done.missing += len(changes.missing)
    done.too_old += changes.too_old
    done.found_again += len(changes.recovered)

    def remember(subject: Subject, marker_id: str, digest: bytes) -> None:
        placed = PlacedMarker(*subject, day=planned.day, marker_id=marker_id, digest=digest)
        ledger.remember(client.name, placed)

    for one in changes.recovered:
        remember(one.subject, one.marker_id, one.marker.digest)
    for one in changes.change:
        if client.update(one.subject.dataset, one.marker_id, one.marker):
            done.changed += 1
        else:
            done.missing += 1
        remember(one.subject, one.marker_id, one.marker.digest)
    for subject, marker in changes.create:
        others = planned.present[subject.dataset]
        marker_id, was_recovered = client.create(subject.dataset, marker, others=others)
        others.add(marker_id)
        remember(subject, marker_id, marker.digest)
        done.created += 1
        done.found_again += was_recovered
        progress(f"{planned.day}: {done.created:,} of {len(changes.create):,} markers placed")
    for dataset in sorted({subject.dataset for subject, _ in changes.create}):
        done.colors_set += set_colors(dataset, rules.colors_in(dataset), client=client)
    return done


def prune(planned: DayPlan, *, client: MarkerClient, ledger: MarkerLedger) -> Placement:
    """Delete the markers that we placed and that no rule defines any more."""
    done = Placement()
    for one in planned.plan.delete:
        if client.delete(one.dataset, one.marker_id):
            done.deleted += 1
        else:
            done.missing += 1
        ledger.forget(client.name, one)
    return done

"""Plan the changes that give Honeycomb the markers that the rules define. Pure.

A marker has no id of ours; it is ours if the ledger says so. If the ledger does not know a marker
(because a response or the ledger itself was lost), it is recovered from Honeycomb's list: first one
with the same fields, else one of the same type, URL and start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bk_pipeline.contracts import PlacedMarker
from bk_pipeline.honeycomb.marker import ListedMarker, Marker, Subject


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

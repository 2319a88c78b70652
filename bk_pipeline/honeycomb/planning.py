"""What is to be done so that Honeycomb has the markers that the rules ask for. Pure.

A marker carries no id of ours. It is ours if the ledger says so. If the ledger does not know
one (an answer was lost, or the ledger itself), it is found again in Honeycomb's list: first one
that says exactly the same, else one of the same type, URL and start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bk_pipeline.contracts import PlacedMarker
from bk_pipeline.honeycomb.marker import Listed, Marker, Subject


@dataclass(frozen=True, slots=True)
class Change:
    """A marker that Honeycomb has and that is to say something else from now on."""

    subject: Subject
    marker: Marker
    marker_id: str


@dataclass(slots=True)
class Plan:
    """What to do about one day's markers.

    Attributes:
        create: To be placed.
        found: Honeycomb has them and says what they should; the ledger shall know them again.
        change: To be updated: the build resumed, or the rule was edited.
        delete: Placed once, and no rule asks for them any more.
        unchanged: How many are as they should be.
        missing: Deleted in Honeycomb by somebody else, and left so.
        too_old: How many are not placed because their data are no longer shown.
    """

    create: list[tuple[Subject, Marker]] = field(default_factory=list)
    found: list[Change] = field(default_factory=list)
    change: list[Change] = field(default_factory=list)
    delete: list[PlacedMarker] = field(default_factory=list)
    unchanged: int = 0
    missing: list[Subject] = field(default_factory=list)
    too_old: int = 0


def open_questions(
    wanted: Mapping[Subject, Marker], placed: Mapping[Subject, PlacedMarker], *, oldest: int
) -> set[str]:
    """The datasets whose markers must be listed before anything can be said of `wanted`."""
    return {
        subject.dataset
        for subject, marker in wanted.items()
        if (subject in placed and placed[subject].digest != marker.digest)
        or (subject not in placed and marker.start_time >= oldest)
    }


def plan(
    wanted: Mapping[Subject, Marker],
    placed: Mapping[Subject, PlacedMarker],
    listings: Mapping[str, Iterable[Listed]],
    *,
    ours: Collection[str] = (),
    oldest: int = 0,
    restore: bool = False,
) -> Plan:
    """What to do about `wanted`, `delete` excepted.

    Args:
        wanted: What the rules ask for.
        placed: What the ledger knows of it.
        listings: What Honeycomb has, by dataset; without that of a dataset, nothing of it is
            missing.
        ours: Ids of markers that the ledger knows; none is found again as another.
        oldest: Nothing that begins before this Unix second is placed.
        restore: Place again what somebody deleted in Honeycomb.
    """
    made = Plan()
    ids = {dataset: {one.id for one in listed} for dataset, listed in listings.items()}
    unknown = dict(wanted)
    for subject in wanted.keys() & placed.keys():
        marker, known = unknown.pop(subject), placed[subject]
        if known.marker_id not in ids.get(subject.dataset, {known.marker_id}):
            if restore and marker.start_time >= oldest:
                made.create.append((subject, marker))
            else:
                made.missing.append(subject)
        elif known.digest != marker.digest:
            made.change.append(Change(subject, marker, known.marker_id))
        else:
            made.unchanged += 1
    _find(unknown, _Strangers(listings, ours), made)
    for subject, marker in unknown.items():
        if marker.start_time < oldest:
            made.too_old += 1
        else:
            made.create.append((subject, marker))
    return made


def _find(unknown: dict[Subject, Marker], strangers: _Strangers, made: Plan) -> None:
    """Move out of `unknown` into `made` what Honeycomb has already; exact likenesses go first."""
    for fits, into in ((Listed.says, made.found), (Listed.resembles, made.change)):
        for subject in list(unknown):
            marker_id = strangers.claim(subject.dataset, unknown[subject], fits)
            if marker_id is not None:
                into.append(Change(subject, unknown.pop(subject), marker_id))


class _Strangers:
    """Listed markers that the ledger does not know; each can be claimed once."""

    def __init__(self, listings: Mapping[str, Iterable[Listed]], ours: Collection[str]) -> None:
        self._alike: dict[tuple[str, str | None, int | None], list[Listed]] = {}
        for dataset, listed in listings.items():
            for one in listed:
                if one.id not in ours:
                    self._alike.setdefault((dataset, one.type, one.start_time), []).append(one)

    def claim(
        self, dataset: str, marker: Marker, fits: Callable[[Listed, Marker], bool]
    ) -> str | None:
        """The id of one that fits, not to be claimed again; None if there is none."""
        alike = self._alike.get((dataset, marker.type, marker.start_time), [])
        found = next((one for one in alike if fits(one, marker)), None)
        if found is None:
            return None
        alike.remove(found)
        return found.id

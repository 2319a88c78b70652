"""The seeded organization and its builds, made a day at a time as they are asked for.

A `World` may be read by many threads while others add builds.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from random import Random
from threading import RLock
from typing import Any

from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.changes import new_change
from bk_pipeline.sandbox.credentials import timed_uuid
from bk_pipeline.sandbox.days import LONGEST_LIFE, builds_of_day, numbers_of
from bk_pipeline.sandbox.listing import Entry, Listing, Recorded, is_listed, slug_and_number
from bk_pipeline.sandbox.organization import Organization, organization_named
from bk_pipeline.sandbox.run import Run
from bk_pipeline.sandbox.scenario import Fate
from bk_pipeline.sandbox.timeline import Build, Reference
from bk_pipeline.sandbox.times import DAY, SECOND, day_of, day_start

# A pipeline of its own, so that its numbers collide with no generated build's.
_SLUG = "playground"


def small_build_ending_at(now: int, number: int, organization: Organization) -> Build:
    """A passed build of some seconds whose last phase began at `now` or a moment before."""
    created = now - 10 * SECOND
    while True:
        build = _small_build(created, Random(f"{organization.slug}/{number}/{now}"), organization)
        build.ref.number = number
        beyond = build.phases[-1].at - now
        if beyond <= 0:
            return build
        # How long agents take depends on the hour, so an earlier start may end otherwise.
        created -= beyond


def _small_build(created: int, rng: Random, organization: Organization) -> Build:
    pipeline = organization.pipelines[_SLUG]
    change = new_change(rng, organization, pipeline, "ui")
    reference = Reference(timed_uuid(created, rng), _SLUG)
    build = Build(reference, pipeline, created, change)
    Run(build, Fate.PASSES, rng, organization, spawn=lambda *_: None).play()
    return build


# Days are forgotten, the one least recently used first, beyond this many builds.
_BUILDS_KEPT = 110_000


class World:
    """An organization with the builds of the last days.

    Args:
        seed: Another seed, another past.
        days: Complete UTC days before today; today so far comes on top.
        builds_per_day: On a working day; weekends have fewer.
        today: The last day that has builds. None: whatever day the clock says, so
            that new builds go on coming into being.
        organization: Its slug.
    """

    def __init__(
        self,
        seed: int = 1,
        days: int = 3,
        builds_per_day: int = 40,
        today: date | None = None,
        organization: str = "acme",
    ) -> None:
        self.seed = seed
        self.days = days
        self.builds_per_day = builds_per_day
        self.organization = organization_named(organization)
        # A sandbox puts its own clock here, so that both agree on what time it is.
        self.clock: Callable[[], float] = time.time
        self._today = today
        self._lock = RLock()
        self._made: OrderedDict[date, list[Build]] = OrderedDict()
        self._added: dict[date, list[Recorded]] = {}
        self._added_pipelines: dict[str, dict[str, Any]] = {}
        self._deleted: set[str] = set()
        # How often builds were added or deleted.
        self.changes = 0
        self._small_builds = 0

    def now(self) -> int:
        """The clock's time in milliseconds."""
        return int(self.clock() * 1000)

    def first_and_last_day(self) -> tuple[date, date]:
        last = self._today or day_of(self.now())
        return last - timedelta(days=self.days), last

    def builds(self, day: date) -> list[Build]:
        """The day's whole lives, future ones too, oldest first. Added builds are not among them."""
        with self._lock:
            made = self._made.get(day)
            if made is None:
                made = builds_of_day(self.organization, self.seed, self.builds_per_day, day)
                self._forget(len(made))
                self._made[day] = made
            self._made.move_to_end(day)
            return made

    def find(self, listing: Listing, moment: int) -> Iterator[Entry]:
        """The builds that a listing shows at `moment`, newest first.

        Days that cannot hold any are not even made.
        """
        for day in self._days(listing):
            entries = self._entries(day, over=_is_over(day, listing))
            begin, end = 0, len(entries)
            if listing.created_from is not None:
                begin = bisect_left(entries, listing.created_from, key=_created)
            if listing.created_to is not None:
                end = bisect_left(entries, listing.created_to, key=_created)
            for position in range(end - 1, begin - 1, -1):
                if is_listed(entries[position], listing, moment):
                    yield entries[position]

    def build(self, slug: str, number: int, moment: int) -> Entry | None:
        """One build by its pipeline and number; None if there is none yet."""
        listing = Listing(slug=slug)
        with self._lock:
            candidates: list[Entry] = [entry for day in self._added.values() for entry in day]
        for day in self._own_days():
            if number in numbers_of(day, self.builds_per_day):
                candidates += self.builds(day)
        for entry in candidates:
            if slug_and_number(entry) == (slug, number) and is_listed(entry, listing, moment):
                return entry
        return None

    def pipelines(self) -> dict[str, dict[str, Any]]:
        """The pipeline objects by slug, those of added builds included."""
        with self._lock:
            made = {slug: p.payload for slug, p in self.organization.pipelines.items()}
            return self._added_pipelines | made

    def add_build(self, payload: dict[str, Any]) -> None:
        """Serves `payload`, an API build object, from now on, whatever its dates.

        One with the same pipeline and number that was added before is replaced.

        Raises:
            ValueError: It is no build object.
        """
        entry = Recorded.of(payload)
        with self._lock:
            day = self._added.setdefault(day_of(entry.created), [])
            day[:] = [other for other in day if slug_and_number(other) != slug_and_number(entry)]
            day.append(entry)
            self.changes += 1
            self._added_pipelines.setdefault(entry.slug, payload["pipeline"])

    def delete_build(self, build_id: str) -> None:
        """Serves the build no more, one that was added or one that was made."""
        with self._lock:
            self._deleted.add(build_id)
            self.changes += 1

    def finish_build_now(self) -> dict[str, Any]:
        """The API's object of a new small build that has finished just now; it is served as well."""
        with self._lock:
            self._small_builds += 1
            number = self._small_builds
        now = self.now()
        build = small_build_ending_at(now, number, self.organization)
        payload = build_as_of(build, now)
        assert payload is not None
        self.add_build(payload)
        return payload

    def _own_days(self) -> list[date]:
        first, last = self.first_and_last_day()
        return [first + timedelta(days=number) for number in range((last - first).days + 1)]

    def _days(self, listing: Listing) -> list[date]:
        """The days that may hold what is asked for, newest first."""
        with self._lock:
            added = set(self._added)

        def may_hold(day: date) -> bool:
            begin, end = day_start(day), day_start(day) + DAY
            if listing.created_from is not None and end <= listing.created_from:
                return False
            if listing.created_to is not None and begin >= listing.created_to:
                return False
            return day in added or not _is_over(day, listing)

        return sorted(filter(may_hold, added | set(self._own_days())), reverse=True)

    def _entries(self, day: date, *, over: bool) -> Sequence[Entry]:
        """The day's builds, oldest first; if it is `over`, only those that were added.

        An added build hides the one with the same id.
        """
        first, last = self.first_and_last_day()
        made: Sequence[Build] = self.builds(day) if first <= day <= last and not over else ()
        with self._lock:
            deleted = set(self._deleted)
            added = [e for e in self._added.get(day, ()) if e.payload.get("id") not in deleted]
        if not added and not deleted:
            return made
        hidden = deleted | {entry.payload.get("id") for entry in added}
        shown = [build for build in made if build.ref.id not in hidden]
        return sorted([*shown, *added], key=_created)

    def _forget(self, coming: int) -> None:
        kept = sum(map(len, self._made.values()))
        while self._made and kept + coming > _BUILDS_KEPT:
            _, forgotten = self._made.popitem(last=False)
            kept -= len(forgotten)


def _is_over(day: date, listing: Listing) -> bool:
    """Whether all builds made for `day` ended before those that are asked for."""
    # Only builds made here are sure to be over some days after their creation.
    sure = day_start(day) + DAY + LONGEST_LIFE
    return listing.finished_from is not None and sure < listing.finished_from


def _created(entry: Entry) -> int:
    return entry.created

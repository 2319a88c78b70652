"""A seeded organization and its builds, which are simulated a day at a time when needed.

A `World` can be read by several threads while others add builds.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from threading import RLock
from typing import Any

from bk_pipeline.sandbox.agents import finish
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.blueprint import Scenario
from bk_pipeline.sandbox.credentials import timed_uuid
from bk_pipeline.sandbox.days import MAX_BUILD_LIFETIME, build_numbers_on, simulate_day
from bk_pipeline.sandbox.listing import (
    Entry,
    ListingFilters,
    RecordedBuild,
    matches,
    slug_and_number,
)
from bk_pipeline.sandbox.organization import Organization, make_organization
from bk_pipeline.sandbox.simulation import BuildSimulation
from bk_pipeline.sandbox.timeline import Build, Reference, random_change
from bk_pipeline.sandbox.times import DAY, SECOND, day_of, day_start

# Only builds finished on demand use this pipeline, so their numbers never collide with others.
_ON_DEMAND_SLUG = "playground"
# Above this number of builds, the least recently used days are evicted from the cache.
_MAX_CACHED_BUILDS = 110_000


@dataclass(frozen=True, slots=True)
class Slowdown:
    """The jobs of one step take `factor` times as long in builds created on `since` or later."""

    slug: str
    key: str
    factor: float
    since: date


class World:
    """An organization with the builds of the last days.

    Args:
        seed: The seed of all randomness; each seed has its own history.
        days: Complete UTC days with builds, in addition to today.
        builds_per_day: Builds on a working day; weekends have fewer.
        today: The last day with builds. None for the clock's current day, so that new
            builds keep appearing.
        organization: The slug of the organization.
        like: The `today` of the world whose history this one repeats on other dates, so
            that a world which must end on a recent day always has the same builds.
        limited_agents: Whether jobs wait because all agents are busy. Otherwise their waits are
            random, which takes less time to simulate.
        more_agents: With `limited_agents`, how many agents each queue has beyond its usual ones.
        slowdown: A change for the worse in its history; None for none.

    Attributes:
        clock: Seconds since 1970. A sandbox sets it to its own clock.
        revision: How often builds were added or deleted.
    """

    def __init__(
        self,
        seed: int = 1,
        days: int = 3,
        builds_per_day: int = 40,
        today: date | None = None,
        organization: str = "acme",
        *,
        like: date | None = None,
        limited_agents: bool = False,
        more_agents: int = 0,
        slowdown: Slowdown | None = None,
    ) -> None:
        self.seed = seed
        self.days = days
        self.builds_per_day = builds_per_day
        self.more_agents = more_agents if limited_agents else None
        self.slowdown = slowdown
        self.organization = make_organization(organization)
        self.clock: Callable[[], float] = time.time
        self._today = today
        self._shift = timedelta() if today is None or like is None else like - today
        self._lock = RLock()
        self._generated: OrderedDict[date, list[Build]] = OrderedDict()
        self._added: dict[date, list[RecordedBuild]] = {}
        self._added_pipelines: dict[str, dict[str, Any]] = {}
        self._deleted: set[str] = set()
        self.revision = 0
        self._small_build_count = 0

    def now_ms(self) -> int:
        """The clock's time in milliseconds since 1970."""
        return int(self.clock() * 1000)

    def first_and_last_day(self) -> tuple[date, date]:
        """The first and the last UTC day with generated builds; the last one is today."""
        last = self._today or day_of(self.now_ms())
        return last - timedelta(days=self.days), last

    def builds(self, day: date) -> list[Build]:
        """The day's generated builds with their complete histories, oldest first.

        Builds that are created later today are included, added builds are not.
        """
        with self._lock:
            generated = self._generated.get(day)
            if generated is None:
                generated = simulate_day(
                    self._organization_on(day),
                    self.seed,
                    self.builds_per_day,
                    day,
                    like=day + self._shift,
                    more_agents=self.more_agents,
                )
                self._evict(len(generated))
                self._generated[day] = generated
            self._generated.move_to_end(day)
            return generated

    def _organization_on(self, day: date) -> Organization:
        slowdown = self.slowdown
        if slowdown is None or day < slowdown.since:
            return self.organization
        return self.organization.with_slower_step(slowdown.slug, slowdown.key, slowdown.factor)

    def find(self, filters: ListingFilters, at_ms: int) -> Iterator[Entry]:
        """The builds that a listing shows at a given time, newest first.

        Days without matching builds are not simulated.
        """
        for day in self._candidate_days(filters):
            entries = self._entries(day, skip_generated=_finished_before(day, filters))
            begin, end = 0, len(entries)
            if filters.created_from is not None:
                begin = bisect_left(entries, filters.created_from, key=_created)
            if filters.created_to is not None:
                end = bisect_left(entries, filters.created_to, key=_created)
            for position in range(end - 1, begin - 1, -1):
                if matches(entries[position], filters, at_ms):
                    yield entries[position]

    def build(self, slug: str, number: int, at_ms: int) -> Entry | None:
        """The build with this pipeline and number at a given time, or None if there is none yet."""
        filters = ListingFilters(slug=slug)
        with self._lock:
            candidates: list[Entry] = [entry for day in self._added.values() for entry in day]
        for day in self._history_days():
            if number in build_numbers_on(day, self.builds_per_day):
                candidates += self.builds(day)
        for entry in candidates:
            if slug_and_number(entry) == (slug, number) and matches(entry, filters, at_ms):
                return entry
        return None

    def build_with_id(self, build_id: str, at_ms: int) -> Entry | None:
        """The build with this UUID at a given time, or None if there is none yet."""
        first, last = self.first_and_last_day()
        try:
            day = day_of(int(build_id.replace("-", "")[:12], 16))
        except (ValueError, OverflowError):
            return None
        with self._lock:
            found: list[Entry] = [entry for days in self._added.values() for entry in days]
        if first <= day <= last:
            found += self.builds(day)
        for entry in found:
            identifier = (
                entry.payload.get("id") if isinstance(entry, RecordedBuild) else entry.ref.id
            )
            if identifier == build_id and matches(entry, ListingFilters(), at_ms):
                return entry
        return None

    def pipelines(self) -> dict[str, dict[str, Any]]:
        """The API's pipeline objects by slug, including those of added builds."""
        with self._lock:
            generated = {slug: p.payload for slug, p in self.organization.pipelines.items()}
            return self._added_pipelines | generated

    def add_build(self, payload: dict[str, Any]) -> None:
        """Add an API build object, which is served from now on, whatever its dates.

        It replaces an added build with the same pipeline and number, and hides
        a generated build with the same id.

        Raises:
            ValueError: `payload` is not a build object.
        """
        entry = RecordedBuild.of(payload)
        with self._lock:
            day = self._added.setdefault(day_of(entry.created_ms), [])
            day[:] = [other for other in day if slug_and_number(other) != slug_and_number(entry)]
            day.append(entry)
            self.revision += 1
            self._added_pipelines.setdefault(entry.slug, payload["pipeline"])

    def delete_build(self, build_id: str) -> None:
        """Remove an added or generated build from listings."""
        with self._lock:
            self._deleted.add(build_id)
            self.revision += 1

    def finish_build_now(self) -> dict[str, Any]:
        """Add a new small build that has just finished. Returns its API object."""
        with self._lock:
            self._small_build_count += 1
            number = self._small_build_count
        now_ms = self.now_ms()
        build = _small_build_ending_at(now_ms, number, self.organization)
        payload = build_as_of(build, now_ms)
        assert payload is not None
        self.add_build(payload)
        return payload

    def _history_days(self) -> list[date]:
        first, last = self.first_and_last_day()
        return [first + timedelta(days=number) for number in range((last - first).days + 1)]

    def _candidate_days(self, filters: ListingFilters) -> list[date]:
        """The days that may have matching builds, newest first."""
        with self._lock:
            added = set(self._added)

        def may_match(day: date) -> bool:
            begin, end = day_start(day), day_start(day) + DAY
            if filters.created_from is not None and end <= filters.created_from:
                return False
            if filters.created_to is not None and begin >= filters.created_to:
                return False
            return day in added or not _finished_before(day, filters)

        return sorted(filter(may_match, added | set(self._history_days())), reverse=True)

    def _entries(self, day: date, *, skip_generated: bool) -> Sequence[Entry]:
        """The day's builds, oldest first; with `skip_generated` only the added ones."""
        first, last = self.first_and_last_day()
        generated: Sequence[Build] = (
            self.builds(day) if first <= day <= last and not skip_generated else ()
        )
        with self._lock:
            deleted = set(self._deleted)
            added = [e for e in self._added.get(day, ()) if e.payload.get("id") not in deleted]
        if not added and not deleted:
            return generated
        hidden = deleted | {entry.payload.get("id") for entry in added}
        shown = [build for build in generated if build.ref.id not in hidden]
        return sorted([*shown, *added], key=_created)

    def _evict(self, new_count: int) -> None:
        """Make room in the cache for a day with `new_count` builds."""
        cached_count = sum(map(len, self._generated.values()))
        while self._generated and cached_count + new_count > _MAX_CACHED_BUILDS:
            _, evicted = self._generated.popitem(last=False)
            cached_count -= len(evicted)


def _finished_before(day: date, filters: ListingFilters) -> bool:
    """Whether all generated builds of `day` finished before `filters.finished_from`."""
    finished_ms = day_start(day) + DAY + MAX_BUILD_LIFETIME
    return filters.finished_from is not None and finished_ms < filters.finished_from


def _created(entry: Entry) -> int:
    return entry.created_ms


def _small_build_ending_at(now_ms: int, number: int, organization: Organization) -> Build:
    """A passed build of some seconds that finished at `now_ms` or shortly before."""
    created_ms = now_ms - 10 * SECOND
    while True:
        build = _small_build(
            created_ms, Random(f"{organization.slug}/{number}/{now_ms}"), organization
        )
        build.ref.number = number
        excess_ms = build.phases[-1].at_ms - now_ms
        if excess_ms <= 0:
            return build
        # Agent waits depend on the hour, so the duration can change with the start.
        created_ms -= excess_ms


def _small_build(created_ms: int, rng: Random, organization: Organization) -> Build:
    pipeline = organization.pipelines[_ON_DEMAND_SLUG]
    change = random_change(rng, organization, pipeline, "ui")
    reference = Reference(timed_uuid(created_ms, rng), _ON_DEMAND_SLUG)
    build = Build(reference, pipeline, created_ms, change)
    simulation = BuildSimulation(
        build, Scenario.PASSES, rng, organization, trigger_build=lambda *_: None
    )
    finish(simulation.run(), rng, organization.pools)
    return build

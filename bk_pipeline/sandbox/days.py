"""All builds of one UTC day.

A day depends on nothing but the seed, the organization, the number of builds
and the day itself, so that every run of the sandbox shows the same past.
Triggered builds and rebuilds therefore stay within the day: what would come
after midnight does not happen.
"""

from __future__ import annotations

from datetime import date
from itertools import accumulate
from random import Random

from msgspec import structs

from bk_pipeline.sandbox.changes import Change, new_change
from bk_pipeline.sandbox.credentials import timed_uuid
from bk_pipeline.sandbox.organization import Organization, Pipeline
from bk_pipeline.sandbox.pipelines import BLUEPRINTS
from bk_pipeline.sandbox.run import Run
from bk_pipeline.sandbox.scenario import Fate, deal
from bk_pipeline.sandbox.timeline import Build, Reference
from bk_pipeline.sandbox.times import DAY, HOUR, MINUTE, builds_on, day_start, time_of_day

# There is nothing older. Build numbers are counted from here.
FIRST_DAY = date(2024, 1, 1)
# No build changes any more this long after its creation; see the test of that name.
LONGEST_LIFE = 3 * DAY

_SHARES = tuple(accumulate(blueprint.share for blueprint in BLUEPRINTS))
_SOURCES = (("webhook", "ui", "api"), (84, 93, 100))
# One triggered build in ten fails; one in ten was started for a branch and not a commit.
_RARE = 0.1


def builds_of_day(
    organization: Organization, seed: int, builds_per_day: int, day: date
) -> list[Build]:
    """The day's builds, oldest first, numbered within their pipelines."""
    if day < FIRST_DAY:
        return []
    return _DayUnderway(organization, seed, builds_per_day, day).builds()


def numbers_of(day: date, builds_per_day: int) -> range:
    """The build numbers that the day's builds take theirs from, in every pipeline."""
    # Room for the few builds that a day can have beyond its due.
    room = builds_per_day + 10
    first = (day - FIRST_DAY).days * room + 1
    return range(first, first + room)


class _DayUnderway:
    """A day while it is being made."""

    def __init__(self, organization: Organization, seed: int, per_day: int, day: date) -> None:
        self.organization = organization
        self.per_day = per_day
        self.day = day
        self.begin = day_start(day)
        self.rng = Random(f"{seed}/{organization.slug}/{per_day}/{day}")
        self.made: list[Build] = []

    def builds(self) -> list[Build]:
        wanted = builds_on(self.day, self.per_day)
        fates = deal(self.rng, wanted)
        while len(self.made) < wanted:
            self._root(next(fates))
        self.made.sort(key=lambda build: (build.created, build.ref.id))
        self._number()
        return self.made

    def _root(self, fate: Fate) -> None:
        """One build that a person, a webhook or a schedule started, and all that follow from it."""
        rng = self.rng
        blueprint = rng.choices(BLUEPRINTS, cum_weights=_SHARES)[0]
        pipeline = self.organization.pipelines[blueprint.slug]
        if blueprint.hours:
            created = self.begin + rng.choice(blueprint.hours) * HOUR + rng.randrange(4_000)
            source = "schedule"
        else:
            created = self.begin + time_of_day(rng)
            source = rng.choices(_SOURCES[0], cum_weights=_SOURCES[1])[0]
        change = new_change(rng, self.organization, pipeline, source)
        build = self._make(pipeline, created, fate, change)
        if fate is Fate.REBUILT:
            self._rebuild(build)

    def _make(
        self,
        pipeline: Pipeline,
        created: int,
        fate: Fate,
        change: Change,
        *,
        rebuilt_from: Reference | None = None,
        triggered_from: Reference | None = None,
    ) -> Build:
        build = Build(
            ref=Reference(timed_uuid(created, self.rng), pipeline.slug),
            pipeline=pipeline,
            created=created,
            change=change,
            rebuilt_from=rebuilt_from,
            triggered_from=triggered_from,
        )
        if fate is Fate.CANCELED_RUNNING:
            build.cancel_reason = self.rng.choice((None, "Superseded by a newer build"))
        Run(build, fate, self.rng, self.organization, self._spawn).play()
        self.made.append(build)
        return build

    def _spawn(self, slug: str, created: int, parent: Build) -> Build | None:
        pipeline = self.organization.pipelines[slug]
        if created >= self.begin + DAY:
            return None
        change = Change(
            source="trigger_job",
            commit="HEAD" if self.rng.random() < _RARE else parent.change.commit,
            branch=pipeline.blueprint.default_branch,
            message=parent.change.message,
            tag=None,
            creator=parent.change.creator,
            author=None,
            pull_request=None,
            merge_queue=None,
            env={},
            meta_data={"triggered-by": parent.pipeline.slug},
        )
        fate = Fate.FAILS if self.rng.random() < _RARE else Fate.PASSES
        return self._make(pipeline, created, fate, change, triggered_from=parent.ref)

    def _rebuild(self, original: Build) -> None:
        finished = original.phases[-1].finished or original.created
        created = finished + self.rng.randint(MINUTE, 20 * MINUTE)
        if created >= self.begin + DAY:
            return
        change = structs.replace(
            original.change, source="ui", creator=self.rng.choice(self.organization.people)
        )
        self._make(original.pipeline, created, Fate.PASSES, change, rebuilt_from=original.ref)

    def _number(self) -> None:
        """Numbers rise with creation and leave gaps, which Buildkite's may have too.

        A day's first number must not depend on how many builds came before
        it, so each day has room for more than it uses.
        """
        first = numbers_of(self.day, self.per_day)[0]
        taken = dict.fromkeys(self.organization.pipelines, first)
        for build in self.made:
            build.ref.number = taken[build.ref.slug]
            taken[build.ref.slug] += 1

"""Simulates all builds of one UTC day.

The builds of a day depend only on the seed, the organization, the number of
builds and the day, so every run of the sandbox shows the same history. A day
therefore cannot depend on the previous one: triggered builds and rebuilds that
would start after midnight are left out.
"""

from __future__ import annotations

from datetime import date
from itertools import accumulate
from random import Random

from msgspec import structs

from bk_pipeline.sandbox.agents import AgentQueues, Spawn, Task, agents_needed, finish
from bk_pipeline.sandbox.blueprint import Scenario, sample_scenarios
from bk_pipeline.sandbox.credentials import timed_uuid
from bk_pipeline.sandbox.organization import Organization, Pipeline, make_pool
from bk_pipeline.sandbox.pipelines import BLUEPRINTS, UPLOAD
from bk_pipeline.sandbox.simulation import BuildSimulation
from bk_pipeline.sandbox.timeline import Build, Change, Reference, random_change
from bk_pipeline.sandbox.times import (
    DAY,
    HOUR,
    MINUTE,
    build_count_on,
    day_start,
    random_time_of_day,
)

# The first day with builds. Build numbers are counted from here.
FIRST_DAY = date(2024, 1, 1)
# No build changes later than this after its creation.
MAX_BUILD_LIFETIME = 3 * DAY

_SHARES = tuple(accumulate(blueprint.weight for blueprint in BLUEPRINTS))
_SOURCES = (("webhook", "ui", "api"), (84, 93, 100))
# The share of triggered builds that fail, and of those started for a branch, not a commit.
_RARE_SHARE = 0.1
# Builds started by people, webhooks and schedules, of all; the others are triggered or rebuilds.
_ROOT_SHARE = 0.78


def simulate_day(
    organization: Organization,
    seed: int,
    builds_per_day: int,
    day: date,
    *,
    like: date | None = None,
    more_agents: int | None = None,
) -> list[Build]:
    """The builds of a day with their complete histories, oldest first.

    Args:
        organization: The organization.
        seed: The seed of the world.
        builds_per_day: Builds on a working day; weekends have fewer.
        day: The UTC day. Days before `FIRST_DAY` have no builds.
        like: The day whose builds happen on `day`. None for `day` itself.
        more_agents: If given, the builds of the day compete for a limited number of agents, of
            which each queue has that many more than it usually has. The number of builds is then
            not exactly `builds_per_day`.
    """
    if day < FIRST_DAY:
        return []
    builder = _DayBuilder(organization, seed, builds_per_day, day, like or day)
    return builder.builds() if more_agents is None else builder.competing_builds(more_agents)


def build_numbers_on(day: date, builds_per_day: int) -> range:
    """The range of build numbers reserved for a day in every pipeline."""
    # A day can have a few builds more, because of triggered builds and rebuilds.
    room = builds_per_day + 10
    first = (day - FIRST_DAY).days * room + 1
    return range(first, first + room)


class _DayBuilder:
    """Collects the builds of one day."""

    def __init__(
        self, organization: Organization, seed: int, per_day: int, day: date, like: date
    ) -> None:
        self.organization = organization
        self.per_day = per_day
        self.day = day
        self.build_count = build_count_on(like, per_day)
        self.begin_ms = day_start(day)
        self.rng = Random(f"{seed}/{organization.slug}/{per_day}/{like}")
        self.generated: list[Build] = []

    def builds(self) -> list[Build]:
        """All builds of the day in order of creation."""
        scenarios = sample_scenarios(self.rng, self.build_count)
        while len(self.generated) < self.build_count:
            finish(self._root_build(next(scenarios)), self.rng, self.organization.pools)
        return self._numbered()

    def competing_builds(self, more_agents: int) -> list[Build]:
        """All builds of the day in order of creation, with waits that come from too few agents."""
        numbers = agents_needed(BLUEPRINTS, self.per_day, UPLOAD.duration_s)
        pools = {
            (cluster, queue): make_pool(self.organization.slug, cluster, queue, size + more_agents)
            for (cluster, queue), size in numbers.items()
        }
        queues = AgentQueues(self.rng, pools)
        root_count = round(self.build_count * _ROOT_SHARE)
        scenarios = sample_scenarios(self.rng, root_count)
        for _ in range(root_count):
            queues.start(self._root_build(next(scenarios)))
        queues.run()
        return self._numbered()

    def _numbered(self) -> list[Build]:
        self.generated.sort(key=lambda build: (build.created_ms, build.ref.id))
        self._assign_numbers()
        return self.generated

    def _root_build(self, scenario: Scenario) -> Task[None]:
        """A build started by a person, webhook or schedule, and the builds that follow from it."""
        rng = self.rng
        blueprint = rng.choices(BLUEPRINTS, cum_weights=_SHARES)[0]
        pipeline = self.organization.pipelines[blueprint.slug]
        if blueprint.hours:
            created_ms = self.begin_ms + rng.choice(blueprint.hours) * HOUR + rng.randrange(4_000)
            source = "schedule"
        else:
            created_ms = self.begin_ms + random_time_of_day(rng)
            source = rng.choices(_SOURCES[0], cum_weights=_SOURCES[1])[0]
        change = random_change(rng, self.organization, pipeline, source)
        build, simulation = self._created(pipeline, created_ms, scenario, change)
        yield from simulation
        if scenario is Scenario.REBUILT:
            rebuild = self._rebuild(build)
            if rebuild is not None:
                yield Spawn(rebuild)

    def _created(
        self,
        pipeline: Pipeline,
        created_ms: int,
        scenario: Scenario,
        change: Change,
        *,
        rebuilt_from: Reference | None = None,
        triggered_from: Reference | None = None,
    ) -> tuple[Build, Task[None]]:
        """A build, and the task that simulates it."""
        build = Build(
            ref=Reference(timed_uuid(created_ms, self.rng), pipeline.slug),
            pipeline=pipeline,
            created_ms=created_ms,
            change=change,
            rebuilt_from=rebuilt_from,
            triggered_from=triggered_from,
        )
        if scenario is Scenario.CANCELED_RUNNING:
            build.cancel_reason = self.rng.choice((None, "Superseded by a newer build"))
        simulation = BuildSimulation(
            build, scenario, self.rng, self.organization, self._trigger_build
        )
        self.generated.append(build)
        return build, simulation.run()

    def _trigger_build(
        self, slug: str, created_ms: int, parent: Build
    ) -> tuple[Build, Task[None]] | None:
        pipeline = self.organization.pipelines[slug]
        if created_ms >= self.begin_ms + DAY:
            return None
        change = Change(
            source="trigger_job",
            commit="HEAD" if self.rng.random() < _RARE_SHARE else parent.change.commit,
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
        scenario = Scenario.FAILS if self.rng.random() < _RARE_SHARE else Scenario.PASSES
        return self._created(pipeline, created_ms, scenario, change, triggered_from=parent.ref)

    def _rebuild(self, original: Build) -> Task[None] | None:
        finished_ms = original.phases[-1].finished_ms or original.created_ms
        created_ms = finished_ms + self.rng.randint(MINUTE, 20 * MINUTE)
        if created_ms >= self.begin_ms + DAY:
            return None
        change = structs.replace(
            original.change, source="ui", creator=self.rng.choice(self.organization.people)
        )
        _, simulation = self._created(
            original.pipeline, created_ms, Scenario.PASSES, change, rebuilt_from=original.ref
        )
        return simulation

    def _assign_numbers(self) -> None:
        """Number the builds of each pipeline in order of creation.

        The first number must not depend on the number of earlier builds, so
        each day has its own range. The gaps are realistic: Buildkite's
        numbers can have gaps too.
        """
        first = build_numbers_on(self.day, self.per_day)[0]
        next_number = dict.fromkeys(self.organization.pipelines, first)
        for build in self.generated:
            build.ref.number = next_number[build.ref.slug]
            next_number[build.ref.slug] += 1

"""A small build that has just finished: what a user asks for to watch it arrive."""

from __future__ import annotations

from random import Random

from bk_pipeline.sandbox.changes import new_change
from bk_pipeline.sandbox.fates import Fate
from bk_pipeline.sandbox.identity import timed_uuid
from bk_pipeline.sandbox.moments import SECOND
from bk_pipeline.sandbox.organization import Organization
from bk_pipeline.sandbox.run import Run
from bk_pipeline.sandbox.timeline import Build, Reference

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

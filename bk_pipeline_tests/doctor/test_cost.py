from __future__ import annotations

from datetime import timedelta

import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.listing import PipelineFilter
from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.sampling import Rule, Sampling
from bk_pipeline.doctor.source import _describe_cost, cost_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.window import Window
from bk_pipeline_tests.doctor.conftest import NOON, TODAY

WEEK = Window(NOON - timedelta(days=7), NOON)


@pytest.fixture
def reckon(serve):
    """The estimate, and the builds that there really are."""

    def reckoned(world, globs=(), window=WEEK, sampling=None, **options):
        sandbox = serve(world=world, limits=False, **options)
        with BuildkiteClient(
            world.organization.slug,
            sandbox.buildkite_token,
            api_url=sandbox.url,
            pipelines=PipelineFilter(globs),
        ) as client:
            limits = {"clock": SystemClock(), "requests_per_minute": 48}
            cost = cost_of(client, window, sampling=sampling, **limits)
            every = [build for page in client.iter_builds(window) for build in page.builds]
        return cost, every

    return reckoned


def test_short_listing_is_counted(reckon):
    cost, builds = reckon(World(today=TODAY, days=2, builds_per_day=20))
    assert cost.exact
    assert cost.builds == len(builds)
    assert cost.requests >= 7
    assert cost.events > cost.spans > 5 * cost.builds


def test_only_what_the_sampling_rules_keep_costs_events(reckon):
    world = World(today=TODAY, days=2, builds_per_day=20)
    everything, _ = reckon(world)
    sampled, _ = reckon(world, sampling=Sampling((Rule(id="all", rate=10, state="*"),)))

    assert everything.sent == everything.spans == sampled.spans
    assert sampled.sent == pytest.approx(sampled.spans / 10, abs=1)
    assert sampled.events == pytest.approx(everything.events / 10, abs=1)
    assert (
        f"{sampled.spans:,} spans, of which BK_PIPELINE_SAMPLING keeps about {sampled.sent:,}"
        in _describe_cost(sampled, 2)
    )
    assert "SAMPLING" not in _describe_cost(everything, 2)


def test_pages_of_a_longer_listing_are_counted(reckon):
    cost, builds = reckon(World(today=TODAY, days=8, builds_per_day=100))
    assert not cost.exact
    assert cost.builds == pytest.approx(len(builds), abs=51)
    assert cost.requests == pytest.approx(len(builds) / 100 + 3.5, abs=2)
    assert cost.minutes >= cost.requests / 48


def test_very_long_listing_is_sampled(reckon):
    world = World(today=TODAY, days=8, builds_per_day=300)
    cost, builds = reckon(world, max_depth=200)
    assert not cost.exact
    assert len(builds) / 2 < cost.builds < len(builds) * 2


def test_named_pipelines_are_listed_separately(reckon):
    world = World(today=TODAY, days=2, builds_per_day=20)
    names = tuple(world.organization.pipelines)[:2]
    cost, builds = reckon(world, names)
    assert cost.exact
    assert cost.builds == len(builds)
    assert cost.requests == 14


def test_share_of_pipelines_selected_by_pattern_is_estimated(reckon):
    world = World(today=TODAY, days=2, builds_per_day=20)
    first, *_ = world.organization.pipelines
    cost, builds = reckon(world, (f"!{first}",))
    assert cost.builds == pytest.approx(len(builds), rel=0.3)


def test_days_without_builds_cost_one_request_each(reckon):
    before = Window(WEEK.start - timedelta(days=300), WEEK.start - timedelta(days=290))
    cost, builds = reckon(World(today=TODAY, days=1), window=before)
    assert (cost.builds, cost.spans, cost.requests) == (len(builds), 0, 10)


def test_builds_that_samples_miss_are_still_counted(reckon):
    # All of a month's builds were made on one day, between the moments that are looked at.
    month = Window(NOON - timedelta(days=30), NOON)
    quiet = World(today=TODAY - timedelta(days=12), days=1, builds_per_day=300)
    cost, builds = reckon(quiet, window=month, max_depth=200)
    assert len(builds) > 200
    assert 100 <= cost.builds <= 2 * len(builds)


def test_excluded_builds_are_distinguished_from_no_builds(reckon):
    world = World(today=TODAY, days=2, builds_per_day=20)
    cost, builds = reckon(world, ("nothing-*",))
    assert (cost.builds, builds) == (0, [])
    assert cost.seen > 20

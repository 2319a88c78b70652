"""Requests for what Buildkite does not have give a clear error or an empty day."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest

from bk_pipeline.defs.runs import materialize_days
from bk_pipeline_tests.worlds import stage


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "scope read_builds"),
        ({"BUILDKITE_ORGANIZATION_SLUG": "elsewhere"}, "no organization elsewhere"),
        ({"BK_PIPELINE_PIPELINES": "web,gone"}, "no pipeline gone"),
    ],
    ids=["token without the scope", "unknown organization", "unknown pipeline"],
)
def test_missing_or_forbidden_organization_fails_at_once(tmp_path, instance, settings, expected):
    with stage(tmp_path, **settings) as scene:
        if not settings:
            token = scene.sandbox.add_token(scopes=["read_artifacts"])
            settings = {**scene.services.settings.environment, "BUILDKITE_API_TOKEN": token}
            scene.services.settings = type(scene.services.settings).of(**settings)
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        raw = scene.services.raw()

        assert expected in run.error
        assert scene.sandbox.buildkite.request_count <= 3
        assert raw.watermark(scene.days[0]) is None


def test_organization_without_builds_has_empty_days(tmp_path, instance):
    with stage(tmp_path, builds_per_day=0) as scene:
        runs = list(materialize_days(scene.services, scene.days, instance=instance))
        assert [(run.error, run.results["raw_builds"].stored) for run in runs] == [(None, 0)]
        assert scene.sandbox.honeycomb.event_count == 0


def test_day_before_the_retention_is_empty(tmp_path, instance):
    with stage(tmp_path, BK_PIPELINE_START_DATE="2020-01-01") as scene:
        first, _ = scene.sandbox.world.first_and_last_day()
        day = (first - timedelta(days=400)).isoformat()
        [run] = materialize_days(scene.services, [day], instance=instance)
        assert (run.error, run.results["raw_builds"].listed) == (None, 0)
        assert scene.sandbox.buildkite.request_count == 1

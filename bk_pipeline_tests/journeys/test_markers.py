"""Markers of a month that is materialized several times."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import dagster as dg
import pytest

from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.pipeline import extract_day, place_markers, transform_day
from bk_pipeline.spans.table import rows
from bk_pipeline_tests.worlds import stage

RULES = """\
[colors]
deploy = "#7b1fa2"

[[rule]]
id = "failed-main"
branch = "main"
state = "failed"
type = "failed"
at = "finish"
message = "{buildkite.pipeline.slug} #{buildkite.build.number} failed"
dataset = "__all__"

[[rule]]
id = "deploys"
on = "job"
job_name = "*eploy*"
state = "passed"
type = "deploy"
at = "start-to-finish"
message = "{buildkite.pipeline.slug}: {buildkite.job.label}"
dataset = "__all__"
"""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "markers.toml"
    path.write_text(RULES)
    return str(path)


def materialize(scene, *, full_refresh=False):
    """Process all days without Dagster; return the total counts of marker operations."""
    services = scene.services
    total: Counter[str] = Counter()
    with services.buildkite(on_wait=print) as client, services.marking(print) as marking:
        for key in scene.days:
            extract_day(
                day_of(key, services.settings),
                client=client,
                raw=services.raw(),
                clock=services.clock,
                full_refresh=full_refresh,
            )
            transform_day(key, raw=services.raw(), spans=services.spans())
            total.update(asdict(place_markers(key, marking)))
    return +total


def expected_types(scene) -> Counter[str]:
    """Compute expected results independently, from the span table only."""
    found = {}
    store = scene.services.spans()
    for day in scene.days:
        for part in store.parts(day):
            for table in store.tables(day, part):
                for span in rows(table):
                    found[span["trace_id"], span["span_id"]] = span
    types: Counter[str] = Counter()
    for span in found.values():
        has = span["attributes"]
        if span["name"] == "buildkite.build":
            failed = has.get("buildkite.build.state") == "failed"
            types["failed"] += failed and has.get("buildkite.build.branch") == "main"
        elif span["name"] == "buildkite.job":
            passed = has.get("buildkite.job.state") == "passed"
            types["deploy"] += passed and "eploy" in has.get("buildkite.job.label", "")
    return types


def test_month_materialized_twice_has_each_marker_once(tmp_path, rules):
    with stage(tmp_path / "data", days=30, builds_per_day=10, BK_PIPELINE_MARKERS=rules) as scene:
        first = materialize(scene)
        stored = scene.sandbox.honeycomb.markers.markers

        second = materialize(scene)
        third = materialize(scene, full_refresh=True)

        expected = expected_types(scene)
        assert Counter(one["type"] for one in stored) == expected
        assert min(expected["failed"], expected["deploy"]) > 0
        assert first == {"created": expected.total(), "colors_set": 1}
        assert (second, third) == ({}, {"unchanged": expected.total()})
        assert scene.sandbox.honeycomb.markers.markers == stored
        assert scene.sandbox.honeycomb.markers.colors == {("__all__", "deploy"): "#7b1fa2"}


def test_markers_asset_uses_its_dataset_and_reports_a_missing_one(tmp_path, rules):
    with (
        stage(tmp_path / "data", BK_PIPELINE_MARKERS=rules) as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        passed = RULES.replace("failed", "passed").replace('branch = "main"', "")
        (tmp_path / "markers.toml").write_text(passed.replace('dataset = "__all__"', ""))
        [first] = materialize_days(scene.services, scene.days, instance=instance)
        (tmp_path / "markers.toml").write_text(passed.replace("__all__", "nowhere"))
        [second] = materialize_days(scene.services, scene.days, instance=instance)

        assert first.error is None
        created = first.results["honeycomb_markers"].created
        assert created == len(scene.sandbox.honeycomb.markers.markers) > 0
        assert second.error is not None
        assert "has no dataset nowhere (404: dataset not found)" in second.error

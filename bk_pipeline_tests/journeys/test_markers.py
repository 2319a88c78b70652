"""Markers of a month that is materialized several times."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.pipeline import (
    extract_day,
    find_changes,
    place_markers,
    place_regression_markers,
    plan_markers,
    prune_markers,
    transform_day,
)
from bk_pipeline.spans.table import rows
from bk_pipeline_tests.cli.test_changes import A_DAY, DAYS, FIRST, LAST, SLOW_FROM, build, store
from bk_pipeline_tests.worlds import ShiftedClock, stage

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


REGRESSIONS = """\
[[rule]]
id = "regressions"
regression = true
pipeline = "w*"
type = "slower"
message = "{regression.subject} {regression.effect}: {regression.before}, then {regression.after}"
dataset = "__all__"
"""
BEGAN = FIRST + timedelta(days=SLOW_FROM // A_DAY)


@pytest.fixture
def slower(tmp_path):
    """A scene with two pipelines whose step `test` became slower, and a rule for one of them."""
    (tmp_path / "markers.toml").write_text(REGRESSIONS)
    clock = ShiftedClock(datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC))
    settings = {
        "BK_PIPELINE_MARKERS": str(tmp_path / "markers.toml"),
        "BK_PIPELINE_START_DATE": str(FIRST),
    }
    with stage(tmp_path / "data", clock=clock, **settings) as scene:
        folder = scene.services.settings.data_dir
        numbers = range(1, DAYS * A_DAY)
        store(
            folder,
            [
                build(one, slug=slug, slow=one >= SLOW_FROM)
                for one in numbers
                for slug in ("web", "api")
            ],
        )
        yield scene


def night(scene, day):
    """Find the changes of the period that ends with `day`, and place their markers."""
    app = scene.services
    find_changes(str(day), spans=app.spans(), stats=app.stats(), zone=app.settings.timezone)
    with app.marking(print) as marking:
        return asdict(place_regression_markers(str(day), marking))


def test_regression_has_one_marker_however_often_it_is_found(slower):
    assert night(slower, BEGAN)["created"] == 0  # too early to tell

    counts = [night(slower, BEGAN + timedelta(days=days)) for days in (4, 5, 7, 7, 8)]

    assert [one["created"] for one in counts] == [2, 0, 0, 0, 0]
    first = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC) + timedelta(hours=SLOW_FROM)
    stored = slower.sandbox.honeycomb.markers.markers
    assert len(stored) == 2
    for one in stored:
        assert abs(one["start_time"] - first.timestamp()) <= 2 * 3600
        assert one["url"].startswith("https://buildkite.com/acme/web/builds/")
        assert one["type"] == "slower"
    messages = sorted(one["message"].split(" takes ")[0] for one in stored)
    assert messages == ["web", "web / test"]
    assert all(
        " % longer: " in one["message"] and ", then 7 m " in one["message"] for one in stored
    )

    with slower.services.marking(print) as marking:
        # The asset of the day on which it began agrees, and so does `markers plan`.
        for whole in (False, True):
            placed = place_markers(str(BEGAN), marking, whole=whole)
            assert (placed.created, placed.changed) == (0, 0)
        planned = plan_markers(str(BEGAN), marking).plan
        assert (planned.unchanged, planned.create, planned.delete) == (2, [], [])


def test_regression_markers_survive_a_lost_ledger_and_go_with_their_rule(slower, tmp_path):
    night(slower, LAST)
    stored = slower.sandbox.honeycomb.markers.markers
    assert len(stored) == 2
    (tmp_path / "data" / "ledger.sqlite").unlink()

    assert night(slower, LAST)["found_again"] == 2
    assert slower.sandbox.honeycomb.markers.markers == stored

    (tmp_path / "markers.toml").write_text(
        REGRESSIONS.replace("regression =", "#").replace("{", "{{").replace("}", "}}")
    )
    with slower.services.marking(print) as marking:
        assert len(plan_markers(str(BEGAN), marking).plan.delete) == 2
    (tmp_path / "markers.toml").write_text("")
    with slower.services.marking(print) as marking:
        assert prune_markers(str(BEGAN), marking).deleted == 2
    assert slower.sandbox.honeycomb.markers.markers == []


def test_the_nightly_job_places_the_markers_of_regressions(slower):
    job = build_definitions(slower.services).resolve_job_def("find_changes")
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(instance=instance, partition_key=str(LAST))
    [event] = done.asset_materializations_for_node("regression_markers")
    assert event.metadata["markers created"].value == 2
    assert len(slower.sandbox.honeycomb.markers.markers) == 2


def test_without_a_rule_for_regressions_none_is_placed(slower, tmp_path):
    (tmp_path / "markers.toml").write_text(RULES)
    assert not any(night(slower, LAST).values())
    with slower.services.marking(print) as marking:
        assert not marking.lacks_changes

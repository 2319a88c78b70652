"""`make dev` and `dg dev` in the checkout, controlled over GraphQL as the UI does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline_tests.dagster_dev import PROJECT, dagster_dev, served, wait_for
from bk_pipeline_tests.worlds import stage

ASSETS = ("raw_builds", "spans", "honeycomb_events")


@pytest.fixture
def scene(tmp_path):
    with stage(tmp_path / "data", days=3, builds_per_day=10, live=True) as made:
        yield made


@pytest.fixture
def dagster(scene, tmp_path):
    settings = environment(scene.sandbox, scene.url) | {
        "BK_PIPELINE_DATA_DIR": str(tmp_path / "data"),
        "BK_PIPELINE_SENSOR_INTERVAL_S": "5",
    }
    with dagster_dev(tmp_path, settings, assets=ASSETS) as running:
        yield running


# On a quiet machine it takes 100 s, and most of that is the backfill daemon's fixed tick.
@pytest.mark.timeout(1_200)
def test_materialization_backfill_and_sensor_deliver_each_build_once(scene, dagster, tmp_path):
    honeycomb = scene.sandbox.honeycomb
    # Dagster does not warn that it ignores the project's dagster.yaml, which was copied.
    assert "will not be used" not in (tmp_path / "dagster.log").read_text()

    # One day, as the Materialize button does it.
    day, *_ = scene.days
    run_id = dagster.materialize(day)
    wait_for(lambda: dagster.run_status(run_id) in {"SUCCESS", "FAILURE"})
    assert dagster.run_status(run_id) == "SUCCESS"
    assert dagster.materialized("honeycomb_events") == {day}
    first_day = honeycomb.event_count
    assert first_day > 0

    # A backfill of all days, including the one that is done.
    backfill_id = dagster.backfill(scene.days)
    wait_for(lambda: dagster.backfill_status(backfill_id).startswith("COMPLETED"))
    assert dagster.backfill_status(backfill_id) == "COMPLETED_SUCCESS"
    assert dagster.materialized("honeycomb_events") == set(scene.days)
    assert honeycomb.event_count > first_day
    assert honeycomb.duplicate_count == 0

    # The sensor: a build that finishes is delivered within two ticks, and once.
    dagster.start_sensor("builds_sensor")
    build = scene.sandbox.world.finish_build_now()
    trace = build["id"].replace("-", "")

    def delivered() -> list[str]:
        events = [one.data for one in honeycomb.events]
        return [one["trace.span_id"] for one in events if one["trace.trace_id"] == trace]

    wait_for(lambda: bool(delivered()))
    ticked_again = scene.sandbox.buildkite.request_count + 3
    wait_for(lambda: scene.sandbox.buildkite.request_count >= ticked_again)
    assert len(delivered()) == len(set(delivered())) > 1
    assert honeycomb.duplicate_count == 0


def test_dg_dev_loads_the_checkout_and_leaves_no_process(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((PROJECT / "dagster.yaml").read_bytes())
    command = [str(Path(sys.executable).with_name("dg")), "dev"]
    env = os.environ | {"DAGSTER_HOME": str(home)}

    with served(command, tmp_path, env=env, cwd=PROJECT) as dagster:
        [location] = dagster.locations()
        found = dagster.asset_keys()

    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation", location
    assert location["loadStatus"] == "LOADED"
    assert {"raw_builds", "spans", "build_stats"} <= found

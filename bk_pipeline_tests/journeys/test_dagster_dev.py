"""`dagster dev` as a user has it, driven as the UI drives it: over its GraphQL."""

from __future__ import annotations

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline_tests.dagster_dev import dagster_dev, wait_for
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
def test_a_day_materialized_by_hand_a_backfill_and_the_sensor(scene, dagster, tmp_path):
    honeycomb = scene.sandbox.honeycomb
    # The instance is as the project's dagster.yaml wants it, and Dagster does not say otherwise.
    assert "will not be used" not in (tmp_path / "dagster.log").read_text()

    # One day, as the Materialize button asks for it.
    day, *_ = scene.days
    run_id = dagster.materialize(day)
    wait_for(lambda: dagster.run_status(run_id) in {"SUCCESS", "FAILURE"})
    assert dagster.run_status(run_id) == "SUCCESS"
    assert dagster.materialized("honeycomb_events") == {day}
    first_day = honeycomb.event_count
    assert first_day > 0

    # A backfill over all days, the done one too.
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

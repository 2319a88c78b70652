from __future__ import annotations

import dagster as dg
import msgspec
import pytest

from bk_pipeline.defs.code_location import code_location
from bk_pipeline.defs.sensors import Cursor
from bk_pipeline.errors import ServiceUnavailable, TokenRefused
from bk_pipeline.settings import Settings
from bk_pipeline_tests.worlds import stage


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def tick(scene, instance, cursor=None):
    """One evaluation of the sensor, as the daemon would do it."""
    definitions = code_location(scene.services.settings)
    context = dg.build_sensor_context(instance, cursor=cursor, definitions=definitions)
    return definitions.resolve_sensor_def("builds_sensor").evaluate_tick(context)


def days(result) -> list[str]:
    return [request.partition_key for request in result.run_requests]


def settle(scene, instance) -> str:
    """The cursor once everything that the world holds has been seen."""
    return tick(scene, instance).cursor


def test_a_newly_finished_build_asks_for_a_run_of_its_day_once(tmp_path, instance):
    with stage(tmp_path) as scene:
        cursor = settle(scene, instance)
        build = scene.sandbox.world.finish_build_now()
        first = tick(scene, instance, cursor)
        assert days(first) == [build["created_at"][:10]]
        second = tick(scene, instance, first.cursor)
        assert days(second) == []
        assert "No build has finished" in second.skip_message


def test_an_idle_tick_costs_one_request(tmp_path, instance):
    with stage(tmp_path) as scene:
        cursor = settle(scene, instance)
        before = scene.sandbox.buildkite.request_count
        tick(scene, instance, cursor)
        assert scene.sandbox.buildkite.request_count == before + 1


def test_a_build_that_finishes_again_is_new_again(tmp_path, instance):
    with stage(tmp_path) as scene:
        build = scene.sandbox.world.finish_build_now()
        cursor = msgspec.json.decode(tick(scene, instance).cursor, type=Cursor)
        assert build["id"] in cursor.seen
        cursor.seen[build["id"]] -= 1
        again = tick(scene, instance, msgspec.json.encode(cursor).decode())
        assert days(again) == [build["created_at"][:10]]


def test_a_day_whose_run_is_under_way_waits_for_the_next_tick(tmp_path, instance):
    with stage(tmp_path) as scene:
        cursor = settle(scene, instance)
        day = scene.sandbox.world.finish_build_now()["created_at"][:10]
        run = instance.create_run_for_job(
            code_location(scene.services.settings).resolve_job_def("sync_day"),
            tags={"dagster/partition": day},
            status=dg.DagsterRunStatus.STARTED,
        )
        busy = tick(scene, instance, cursor)
        assert days(busy) == []
        instance.delete_run(run.run_id)
        assert days(tick(scene, instance, busy.cursor)) == [day]


def test_builds_from_before_the_first_day_are_left_alone(tmp_path, instance):
    with stage(tmp_path, BK_PIPELINE_START_DATE="2099-01-01") as scene:
        scene.sandbox.world.finish_build_now()
        assert days(tick(scene, instance)) == []


def test_a_requested_run_delivers_the_build(tmp_path, instance):
    with stage(tmp_path) as scene:
        build = scene.sandbox.world.finish_build_now()
        definitions = code_location(scene.services.settings)
        # Builds of yesterday may have finished within the hour as well.
        day = build["created_at"][:10]
        assert day in days(tick(scene, instance))
        job = definitions.resolve_job_def("sync_day")
        assert job.execute_in_process(partition_key=day, instance=instance).success
        traces = {event.data["trace.trace_id"] for event in scene.sandbox.honeycomb.events}
        assert build["id"].replace("-", "") in traces
        assert scene.sandbox.honeycomb.duplicate_count == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [({"status": 401}, TokenRefused), ({"status": 503}, ServiceUnavailable)],
    ids=["token refused", "service down"],
)
def test_a_tick_that_fails_says_why_and_leaves_the_cursor(tmp_path, instance, fault, error):
    with stage(tmp_path, BK_PIPELINE_HTTP_DEADLINE_S="0") as scene:
        scene.sandbox.faults.order("buildkite", "status", **fault)
        with pytest.raises(error):
            tick(scene, instance)


def test_the_sensor_without_a_token_names_the_variable(instance):
    definitions = code_location(Settings.of())
    context = dg.build_sensor_context(instance, definitions=definitions)
    with pytest.raises(Exception, match="BUILDKITE_API_TOKEN is not set"):
        definitions.resolve_sensor_def("builds_sensor").evaluate_tick(context)

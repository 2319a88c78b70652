from __future__ import annotations

from datetime import datetime, timedelta

import dagster as dg
import msgspec
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.daily_asset import TickFailed
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.sensors import Cursor
from bk_pipeline.errors import ServiceUnavailable, TokenRefused
from bk_pipeline.pipeline.newly_finished import PollCursor
from bk_pipeline.settings import Settings
from bk_pipeline_tests.worlds import stage

FAILURE, SUCCESS = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def tick(scene, instance, cursor=None):
    """One evaluation of the sensor, as the daemon would do it."""
    definitions = build_definitions(scene.services)
    context = dg.build_sensor_context(instance, cursor=cursor, definitions=definitions)
    return definitions.resolve_sensor_def("builds_sensor").evaluate_tick(context)


def days(result) -> list[str]:
    return [request.partition_key for request in result.run_requests]


def settle(scene, instance) -> str:
    """The cursor once everything that the world holds has been seen and its runs are over."""
    return tick(scene, instance, tick(scene, instance).cursor).cursor


def read(result) -> Cursor:
    return msgspec.json.decode(result.cursor, type=Cursor)


def since(moment: datetime) -> str:
    return msgspec.json.encode(Cursor(PollCursor(moment))).decode()


def note_run(scene, instance, day, status) -> None:
    """A run of the day, as the daemon makes one, which has come to `status`."""
    job = build_definitions(scene.services).resolve_job_def("sync_day")
    instance.create_run_for_job(job, tags={"dagster/partition": day}, status=status)


def test_newly_finished_build_requests_one_run_of_its_day(tmp_path, instance):
    with stage(tmp_path) as scene:
        cursor = settle(scene, instance)
        build = scene.sandbox.world.finish_build_now()
        first = tick(scene, instance, cursor)
        assert days(first) == [build["created_at"][:10]]
        second = tick(scene, instance, first.cursor)
        assert days(second) == []
        assert second.skip_message == "No build has finished since the last tick."


def test_idle_tick_costs_one_request(tmp_path, instance):
    with stage(tmp_path) as scene:
        cursor = settle(scene, instance)
        before = scene.sandbox.buildkite.request_count
        tick(scene, instance, cursor)
        assert scene.sandbox.buildkite.request_count == before + 1


def test_day_with_an_active_run_waits_for_its_end(tmp_path, instance):
    with stage(tmp_path) as scene:
        cursor = settle(scene, instance)
        day = scene.sandbox.world.finish_build_now()["created_at"][:10]
        note_run(scene, instance, day, dg.DagsterRunStatus.STARTED)
        busy = tick(scene, instance, cursor)
        assert days(busy) == []
        assert busy.skip_message == f"{day} waits for its run that is in progress."
        [run] = instance.get_runs()
        instance.report_run_failed(run)
        assert days(tick(scene, instance, busy.cursor)) == [day]


def test_builds_from_before_the_first_day_are_left_alone(tmp_path, instance):
    with stage(tmp_path, BK_PIPELINE_START_DATE="2099-01-01") as scene:
        scene.sandbox.world.finish_build_now()
        assert days(tick(scene, instance)) == []


def test_builds_that_were_created_tomorrow_wait_for_it(tmp_path, instance):
    with stage(tmp_path) as scene:
        cursor = settle(scene, instance)
        build = scene.sandbox.world.finish_build_now()
        moment = scene.clock.now() + timedelta(days=1)
        build |= {"number": 99, "id": build["id"][::-1], "created_at": moment.isoformat()}
        scene.sandbox.world.add_build(build)
        assert moment.date().isoformat() not in days(tick(scene, instance, cursor))


def test_requested_run_delivers_the_build(tmp_path, instance):
    with stage(tmp_path) as scene:
        build = scene.sandbox.world.finish_build_now()
        definitions = build_definitions(scene.services)
        day = build["created_at"][:10]
        assert day in days(tick(scene, instance))
        job = definitions.resolve_job_def("sync_day")
        assert job.execute_in_process(partition_key=day, instance=instance).success
        traces = {event.data["trace.trace_id"] for event in scene.sandbox.honeycomb.events}
        assert build["id"].replace("-", "") in traces
        assert scene.sandbox.honeycomb.duplicate_count == 0


def test_sensor_catches_up_over_several_ticks(tmp_path, instance):
    with stage(tmp_path, days=25, builds_per_day=200) as scene:
        asked: list[str] = []
        result = tick(scene, instance, since(scene.clock.now() - timedelta(days=26)))
        ticks = 1
        while read(result).place.backlog or read(result).wanted:
            asked += days(result)
            requests = scene.sandbox.buildkite.request_count
            result = tick(scene, instance, result.cursor)
            assert scene.sandbox.buildkite.request_count - requests <= 16
            ticks += 1
            assert ticks < 10
        assert set(asked) == {*scene.days, scene.today}
        assert len(asked) == len(set(asked))
        assert ticks >= 3
        assert days(result) == []


def test_failed_run_is_requested_again_with_backoff(tmp_path, instance, clock):
    with stage(tmp_path, clock=clock) as scene:
        cursor = settle(scene, instance)
        day = scene.sandbox.world.finish_build_now()["created_at"][:10]
        clock.moment += timedelta(seconds=30)
        result = tick(scene, instance, cursor)
        began, asked = clock.moment, []
        for _ in range(600):
            if days(result):
                assert days(result) == [day]
                asked.append(round((clock.moment - began).total_seconds() / 60))
                note_run(scene, instance, day, FAILURE)
            if not read(result).wanted:
                break
            clock.moment += timedelta(minutes=1)
            result = tick(scene, instance, result.cursor)
        assert asked == [0, 2, 5, 10, 19, 35, 51, 67]
        assert result.skip_message == (
            f"{day}: 8 runs in a row have failed or were canceled. It is left to "
            "nightly_reconcile; the last run says why."
        )


def test_canceled_run_loses_no_build(tmp_path, instance, clock):
    with stage(tmp_path, clock=clock) as scene:
        cursor = settle(scene, instance)
        build = scene.sandbox.world.finish_build_now()
        day = build["created_at"][:10]
        clock.moment += timedelta(seconds=30)
        result = tick(scene, instance, cursor)
        note_run(scene, instance, day, dg.DagsterRunStatus.CANCELED)
        result = tick(scene, instance, result.cursor)
        assert days(result) == []
        assert "(1 in a row). Another is requested from" in result.skip_message
        clock.moment += timedelta(minutes=1)
        result = tick(scene, instance, result.cursor)
        assert days(result) == [day]
        job = build_definitions(scene.services).resolve_job_def("sync_day")
        assert job.execute_in_process(partition_key=day, instance=instance).success
        result = tick(scene, instance, result.cursor)
        assert days(result) == []
        assert read(result).wanted == {}
        traces = {event.data["trace.trace_id"] for event in scene.sandbox.honeycomb.events}
        assert build["id"].replace("-", "") in traces


@pytest.mark.parametrize(
    ("fault", "error"),
    [({"status": 401}, TokenRefused), ({"status": 503}, ServiceUnavailable)],
    ids=["token refused", "service down"],
)
def test_failed_tick_says_what_to_do(tmp_path, instance, fault, error):
    with stage(tmp_path, BK_PIPELINE_HTTP_DEADLINE_S="0") as scene:
        scene.sandbox.faults.inject("buildkite", "status", **fault)
        with pytest.raises(TickFailed) as caught:
            tick(scene, instance)
        assert isinstance(caught.value.__cause__, error)
        assert str(caught.value) == str(caught.value.__cause__)


def test_builds_finished_during_failed_ticks_are_found_later(tmp_path, instance):
    with stage(tmp_path, BK_PIPELINE_HTTP_DEADLINE_S="0") as scene:
        cursor = settle(scene, instance)
        scene.sandbox.faults.inject("buildkite", "status", status=503, count=3)
        build = scene.sandbox.world.finish_build_now()
        for _ in range(3):
            with pytest.raises(TickFailed):
                tick(scene, instance, cursor)
        assert days(tick(scene, instance, cursor)) == [build["created_at"][:10]]


def test_exhausted_quota_skips_the_tick(tmp_path, instance, clock):
    with stage(tmp_path, clock=clock, limits=True) as scene:
        cursor = settle(scene, instance)
        with scene.services.buildkite(str) as client:
            while not client._api._quota.pause_s(clock.monotonic()):
                client.organization_visible()
        # What a backfill leaves is enough for two ticks: those of the minute until the reset.
        for _ in range(2):
            cursor = tick(scene, instance, cursor).cursor
        assert scene.sandbox.buildkite.request_count == 50
        result = tick(scene, instance, cursor)
        assert days(result) == []
        assert result.skip_message.endswith("The next tick asks again.")
        assert read(result).place == msgspec.json.decode(cursor, type=Cursor).place
        assert clock.slept == []


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"since":"2026-11-20T10:00:00Z","seen":{}}', '{"place":{"since":1}}']
)
def test_unreadable_cursor_is_reset_and_reported(tmp_path, instance, text):
    with stage(tmp_path) as scene:
        build = scene.sandbox.world.finish_build_now()
        result = tick(scene, instance, text)
        assert build["created_at"][:10] in days(result)
        assert read(result).place.since > scene.clock.now() - timedelta(hours=1)


def test_sensor_without_a_token_names_the_variable(instance):
    definitions = build_definitions(App(Settings.of()))
    context = dg.build_sensor_context(instance, definitions=definitions)
    with pytest.raises(TickFailed, match="BUILDKITE_API_TOKEN is not set"):
        definitions.resolve_sensor_def("builds_sensor").evaluate_tick(context)

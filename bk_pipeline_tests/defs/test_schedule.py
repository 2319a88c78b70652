from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.settings import Settings
from bk_pipeline_tests.defs.test_deployments import EXAMPLE
from bk_pipeline_tests.worlds import stage


@pytest.fixture
def instance(tmp_path):
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


def night(definitions, moment, instance):
    """What the schedule asks for at `moment`."""
    context = dg.build_schedule_context(
        instance, scheduled_execution_time=moment, repository_def=definitions.get_repository_def()
    )
    return definitions.resolve_schedule_def("nightly_reconcile").evaluate_tick(context)


def requests_at(moment, instance, **settings):
    definitions = build_definitions(
        App(Settings.of(BK_PIPELINE_START_DATE="2026-01-01", **settings))
    )
    return night(definitions, moment, instance).run_requests


def days(requests) -> list[str]:
    return [request.partition_key for request in requests]


def test_last_complete_days_are_requested_newest_first(instance):
    moment = datetime(2026, 11, 20, 4, 15, tzinfo=UTC)
    assert days(requests_at(moment, instance)) == ["2026-11-19", "2026-11-18", "2026-11-17"]
    one = requests_at(moment, instance, BK_PIPELINE_NIGHTLY_DAYS="1")
    assert days(one) == ["2026-11-19"]


def test_days_are_those_of_the_time_zone(instance):
    zone = ZoneInfo("Pacific/Auckland")
    moment = datetime(2026, 11, 20, 4, 15, tzinfo=zone).astimezone(UTC)
    assert moment.day == 19
    found = requests_at(moment, instance, BK_PIPELINE_TIMEZONE="Pacific/Auckland")
    assert days(found) == ["2026-11-19", "2026-11-18", "2026-11-17"]


def test_days_before_the_first_are_left_out(instance):
    moment = datetime(2026, 1, 3, 4, 15, tzinfo=UTC)
    assert days(requests_at(moment, instance)) == ["2026-01-02", "2026-01-01"]


def test_schedule_is_skipped_with_a_reason_without_complete_days(instance):
    definitions = build_definitions(App(Settings.of(BK_PIPELINE_START_DATE="2026-11-20")))
    found = night(definitions, datetime(2026, 11, 20, 4, 15, tzinfo=UTC), instance)
    assert found.run_requests == []
    assert "BK_PIPELINE_START_DATE (2026-11-20)" in found.skip_message


def test_nightly_reconcile_is_off_by_default():
    schedule = build_definitions(App(Settings.of())).resolve_schedule_def("nightly_reconcile")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


@pytest.fixture
def scene(tmp_path):
    with stage(tmp_path, days=2, builds_per_day=33) as made:
        yield made


@pytest.fixture
def nightly(scene, instance):
    """Runs what the schedule asks for, as the daemon would; the rows of new parts by asset."""

    def run() -> dict[str, int]:
        definitions = build_definitions(scene.services)
        found = night(definitions, scene.clock.now() + timedelta(minutes=1), instance)
        job = definitions.resolve_job_def("sync_day")
        counts = dict.fromkeys(("builds stored", "new files", "accepted"), 0)
        assert sorted(days(found.run_requests)) == scene.days
        for request in found.run_requests:
            done = job.execute_in_process(
                run_config=request.run_config,
                partition_key=request.partition_key,
                instance=instance,
            )
            for event in done.get_asset_materialization_events():
                for label, value in event.materialization.metadata.items():
                    if label in counts:
                        counts[label] += value.value
        return counts

    return run


def test_night_with_nothing_missing_writes_and_sends_nothing(scene, nightly):
    assert nightly()["accepted"] == scene.sandbox.honeycomb.event_count > 0
    before = scene.sandbox.buildkite.request_count
    assert set(nightly().values()) == {0}
    assert scene.sandbox.buildkite.request_count == before + len(scene.days)


def one_of(folder: Path) -> Path:
    return next(folder.rglob("*.parquet"))


def test_missed_build_is_fetched_and_delivered(scene, nightly):
    nightly()
    day = scene.days[0]
    # Finished before the watermark, with less than no overlap, and seen by no run.
    build = scene.sandbox.world.finish_build_now() | {
        "id": "0199b0b0-0000-4000-8000-000000000001",
        "number": 77,
        "created_at": f"{day}T12:00:00.000Z",
        "finished_at": f"{day}T12:00:09.000Z",
    }
    scene.sandbox.world.add_build(build)
    again = nightly()
    assert again["builds stored"] == 1
    assert again["accepted"] > 0
    assert scene.sandbox.honeycomb.duplicate_count == 0


@pytest.mark.parametrize("store", ["raw", "spans"])
def test_deleted_part_is_rebuilt_and_not_sent_again(scene, nightly, store):
    nightly()
    sent = scene.sandbox.honeycomb.event_count
    one_of(Path(scene.services.settings.storage) / store / scene.days[0]).unlink()
    again = nightly()
    assert (again["builds stored"] > 0) is (store == "raw")
    assert again["new files"] > 0
    assert again["accepted"] == 0
    assert scene.sandbox.honeycomb.event_count == sent
    assert set(nightly().values()) == {0}


def test_undelivered_span_is_delivered(scene, nightly, instance):
    scene.sandbox.faults.inject("honeycomb", "status", status=400, count=100)
    job = build_definitions(scene.services).resolve_job_def("sync_day")
    for day in scene.days:
        job.execute_in_process(partition_key=day, instance=instance, raise_on_error=False)
    scene.sandbox.faults.clear()
    assert scene.sandbox.honeycomb.event_count == 0
    again = nightly()
    assert again["builds stored"] == 0
    assert again["accepted"] == scene.sandbox.honeycomb.event_count > 0


def stats_at(scene, moment, instance):
    """What hourly_stats asks for at `moment`."""
    definitions = build_definitions(scene.services)
    context = dg.build_schedule_context(
        instance, scheduled_execution_time=moment, repository_def=definitions.get_repository_def()
    )
    return definitions.resolve_schedule_def("hourly_stats").evaluate_tick(context)


def test_statistics_are_made_anew_once_where_spans_have_changed(tmp_path, instance):
    with stage(tmp_path / "data", days=3, builds_per_day=10) as scene:
        definitions = build_definitions(scene.services)
        sync = definitions.resolve_job_def("sync_day")
        refresh = definitions.resolve_job_def("refresh_stats")
        now = scene.clock.now()
        assert stats_at(scene, now, instance).run_requests == []
        for day in scene.days[:2]:
            sync.execute_in_process(partition_key=day, instance=instance)
        assert days(stats_at(scene, now, instance).run_requests) == [scene.days[1], scene.days[0]]
        for day in scene.days[:2]:
            refresh.execute_in_process(partition_key=day, instance=instance)
        idle = stats_at(scene, now, instance)
        assert idle.run_requests == []
        assert "No day has spans" in idle.skip_message


def test_statistics_of_weeks_ago_are_left_alone(tmp_path, instance):
    with stage(tmp_path / "data") as scene:
        sync = build_definitions(scene.services).resolve_job_def("sync_day")
        sync.execute_in_process(partition_key=scene.days[0], instance=instance)
        later = scene.clock.now() + timedelta(days=8)
        assert stats_at(scene, later, instance).run_requests == []


def selected(request) -> list[str]:
    return [key.to_user_string() for key in request.asset_selection]


def test_deployments_are_made_anew_also_if_an_earlier_day_has_changed(tmp_path, instance):
    """And their metrics are sent, also those that could not be sent before."""
    rules = {"otlp": True, "BK_PIPELINE_DEPLOYMENTS": str(EXAMPLE)}
    with stage(tmp_path / "data", days=3, builds_per_day=10, **rules) as scene:

        def asked() -> dict[str, list[str]]:
            found = stats_at(scene, scene.clock.now(), instance).run_requests
            return {one.partition_key: selected(one) for one in found}

        first, second, third = scene.days
        for run in materialize_days(scene.services, [third, first, second], instance=instance):
            assert run.error is None
        assert asked() == {}
        late = {"id": "late", "number": 9_000_001, "created_at": f"{first}T12:00:00.000Z"}
        scene.sandbox.world.add_build(scene.sandbox.world.finish_build_now() | late)
        definitions = build_definitions(scene.services)
        sync = definitions.resolve_job_def("sync_day")
        sync.execute_in_process(partition_key=first, instance=instance)
        deployed = ["deployments", "deployment_metrics"]
        assert asked() == {first: ["build_stats", *deployed], second: deployed, third: deployed}

        refresh = definitions.resolve_job_def("refresh_stats")
        for day in scene.days:
            assert refresh.execute_in_process(partition_key=day, instance=instance).success
        assert asked() == {}
        scene.services.ledger().forget(
            scene.services.deployment_metrics()[0].open(scene.clock).name
        )
        assert asked() == {day: ["deployment_metrics"] for day in scene.days}

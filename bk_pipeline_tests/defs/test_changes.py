"""The asset `changes`, its check, and its schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.settings import Settings
from bk_pipeline_tests.cli.test_changes import A_DAY, DAYS, FIRST, LAST, SLOW_FROM, build, store

BEGAN = FIRST + timedelta(days=SLOW_FROM // 24)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    store(folder, [build(number, slow=number >= SLOW_FROM) for number in range(1, DAYS * A_DAY)])
    settings = {"BK_PIPELINE_DATA_DIR": str(folder), "BK_PIPELINE_START_DATE": str(FIRST)}
    return App(Settings.of(**settings), retries=0)


def materialized(app, day, instance):
    """The metadata of the day, and the result of its check."""
    job = build_definitions(app).resolve_job_def("find_changes")
    done = job.execute_in_process(instance=instance, partition_key=str(day))
    [event] = done.asset_materializations_for_node("changes")
    [check] = done.get_asset_check_evaluations()
    return {name: one.value for name, one in event.metadata.items()}, check


def test_a_change_for_the_worse_is_a_warning_while_it_is_news(app):
    with dg.DagsterInstance.ephemeral() as instance:
        shown, check = materialized(app, BEGAN + timedelta(days=4), instance)
        assert shown["for the worse"] == shown["for the worse, and last"] == 2
        assert shown["dagster/partition_row_count"] == 2
        assert "web / test takes " in shown["report"]
        assert not check.passed
        assert check.severity is dg.AssetCheckSeverity.WARN
        first, *_ = check.metadata["first"].value
        assert "since build #" in first
        shown, check = materialized(app, LAST, instance)
        assert shown["for the worse"] == 2
        assert check.passed


def test_a_day_without_changes_passes(app):
    with dg.DagsterInstance.ephemeral() as instance:
        shown, check = materialized(app, FIRST + timedelta(days=5), instance)
    assert (shown["for the worse"], shown["report"]) == (0, "No changes.")
    assert check.passed


def test_the_schedule_asks_for_the_last_complete_day_once(app):
    definitions = build_definitions(app)
    night = datetime(LAST.year, LAST.month, LAST.day, 5, 45, tzinfo=UTC) + timedelta(days=-1)

    def tick():
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_schedule_context(
                instance,
                scheduled_execution_time=night,
                repository_def=definitions.get_repository_def(),
            )
            return definitions.resolve_schedule_def("nightly_changes").evaluate_tick(context)

    [request] = tick().run_requests
    day = request.partition_key
    assert day == str(LAST - timedelta(days=2))
    with dg.DagsterInstance.ephemeral() as instance:
        materialized(app, day, instance)
    assert tick().run_requests == []


def test_the_schedule_is_on_and_sync_day_does_not_look_for_changes(app):
    definitions = build_definitions(app)
    schedule = definitions.resolve_schedule_def("nightly_changes")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    selected = definitions.resolve_job_def("sync_day").asset_layer.selected_asset_keys
    assert dg.AssetKey("changes") not in selected

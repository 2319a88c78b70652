from __future__ import annotations

import subprocess
import sys

import dagster as dg
import pytest

from bk_pipeline.defs.code_location import code_location
from bk_pipeline.settings import Settings
from bk_pipeline_tests.worlds import stage

HONEYCOMB = {"HONEYCOMB_API_KEY": "hcaik_" + "a" * 58}


def asset_names(**settings: str) -> list[str]:
    graph = code_location(Settings.of(**settings)).resolve_asset_graph()
    return sorted(key.to_user_string() for key in graph.get_all_asset_keys())


def test_without_a_key_there_is_no_loader():
    assert asset_names() == ["build_stats", "raw_builds", "spans"]


def test_a_destination_that_is_configured_has_its_asset():
    assert asset_names(**HONEYCOMB) == ["build_stats", "honeycomb_events", "raw_builds", "spans"]


def test_markers_have_an_asset_where_rules_are_named_after_the_one_that_makes_the_dataset():
    named = HONEYCOMB | {"BK_PIPELINE_MARKERS": "nowhere.toml"}

    graph = code_location(Settings.of(**named)).resolve_asset_graph()

    node = graph.get(dg.AssetKey("honeycomb_markers"))
    parents = {key.to_user_string() for key in node.parent_keys}
    assert parents == {"spans", "honeycomb_events"}
    alone = code_location(Settings.of(BK_PIPELINE_MARKERS="x")).resolve_asset_graph()
    only = alone.get(dg.AssetKey("honeycomb_markers")).parent_keys
    assert [key.to_user_string() for key in only] == ["spans"]


def test_assets_feed_one_another():
    graph = code_location(Settings.of(**HONEYCOMB)).resolve_asset_graph()
    parents = {
        key.to_user_string(): [p.to_user_string() for p in graph.get(key).parent_keys]
        for key in graph.get_all_asset_keys()
    }
    assert parents == {
        "raw_builds": [],
        "spans": ["raw_builds"],
        "build_stats": ["spans"],
        "honeycomb_events": ["spans"],
    }


def test_days_reach_from_the_first_to_today():
    settings = Settings.of(BK_PIPELINE_START_DATE="2026-02-03", BK_PIPELINE_TIMEZONE="Asia/Tokyo")
    graph = code_location(settings).resolve_asset_graph()
    partitions = graph.get(dg.AssetKey("spans")).partitions_def
    assert isinstance(partitions, dg.DailyPartitionsDefinition)
    assert partitions.get_first_partition_key() == "2026-02-03"
    today = partitions.time_window_for_partition_key(partitions.get_last_partition_key())
    assert today.start.timestamp() < today.end.timestamp()
    assert partitions.end_offset == 1
    assert partitions.timezone == "Asia/Tokyo"


def test_the_sensor_is_off_until_it_is_switched_on():
    sensor = code_location(Settings.of(**HONEYCOMB)).resolve_sensor_def("builds_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_every_asset_says_what_it_is():
    for asset in code_location(Settings.of(**HONEYCOMB)).assets:
        assert isinstance(asset, dg.AssetsDefinition)
        for key in asset.keys:
            assert asset.descriptions_by_key[key]
            assert asset.owners_by_key[key] if hasattr(asset, "owners_by_key") else True


@pytest.mark.parametrize("name", ["BK_PIPELINE_TIMEZONE", "BK_PIPELINE_START_DATE"])
def test_what_dagster_loads_names_a_malformed_setting(name, monkeypatch, tmp_path):
    monkeypatch.setenv(name, "nonsense")
    done = subprocess.run(
        [sys.executable, "-c", "import bk_pipeline.definitions"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert f"{name} is malformed" in done.stderr.splitlines()[-1]


def test_a_run_delivers_before_it_reports_and_logs_what_it_waits_for(tmp_path):
    with stage(tmp_path, otlp=True) as scene, dg.DagsterInstance.ephemeral() as instance:
        definitions = code_location(scene.services.settings, scene.services)
        # Two pauses of a second at most, of which the second would be one line too many.
        for path in ("/1/auth", "/1/batch/*"):
            scene.sandbox.faults.inject("honeycomb", "status", path=path)
        job = definitions.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(partition_key=scene.days[0], instance=instance)
        logged = [
            (one.step_key, one.user_message)
            for one in instance.all_logs(done.run_id)
            if "Attempt 2 follows in" in one.user_message
        ]
    steps = [one.step_key for one in done.get_step_success_events()]
    assert steps[-1] == "build_stats"
    assert {"honeycomb_events", "otlp_traces", "otlp_metrics"} < set(steps)
    assert {step for step, _ in logged} == {"honeycomb_events"}
    # At most a line every ten seconds.
    assert len(logged) == 1

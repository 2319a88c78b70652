from __future__ import annotations

import subprocess
import sys

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap

from bk_pipeline.app import App
from bk_pipeline.defs.assets import assets_of
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import BuildkiteResource, resources_of
from bk_pipeline.settings import Settings
from bk_pipeline_tests.defs.snapshot import FILE, snapshot
from bk_pipeline_tests.worlds import stage

HONEYCOMB = {"HONEYCOMB_API_KEY": "hcaik_" + "a" * 58}


def asset_names(**settings: str) -> set[str]:
    graph = build_definitions(App(Settings.of(**settings))).resolve_asset_graph()
    return {key.to_user_string() for key in graph.get_all_asset_keys()}


def test_only_configured_destinations_have_an_asset():
    assert {"raw_builds", "spans", "build_stats"} <= asset_names()
    assert asset_names(**HONEYCOMB) - asset_names() == {"honeycomb_events"}


def test_markers_asset_follows_the_asset_that_creates_the_dataset():
    named = HONEYCOMB | {"BK_PIPELINE_MARKERS": "nowhere.toml"}

    graph = build_definitions(App(Settings.of(**named))).resolve_asset_graph()

    node = graph.get(dg.AssetKey("honeycomb_markers"))
    parents = {key.to_user_string() for key in node.parent_keys}
    assert parents == {"spans", "honeycomb_events"}
    alone = build_definitions(App(Settings.of(BK_PIPELINE_MARKERS="x"))).resolve_asset_graph()
    only = alone.get(dg.AssetKey("honeycomb_markers")).parent_keys
    assert [key.to_user_string() for key in only] == ["spans"]


def test_assets_depend_on_each_other():
    graph = build_definitions(App(Settings.of(**HONEYCOMB))).resolve_asset_graph()
    parents = {
        key.to_user_string(): [p.to_user_string() for p in graph.get(key).parent_keys]
        for key in graph.get_all_asset_keys()
    }
    expected = {
        "raw_builds": [],
        "spans": ["raw_builds"],
        "build_stats": ["spans"],
        "honeycomb_events": ["spans"],
    }
    assert parents | expected == parents


def test_days_reach_from_the_first_to_today():
    settings = Settings.of(BK_PIPELINE_START_DATE="2026-02-03", BK_PIPELINE_TIMEZONE="Asia/Tokyo")
    graph = build_definitions(App(settings)).resolve_asset_graph()
    partitions = graph.get(dg.AssetKey("spans")).partitions_def
    assert isinstance(partitions, dg.DailyPartitionsDefinition)
    assert partitions.get_first_partition_key() == "2026-02-03"
    today = partitions.time_window_for_partition_key(partitions.get_last_partition_key())
    assert today.start.timestamp() < today.end.timestamp()
    assert partitions.end_offset == 1
    assert partitions.timezone == "Asia/Tokyo"


def test_sensor_is_off_by_default():
    sensor = build_definitions(App(Settings.of(**HONEYCOMB))).resolve_sensor_def("builds_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_every_asset_has_a_description_and_owners():
    for asset in build_definitions(App(Settings.of(**HONEYCOMB))).assets:
        assert isinstance(asset, dg.AssetsDefinition)
        for key in asset.keys:
            assert asset.descriptions_by_key[key]
            assert asset.owners_by_key[key] if hasattr(asset, "owners_by_key") else True


@pytest.mark.parametrize("name", ["BK_PIPELINE_TIMEZONE", "BK_PIPELINE_START_DATE"])
def test_loading_the_definitions_names_a_malformed_setting(name, monkeypatch, tmp_path):
    monkeypatch.setenv(name, "nonsense")
    done = subprocess.run(
        [sys.executable, "-c", "from bk_pipeline.definitions import defs; defs()"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert f"{name} is malformed" in done.stderr.splitlines()[-1]


def test_definitions_are_those_of_the_snapshot():
    # To accept a change: python -m bk_pipeline_tests.defs.snapshot
    assert snapshot() == FILE.read_text()


# Of Dagster's snapshot of its own schedules.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_resources_show_their_configuration_and_no_secret():
    secrets = {
        "BUILDKITE_API_TOKEN": "bkua_5ecret5ecret",
        "HONEYCOMB_API_KEY": "hcaik_" + "5ecret" * 9,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://otlp.example.com/5ecret?key=5ecret",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=5ecret",
        "BK_PIPELINE_DATA_DIR": "s3://key:5ecret@bucket/builds?secret_key=5ecret",
        "BK_PIPELINE_LEDGER_URL": "postgresql://me:5ecret@db.example.com/ledger?password=5ecret",
    }
    definitions = build_definitions(App(Settings.of(**secrets)))
    shown = {
        one.name: one.configured_values
        for one in RepositorySnap.from_def(definitions.get_repository_def()).resources
    }
    assert shown["otlp"]["endpoint"] == '"https://otlp.example.com"'
    assert shown["store"]["data_dir"] == '"s3://bucket/builds"'
    assert shown["ledger"]["url"] == '"postgresql://db.example.com/ledger"'
    assert "5ecret" not in str(shown)


def test_run_configuration_of_a_resource_takes_effect(tmp_path):
    with stage(tmp_path, builds_per_day=10) as scene, dg.DagsterInstance.ephemeral() as instance:
        job = build_definitions(scene.services).resolve_job_def("sync_day")
        done = job.execute_in_process(
            partition_key=scene.days[0],
            instance=instance,
            run_config={"resources": {"honeycomb": {"config": {"dataset": "elsewhere"}}}},
        )
        assert done.success
        events = scene.sandbox.honeycomb.events
    assert {one.dataset for one in events} == {"elsewhere"}


def test_resources_can_be_those_of_a_test(tmp_path):
    """Definitions that know no token work with the resources that a test hands in."""
    with (
        stage(tmp_path / "theirs", builds_per_day=10) as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        app = App(Settings.of(BK_PIPELINE_DATA_DIR=str(tmp_path / "ours")), clock=scene.clock)
        start = scene.services.settings.start_date.isoformat()
        app = app.changed({"BK_PIPELINE_START_DATE": start})
        naming = Naming()
        resources = {
            **resources_of(app, naming),
            "buildkite": BuildkiteResource.of(scene.services),
        }
        done = dg.materialize(
            assets_of(app, naming),
            selection=["raw_builds"],
            partition_key=scene.days[0],
            instance=instance,
            resources=resources,
        )
    assert done.success
    assert app.raw().days() == scene.days


def test_run_delivers_before_reports_and_logs_waits(tmp_path):
    with stage(tmp_path, otlp=True) as scene, dg.DagsterInstance.ephemeral() as instance:
        definitions = build_definitions(scene.services)
        # Pauses of a second at most; Honeycomb's second would be one line too many.
        for service, path in (
            ("buildkite", "*"),
            ("honeycomb", "/1/auth"),
            ("honeycomb", "/1/batch/*"),
            ("otlp", "/v1/traces"),
        ):
            scene.sandbox.faults.inject(service, "status", path=path)
        job = definitions.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(partition_key=scene.days[0], instance=instance)
        logged = [
            (one.step_key, one.user_message)
            for one in instance.all_logs(done.run_id)
            if "Attempt 2 follows in" in one.user_message
        ]
    steps = [one.step_key for one in done.get_step_success_events()]
    assert set(steps[-3:]) == {"build_stats", "changes", "build_report"}
    assert {"honeycomb_events", "otlp_traces", "otlp_metrics"} < set(steps)
    # At most a line every ten seconds.
    assert sorted(step for step, _ in logged) == ["honeycomb_events", "otlp_traces", "raw_builds"]


def test_job_details_come_between_spans_and_loaders():
    named = HONEYCOMB | {"BK_PIPELINE_JOB_DETAILS": "nowhere.toml"}

    definitions = build_definitions(App(Settings.of(**named)))

    graph = definitions.resolve_asset_graph()
    parents = {
        name: {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys}
        for name in ("job_details", "honeycomb_events", "build_stats")
    }
    assert parents == {
        "job_details": {"spans"},
        "honeycomb_events": {"spans", "job_details"},
        "build_stats": {"spans", "job_details"},
    }
    columns = {
        name: {
            one.name
            for one in graph.get(dg.AssetKey(name)).metadata["dagster/column_schema"].columns
        }
        for name in ("spans", "job_details")
    }
    assert "buildkite.job.section.name" in columns["job_details"] - columns["spans"]
    assert "buildkite.job.exit_status" in columns["spans"] - columns["job_details"]
    [job] = [one for one in definitions.resolve_all_job_defs() if one.name == "sync_day"]
    assert "job_details" in {node.name for node in job.graph.nodes}

"""The assets `deployments` and `deployment_metrics`, on the sandbox."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.settings import Settings
from bk_pipeline_tests.defs.test_build_stats import table_in
from bk_pipeline_tests.worlds import stage

METRICS = (
    *("deployments", "deployment.change_failures", "deployment.lead_time"),
    "deployment.time_to_restore",
)
EXAMPLE = Path(__file__).parents[2] / "examples" / "deployments.toml"


@pytest.fixture(scope="module")
def materialized(tmp_path_factory):
    """The app of a day of the sandbox, the day, the asset's metadata and check, and the metrics."""
    folder = tmp_path_factory.mktemp("deployments")
    settings = {"otlp": True, "BK_PIPELINE_DEPLOYMENTS": str(EXAMPLE)}
    with (
        stage(folder, builds_per_day=60, **settings) as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        app = scene.services
        [run] = materialize_days(app, scene.days, instance=instance)
        assert run.error is None
        key = dg.AssetKey("deployments")
        wanted = dg.AssetRecordsFilter(key, asset_partitions=[run.day])
        [found] = instance.fetch_materializations(wanted, limit=1).records
        metadata = {name: one.value for name, one in found.asset_materialization.metadata.items()}
        check_key = dg.AssetCheckKey(key, "restored")
        [check] = instance.event_log_storage.get_asset_check_execution_history(check_key, limit=1)
        [again] = materialize_days(app, scene.days, instance=instance)
        assert again.error is None
        yield app, run.day, metadata, check, scene.sandbox.otlp.metrics


def test_metadata_agree_with_the_table(materialized):
    app, day, metadata, *_ = materialized
    stored = app.stats().read("deployments", day).to_pylist()
    assert metadata["dagster/partition_row_count"] == len(stored) > 0
    assert metadata["deployments"] == sum(row["kind"] == "deployment" for row in stored)
    assert metadata["change_failures"] == sum(row["change_failed"] for row in stored)
    assert {row["environment"] for row in stored} == {"staging", "production"}
    head, _, *lines = table_in(metadata["report"])
    assert len(lines) == min(len(stored), 20)
    assert {len(line) for line in lines} == {len(head)}


def test_check_names_what_is_left_failed(materialized):
    app, day, _, check, _ = materialized
    stored = app.stats().read("deployments", day).to_pylist()
    last = {(row["service"], row["environment"]): row["outcome"] for row in stored}
    event = check.event.dagster_event.event_specific_data
    assert event.passed == ("failed" not in last.values())


def test_metrics_agree_with_the_table_and_are_counted_once(materialized):
    app, day, *_, metrics = materialized
    stored = app.stats().read("deployments", day).to_pylist()
    counted = {name: metrics.totals[f"bk_pipeline.{name}"] for name in METRICS}
    assert counted == {
        "deployments": len(stored),
        "deployment.change_failures": sum(row["change_failed"] for row in stored),
        "deployment.lead_time": sum(row["lead_time_s"] is not None for row in stored),
        "deployment.time_to_restore": sum(row["restore_s"] is not None for row in stored),
    }
    assert metrics.duplicate_count == 0


def test_without_rules_there_is_no_asset():
    def keys(**variables):
        definitions = build_definitions(App(Settings.of(**variables)))
        return {one.key.to_user_string() for one in definitions.assets}

    assert "deployments" not in keys()
    rules = {"BK_PIPELINE_DEPLOYMENTS": "x.toml"}
    assert keys(**rules) - keys() == {"deployments"}
    otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert keys(**rules, **otlp) - keys(**otlp) == {"deployments", "deployment_metrics"}

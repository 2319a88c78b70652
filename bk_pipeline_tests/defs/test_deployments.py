"""The asset `deployments`, on the sandbox."""

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

EXAMPLE = Path(__file__).parents[2] / "examples" / "deployments.toml"


@pytest.fixture(scope="module")
def materialized(tmp_path_factory):
    """The app of a day of the sandbox, the day, and the asset's metadata and check."""
    folder = tmp_path_factory.mktemp("deployments")
    with stage(folder, builds_per_day=60) as scene, dg.DagsterInstance.ephemeral() as instance:
        app = scene.services.changed({"BK_PIPELINE_DEPLOYMENTS": str(EXAMPLE)})
        [run] = materialize_days(app, scene.days, instance=instance)
        assert run.error is None
        key = dg.AssetKey("deployments")
        wanted = dg.AssetRecordsFilter(key, asset_partitions=[run.day])
        [found] = instance.fetch_materializations(wanted, limit=1).records
        metadata = {name: one.value for name, one in found.asset_materialization.metadata.items()}
        check_key = dg.AssetCheckKey(key, "restored")
        [check] = instance.event_log_storage.get_asset_check_execution_history(check_key, limit=1)
        yield app, run.day, metadata, check


def test_metadata_agree_with_the_table(materialized):
    app, day, metadata, _ = materialized
    stored = app.stats().read("deployments", day).to_pylist()
    assert metadata["dagster/partition_row_count"] == len(stored) > 0
    assert metadata["deployments"] == sum(row["kind"] == "deployment" for row in stored)
    assert metadata["change_failures"] == sum(row["change_failed"] for row in stored)
    assert {row["environment"] for row in stored} == {"staging", "production"}
    head, _, *lines = table_in(metadata["report"])
    assert len(lines) == min(len(stored), 20)
    assert {len(line) for line in lines} == {len(head)}


def test_check_names_what_is_left_failed(materialized):
    app, day, _, check = materialized
    stored = app.stats().read("deployments", day).to_pylist()
    last = {(row["service"], row["environment"]): row["outcome"] for row in stored}
    event = check.event.dagster_event.event_specific_data
    assert event.passed == ("failed" not in last.values())


def test_without_rules_there_is_no_asset():
    def keys(**variables):
        definitions = build_definitions(App(Settings.of(**variables)))
        return {one.key.to_user_string() for one in definitions.assets}

    assert "deployments" not in keys()
    assert keys(BK_PIPELINE_DEPLOYMENTS="x.toml") - keys() == {"deployments"}

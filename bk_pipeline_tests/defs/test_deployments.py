"""The assets `deployments` and `deployment_metrics`, on the sandbox."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.pipeline import record_deployments
from bk_pipeline.report.deployments import deployments_section
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


def report_of(instance, day):
    wanted = dg.AssetRecordsFilter(dg.AssetKey("build_stats"), asset_partitions=[day])
    [found] = instance.fetch_materializations(wanted, limit=1).records
    return found.asset_materialization.metadata["report"].value


def section_of(report):
    before, found, after = report.partition("### Deployments\n\n")
    assert before
    return after.partition("\n\n### ")[0] if found else None


def test_report_of_the_day_shows_its_deployments(tmp_path):
    rules = tmp_path / "deployments.toml"
    rules.write_text(EXAMPLE.read_text())
    with (
        stage(tmp_path / "data", builds_per_day=60) as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        [day] = scene.days

        def made(**variables):
            app = scene.services.changed(variables)
            build_stats = build_definitions(app).resolve_job_def("refresh_stats")
            done = build_stats.execute_in_process(
                partition_key=day,
                instance=instance,
                asset_selection=[dg.AssetKey("build_stats")],
            )
            assert done.success
            return section_of(report_of(instance, day))

        sync = build_definitions(scene.services).resolve_job_def("sync_day")
        assert sync.execute_in_process(partition_key=day, instance=instance).success
        assert made() is None
        # Also if the asset of deployments was not made.
        shown = made(BK_PIPELINE_DEPLOYMENTS=str(rules))
        head, _, *rows = shown.strip().splitlines()
        assert head.startswith("| finished, UTC | service | environment |")
        app = scene.services.changed({"BK_PIPELINE_DEPLOYMENTS": str(rules)})
        found = record_deployments(
            day, spans=app.spans(), stats=app.stats(), rules=app.deployment_rules()
        )
        assert len(rows) == len(found.deployments) > 2
        assert [found.deployments[-1].service in row for row in rows[:1]] == [True]
        assert deployments_section([], ()) == []
        [_, table] = deployments_section(found.deployments * 5, ())
        assert (len(table.rows), table.left_out) == (10, len(rows) * 5 - 10)
        # From the stored table, nothing is lost.
        assert made(BK_PIPELINE_DEPLOYMENTS=str(rules)) == shown
        rules.write_text('[[rule]]\nid = "none"\nstep_key = "no such"\nenvironment = "x"\n')
        record_deployments(day, spans=app.spans(), stats=app.stats(), rules=app.deployment_rules())
        assert made(BK_PIPELINE_DEPLOYMENTS=str(rules)) is None
        rules.write_text("[[rule]]\nid = 1\n")
        assert made(BK_PIPELINE_DEPLOYMENTS=str(rules)) is None


def test_without_rules_there_is_no_asset():
    def keys(**variables):
        definitions = build_definitions(App(Settings.of(**variables)))
        return {one.key.to_user_string() for one in definitions.assets}

    assert "deployments" not in keys()
    rules = {"BK_PIPELINE_DEPLOYMENTS": "x.toml"}
    assert keys(**rules) - keys() == {"deployments"}
    otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert keys(**rules, **otlp) - keys(**otlp) == {"deployments", "deployment_metrics"}

"""A project of its own that embeds the pipeline twice, beside its own definitions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from bk_pipeline.defs.home import local_instance
from bk_pipeline_tests.dagster_dev import served
from bk_pipeline_tests.worlds import stage

BIN = Path(sys.executable).parent
PYPROJECT = """
[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop"

[tool.dg.cli]
suppress_warnings = ["project_and_activated_venv_mismatch"]
"""
DEFINITIONS = """
from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    ours = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(ours, dg.Definitions(executor=dg.in_process_executor))
"""
# Everything that can have the short name of one of ours.
OWN = """
import dagster as dg


@dg.asset(pool="buildkite_api", required_resource_keys={"store"})
def raw_builds() -> None: ...


@dg.asset(deps=[raw_builds])
def spans() -> None: ...


sync_day = dg.define_asset_job("sync_day", [raw_builds, spans])


@dg.sensor(job=sync_day)
def builds_sensor(): ...


defs = dg.Definitions(
    assets=[raw_builds, spans],
    jobs=[sync_day],
    sensors=[builds_sensor],
    schedules=[dg.ScheduleDefinition(name="hourly_stats", job=sync_day, cron_schedule="@daily")],
    resources={"store": dg.ResourceDefinition.hardcoded_resource("shelf")},
)
"""
TYPE = "bk_pipeline.components.BuildkitePipelineComponent"


def attributes(name: str) -> dict[str, object]:
    """What the YAML of one of the two says; the values of its variables are in the environment."""
    prefix = name.upper()
    return {
        "name": name,
        "buildkite_organization_slug": "acme",
        "buildkite_api_url": f"{{{{ env.{prefix}_URL }}}}",
        "buildkite_api_token": f"{{{{ env.{prefix}_TOKEN }}}}",
        "honeycomb_api_key": f"{{{{ env.{prefix}_HONEYCOMB_KEY }}}}",
        "honeycomb_api_endpoint": f"{{{{ env.{prefix}_URL }}}}",
        "honeycomb_dataset": f"{name}-builds",
        "start_date": "2024-01-01",
        "spans_waits": True,
        "pipelines": ["*"],
        "sensor_interval_s": 60,
    }


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory):
    """Two sandboxes, as `east` and `west`."""
    folder = tmp_path_factory.mktemp("sandboxes")
    with (
        stage(folder / "east", builds_per_day=6, live=True) as east,
        stage(folder / "west", builds_per_day=9, live=True) as west,
    ):
        yield {"east": east, "west": west}


@pytest.fixture(scope="module")
def project(tmp_path_factory, sandboxes):
    """The folder of the project, with a DAGSTER_HOME."""
    folder = tmp_path_factory.mktemp("project")
    files = {
        "pyproject.toml": PYPROJECT,
        "shop/__init__.py": "",
        "shop/definitions.py": DEFINITIONS,
        "shop/defs/__init__.py": "",
        "shop/defs/own.py": OWN,
        "home/dagster.yaml": "telemetry: {enabled: false}\n",
    }
    for name in sandboxes:
        component = {"type": TYPE, "attributes": attributes(name)}
        files[f"shop/defs/{name}/defs.yaml"] = yaml.safe_dump(component)
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def environment(project, sandboxes) -> dict[str, str]:
    """The environment of the project's processes."""
    variables = {
        "DAGSTER_HOME": str(project / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(project),
        "PYTHONPATH": str(project),
        "COLUMNS": "200",
    }
    # What `make test-any-day` sets.
    shifted = ("LD_PRELOAD", "WALL_CLOCK_SHIFT_S", "TZ")
    variables |= {name: os.environ[name] for name in shifted if name in os.environ}
    for name, scene in sandboxes.items():
        variables |= {
            f"{name.upper()}_URL": scene.url,
            f"{name.upper()}_TOKEN": scene.sandbox.buildkite_token,
            f"{name.upper()}_HONEYCOMB_KEY": scene.sandbox.honeycomb_key,
        }
    return variables


@pytest.fixture(scope="module")
def call(project, environment):
    """Runs a program in the project; returns what it prints."""

    def called(*command: str) -> str:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return called


def test_project_with_two_pipelines_passes_dg_check(call):
    assert "All definitions loaded successfully" in call("dg", "check", "defs")


def test_names_of_two_pipelines_and_the_project_differ(call, environment):
    listed = json.loads(call("dg", "list", "defs", "--json"))
    assert not any(
        value in str(listed)
        for name, value in environment.items()
        if name.endswith(("_KEY", "_TOKEN"))
    )
    keys = {one["asset_key"] for one in listed["assets"]}
    ours = {"raw_builds", "spans", "build_stats", "changes", "build_report", "honeycomb_events"}
    assert keys == {"raw_builds", "spans"} | {f"{x}/{y}" for x in ("east", "west") for y in ours}
    for kind, short in (("jobs", "sync_day"), ("sensors", "builds_sensor")):
        names = {one["name"] for one in listed[kind]}
        assert {short, f"east_{short}", f"west_{short}"} <= names
    groups = {one["asset_key"]: one["group_name"] for one in listed["assets"]}
    assert (groups["east/spans"], groups["west/spans"]) == ("east", "west")


def test_both_pipelines_deliver_their_own_day(call, project, sandboxes, monkeypatch):
    [day] = sandboxes["east"].days
    names = ("raw_builds", "spans", "honeycomb_events")
    chosen = " or ".join(f'key:"{one}/{name}"' for one in sandboxes for name in names)
    call("dg", "launch", "--assets", chosen, "--partition", day)

    events = {name: scene.sandbox.honeycomb.events for name, scene in sandboxes.items()}
    assert 0 < len(events["east"]) < len(events["west"])
    assert {name: {one.dataset for one in found} for name, found in events.items()} == {
        name: {f"{name}-builds"} for name in sandboxes
    }
    folders = project / ".bk_pipeline" / "pipelines"
    assert sorted(one.name for one in folders.iterdir()) == ["east", "west"]
    assert all((folders / name / "ledger.sqlite").exists() for name in sandboxes)
    monkeypatch.setenv("DAGSTER_HOME", str(project / "home"))
    with local_instance() as instance:
        for one in sandboxes:
            for name in names:
                key = dg.AssetKey([one, name])
                assert instance.get_materialized_partitions(key) == {day}
        assert instance.get_materialized_partitions(dg.AssetKey("raw_builds")) == set()


def test_dg_dev_serves_both_pipelines_and_leaves_no_process(project, environment):
    with served([str(BIN / "dg"), "dev"], project, env=environment, cwd=project) as dagster:
        [location] = dagster.locations()
        found = dagster.asset_keys()

    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation", location
    assert location["loadStatus"] == "LOADED"
    assert {"raw_builds", "east/honeycomb_events", "west/honeycomb_events"} <= found


def test_scaffolded_pipeline_has_its_name_and_variables(call, project):
    call("dg", "scaffold", "defs", TYPE, "north")
    made = project / "shop" / "defs" / "north" / "defs.yaml"
    try:
        [component] = yaml.safe_load_all(made.read_text())
    finally:
        made.unlink()
        made.parent.rmdir()
    assert component["type"] == TYPE
    assert component["attributes"]["name"] == "north"
    assert component["attributes"]["buildkite_api_token"] == "{{ env.BUILDKITE_API_TOKEN }}"

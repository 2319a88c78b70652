"""Mistakes in the first setup are shown in the Dagster UI as one sentence without a traceback."""

from __future__ import annotations

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.assets import assets_of
from bk_pipeline.defs.home import local_instance
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import resources_of
from bk_pipeline.errors import StorageError
from bk_pipeline.settings import Settings
from bk_pipeline_tests.worlds import free_port, stage


def failure(services, day):
    """Return the name of the failed step and the message that the UI shows for it."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            assets_of(services, Naming()),
            partition_key=day,
            instance=instance,
            resources=resources_of(services, Naming()),
            raise_on_error=False,
        )
    [event] = result.get_step_failure_events()
    return event.step_key, event.step_failure_data.error.message


def scoped(sandbox):
    return {"BUILDKITE_API_TOKEN": sandbox.add_token(["read_artifacts"])}


def without_datasets(sandbox):
    return {"HONEYCOMB_API_KEY": sandbox.add_honeycomb_key("ingest", create_datasets=False)}


def without_events(sandbox):
    return {"HONEYCOMB_API_KEY": sandbox.add_honeycomb_key("configuration", events=False)}


MISTAKES = {
    "no token": (
        "raw_builds",
        {"BUILDKITE_API_TOKEN": ""},
        "BUILDKITE_API_TOKEN is not set. Create",
    ),
    "wrong token": ("raw_builds", {"BUILDKITE_API_TOKEN": "bkua_1"}, "does not know the token in"),
    "no scope": ("raw_builds", scoped, "may not read builds of acme (403"),
    "wrong organization": (
        "raw_builds",
        {"BUILDKITE_ORGANIZATION_SLUG": "acne"},
        "Buildkite has no organization acne, or the token may not see it (404). Check BUILDKITE_",
    ),
    "wrong address": (
        "raw_builds",
        lambda _: {"BUILDKITE_API_URL": f"http://127.0.0.1:{free_port()}"},
        "Buildkite cannot be reached. GET 127.0.0.1",
    ),
    "wrong key": ("honeycomb_events", {"HONEYCOMB_API_KEY": "unknown"}, "rejects the key in"),
    "no datasets": ("honeycomb_events", without_datasets, "or use a key with Create Datasets."),
    "no events": ("honeycomb_events", without_events, "Give it the permission Send Events"),
    "Honeycomb's wrong address": (
        "honeycomb_events",
        lambda _: {"HONEYCOMB_API_ENDPOINT": f"http://127.0.0.1:{free_port()}"},
        "cannot be reached. GET 127.0.0.1",
    ),
    "no folder": ("raw_builds", {"BK_PIPELINE_DATA_DIR": "/dev/null/data"}, "in /dev/null/data: "),
}


@pytest.mark.parametrize(("step", "mistake", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_misconfigured_run_gives_the_reason_in_its_first_line(tmp_path, step, mistake, expected):
    with stage(tmp_path, builds_per_day=3, BK_PIPELINE_HTTP_DEADLINE_S="0") as scene:
        changed = mistake(scene.sandbox) if callable(mistake) else mistake
        values = {**scene.services.settings.environment, **changed}
        given = {name: value for name, value in values.items() if value}
        services = App(Settings.of(**given), clock=scene.clock, retries=0)
        failed, message = failure(services, scene.days[0])
    assert failed == step
    first, *rest = message.strip().splitlines()
    assert expected in first
    assert rest == []


def test_unusable_dagster_home_is_an_error_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("DAGSTER_HOME", "/dev/null/home")
    with pytest.raises(StorageError, match=r"in /dev/null/home: Not a directory\. Make room"):
        local_instance()
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / "runs.db").write_text("no database " * 99)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(StorageError, match=r"records in .*: file is not a database\. Make room"):
        local_instance()

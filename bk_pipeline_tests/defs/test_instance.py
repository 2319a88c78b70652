"""`dagster.yaml` and DAGSTER_HOME: what the file promises holds, and whose file it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.dev import prepare
from bk_pipeline.defs.home import local_instance, shortcomings
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    shutil.copy(PROJECT / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made


def test_backfills_and_nightly_runs_leave_a_slot_for_the_sensor(instance):
    queue = instance.get_concurrency_config().run_queue_config
    limits = {one["key"]: one["limit"] for one in queue.tag_concurrency_limits}
    assert limits.keys() == {"dagster/backfill", "dagster/schedule_name"}
    assert sum(limits.values()) < queue.max_concurrent_runs


def test_buildkite_pool_does_not_block_queued_runs(instance):
    config = instance.get_concurrency_config()
    assert config.pool_config.default_pool_limit >= config.run_queue_config.max_concurrent_runs
    graph = build_definitions(App(Settings.of())).resolve_asset_graph()
    assert graph.get(dg.AssetKey("raw_builds")).pools == {"buildkite_api"}


def test_run_is_retried_only_if_its_process_died(instance):
    assert instance.run_retries_enabled
    assert not instance.run_retries_retry_on_asset_or_op_failure


def test_hanging_run_is_ended_after_the_maximum_runtime(instance):
    assert instance.run_monitoring_enabled
    assert 0 < instance.run_monitoring_max_runtime_seconds <= 86_400


def test_slots_of_killed_runs_are_freed(instance):
    assert 0 < instance.run_monitoring_settings["free_slots_after_run_end_seconds"] <= 300


OPENS = """
import sys
from bk_pipeline.defs.home import local_instance
print("ready", flush=True)
sys.stdin.readline()
with local_instance() as instance:
    instance.get_runs(limit=1)
"""
PROCESSES = 6


def test_many_first_starts_at_once_leave_a_sound_instance(tmp_path):
    command = [sys.executable, "-c", OPENS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(command, text=True, **pipes) for _ in range(PROCESSES)]
    try:
        for one in started:
            assert one.stdout.readline() == "ready\n"
        for one in started:
            one.stdin.write("\n")
            one.stdin.flush()
        ends = [(one.communicate()[1], one.returncode) for one in started]
    finally:
        for one in started:
            one.kill()
    assert ends == [("", 0)] * PROCESSES
    with local_instance(migrate=True) as instance:
        assert instance.get_runs() == []


def test_new_home_gets_the_project_configuration(tmp_path):
    home = tmp_path / ".dagster"
    home.mkdir(mode=0o700)
    (home / "dagster.yaml.tmp").write_text("left by a killed process, and longer" * 100)
    assert prepare() == []
    written = home / "dagster.yaml"
    assert [one.name for one in home.glob("dagster.yaml*")] == [written.name]
    assert written.read_text() == (PROJECT / "dagster.yaml").read_text()
    # A run's log has names of builds: only their owner can read it.
    modes = {one.name: one.stat().st_mode & 0o777 for one in (written, written.parent)}
    assert modes == {"dagster.yaml": 0o600, ".dagster": 0o700}


def test_new_home_is_private(tmp_path):
    assert prepare() == []
    assert (tmp_path / ".dagster").stat().st_mode & 0o777 == 0o700


def test_custom_home_is_neither_written_nor_migrated(tmp_path, monkeypatch):
    migrated = []
    monkeypatch.setattr(dg.DagsterInstance, "upgrade", lambda *_, **__: migrated.append(1))
    home = tmp_path / "elsewhere"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    config = "# mine\ntelemetry: {enabled: false}\nconcurrency: {pools: {default_limit: 1}}\n"
    (home / "dagster.yaml").write_text(config)
    [told] = prepare()
    assert (home / "dagster.yaml").read_text() == config
    assert migrated == []
    assert "run_monitoring.free_slots_after_run_end_seconds" in told
    assert "pools" not in told.replace("slots of pools", "")
    monkeypatch.delenv("DAGSTER_HOME")
    prepare()
    assert migrated == [1]


@pytest.mark.parametrize("content", ["", "[]", "concurrency: 3", "concurrency: {pools: }"])
def test_empty_configuration_lacks_everything(tmp_path, content):
    (tmp_path / "dagster.yaml").write_text(content)
    assert len(shortcomings(tmp_path)) == 4


def test_unreadable_configuration_is_named(tmp_path):
    (tmp_path / "dagster.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"dagster\.yaml cannot be read"):
        shortcomings(tmp_path)

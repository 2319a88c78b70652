"""The composition root: what it opens is closed, and all objects follow the same settings."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from bk_pipeline.cli.commands import cli
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline_tests.dagster_dev import wait_for
from bk_pipeline_tests.worlds import stage

RULES = """
[[rule]]
id = "failed"
state = "failed"
type = "failed"
at = "finish"
message = "{buildkite.pipeline.slug}"
"""
DESCRIPTORS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not DESCRIPTORS.exists(), reason="needs /proc")


def open_files(folder: Path) -> Counter[str]:
    """Sockets and files below `folder` that this process holds open."""
    found: Counter[str] = Counter()
    for one in DESCRIPTORS.iterdir():
        try:
            target = str(one.readlink())
        except OSError:  # the descriptor of the listing itself
            continue
        if target.startswith("socket:"):
            found["socket"] += 1
        elif target.startswith(str(folder)):
            found[Path(target).name] += 1
    return found


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A sandbox that is set up in the environment too, with every kind of destination."""
    rules = tmp_path / "markers.toml"
    rules.write_text(RULES)
    with stage(
        tmp_path / "data",
        builds_per_day=10,
        otlp=True,
        live=True,
        BK_PIPELINE_MARKERS=str(rules),
        DAGSTER_HOME=str(tmp_path / "home"),
    ) as made:
        for name, value in made.services.settings.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def nothing_collected():
    """What only the garbage collector would close stays open."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("nothing_collected")
def test_runs_and_commands_leave_nothing_open(scene, tmp_path):
    def nothing_new() -> bool:
        return not open_files(tmp_path) - before

    before = open_files(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is None
        # The sandbox, in this process too, closes its ends a moment later.
        wait_for(nothing_new, patience_s=60)
    build = scene.sandbox.world.finish_build_now()
    url = scene.sandbox.world.add_build(build) or build["web_url"]
    for command in ("ledger", "ledger adopt", "markers apply", "doctor", f"trace --fetch {url}"):
        done = CliRunner().invoke(cli, command.split())
        assert done.exit_code == 0, (command, done.output, done.exception)
        wait_for(nothing_new, patience_s=60)

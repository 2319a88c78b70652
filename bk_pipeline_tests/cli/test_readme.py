"""Runs the README's ten-minute setup as written, with the sandbox instead of both services."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline_tests.worlds import recent_world

PROJECT = Path(__file__).parents[2]
SECTION = re.compile(r"## Your own builds in ten minutes\n(.*?)\n### ", re.DOTALL)


@pytest.fixture
def served(tmp_path):
    sandbox = Sandbox(recent_world(days=2, builds_per_day=5))
    with running(sandbox) as url:
        yield sandbox, environment(sandbox, url)


def commands(sandbox):
    """Yield the commands of the section, with days and a build of the sandbox."""
    [section] = SECTION.findall((PROJECT / "README.md").read_text())
    first, last = (day.isoformat() for day in sandbox.world.first_and_last_day())
    url = sandbox.world.finish_build_now()["web_url"]
    lines = re.findall(r"^ {7}(\S.*)$", section, re.MULTILINE)
    for line in lines:
        given = line.replace("2026-11-01", first).replace("2026-11-07", last)
        yield shlex.split(re.sub(r"https://buildkite\.com/acme/web/builds/\d+", url, given))


def fill_in(file, settings):
    """Write the settings into the file: into existing lines, otherwise at the end."""
    text = file.read_text()
    for name, value in settings.items():
        text, found = re.subn(rf"^{name}=$", f"{name}={value}", text, flags=re.MULTILINE)
        text += "" if found else f"{name}={value}\n"
    file.write_text(text)


def test_ten_minute_setup_in_the_readme_works_as_written(call, served, tmp_path):
    sandbox, settings = served
    ran = []
    for program, *arguments in commands(sandbox):
        ran.append(" ".join([program, *arguments[:1]]))
        if program == "cp":
            shutil.copy(PROJECT / arguments[0], tmp_path / arguments[1])
            fill_in(tmp_path / arguments[1], settings)
        elif program.endswith("bk-pipeline"):
            done = call(*arguments)
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    assert ran == [
        "cp .env.example",
        ".venv/bin/bk-pipeline doctor",
        ".venv/bin/bk-pipeline backfill",
        "make dev",
        ".venv/bin/bk-pipeline trace",
    ]
    assert sandbox.honeycomb.event_count > 0
    assert sandbox.honeycomb.duplicate_count == 0
    assert f"{settings['HONEYCOMB_API_ENDPOINT']}/sandbox" in done.stdout

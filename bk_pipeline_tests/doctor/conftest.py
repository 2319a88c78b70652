"""A checkup of this process's environment, which points at a sandbox."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, date, datetime

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline.doctor.checkup import Checkup
from bk_pipeline.doctor.findings import Installation
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.conftest import FakeClock

TODAY = date(2026, 8, 6)
NOON = datetime(2026, 8, 6, 12, tzinfo=UTC)


def checkup(days=30):
    """What each check comes to, by its name."""
    it = Installation(clock=FakeClock(NOON), days=days, on_wait=lambda _: None)
    examined = Checkup(it)
    with closing(it):
        return {check.name: examined.run(check) for check in examined.checks()}


@pytest.fixture
def serve(monkeypatch):
    """Runs a sandbox, and points the environment at it."""
    opened = []

    def start(**options):
        world = options.pop("world", None) or World(today=TODAY, builds_per_day=20)
        sandbox = Sandbox(world, clock=NOON.timestamp, **options)
        opened.append(running(sandbox))
        url = opened[-1].__enter__()
        for name, value in environment(sandbox, url).items():
            monkeypatch.setenv(name, value)
        sandbox.url = url
        return sandbox

    yield start
    for one in opened:
        one.__exit__(None, None, None)

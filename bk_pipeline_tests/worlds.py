"""A sandbox that serves, and the services that are pointed at it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bk_pipeline.cli.sandbox import environment
from bk_pipeline.clock import Clock
from bk_pipeline.defs.resources import Services
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.settings import Settings
from bk_pipeline.window import day_keys


@dataclass
class Stage:
    """What a test plays on."""

    sandbox: Sandbox
    url: str
    services: Services

    @property
    def days(self) -> list[str]:
        """The complete days of the sandbox's world, oldest first."""
        first, last = self.sandbox.world.first_and_last_day()
        return day_keys(first, last)[:-1]


@contextmanager
def stage(
    folder: Path,
    *,
    days: int = 1,
    builds_per_day: int = 20,
    clock: Clock | None = None,
    limits: bool = False,
    otlp: bool = False,
    **settings: str,
) -> Iterator[Stage]:
    """A served world and services with their data in `folder`."""
    sandbox = Sandbox(World(days=days, builds_per_day=builds_per_day), limits=limits)
    with running(sandbox) as url:
        values = environment(sandbox, url) | {"BK_PIPELINE_DATA_DIR": str(folder)} | settings
        if otlp:
            values["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        yield Stage(sandbox, url, Services(Settings.of(**values), clock=clock, retries=0))


def free_port() -> int:
    """A port on loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

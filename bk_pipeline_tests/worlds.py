"""A running sandbox and an app that uses it.

No test depends on when it runs. `stage` serves a world whose present is Thursday afternoon,
`PRESENT`, and hands the same clock to the services. Programs that a test starts as processes
of their own read the machine's clock: they get a `recent_world`, whose complete days are over.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa

from bk_pipeline.app import App
from bk_pipeline.cli.demo import environment
from bk_pipeline.clock import Clock, SystemClock
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.settings import Settings
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import table_of
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.window import day_keys

PRESENT = datetime(2024, 2, 15, 15, tzinfo=UTC)
THURSDAY = 3


class ShiftedClock(SystemClock):
    """Runs and sleeps as the machine's does, from `start` on."""

    def __init__(self, start: datetime = PRESENT) -> None:
        self._start = start
        self._began_at = time.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=time.monotonic() - self._began_at)


def last_thursday() -> date:
    """The last Thursday before today (UTC)."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    return yesterday - timedelta(days=(yesterday.weekday() - THURSDAY) % 7)


def recent_world(*, days: int, builds_per_day: int) -> World:
    """A world that ends on the last Thursday, with the builds of one that ends on `PRESENT`."""
    return World(
        days=days, builds_per_day=builds_per_day, today=last_thursday(), like=PRESENT.date()
    )


@dataclass
class Stage:
    """A running sandbox and the app that uses it."""

    sandbox: Sandbox
    url: str
    services: App

    @property
    def clock(self) -> Clock:
        """The clock of the sandbox and the app."""
        return self.services.clock

    @property
    def days(self) -> list[str]:
        """The complete days of the sandbox's world, oldest first."""
        first, last = self.sandbox.world.first_and_last_day()
        return day_keys(first, last)[:-1]

    @property
    def today(self) -> str:
        """The last day of the sandbox's world, which is under way."""
        return self.sandbox.world.first_and_last_day()[1].isoformat()


@contextmanager
def stage(
    folder: Path,
    *,
    days: int = 1,
    builds_per_day: int = 20,
    clock: Clock | None = None,
    live: bool = False,
    limits: bool = False,
    otlp: bool = False,
    **settings: str,
) -> Iterator[Stage]:
    """A served world and services with their data in `folder`.

    Args:
        folder: The data directory.
        days: Complete days of the world.
        builds_per_day: On a working day.
        clock: What the sandbox and the services go by. Default: a `ShiftedClock`.
        live: By the machine's own clock, for tests that start other processes.
        limits: Whether rate limits are enforced.
        otlp: Whether spans go to the sandbox's OTLP endpoint too.
        settings: Variables besides those of the sandbox.
    """
    clock = SystemClock() if live else clock or ShiftedClock()
    make_world = recent_world if live else World
    world = make_world(days=days, builds_per_day=builds_per_day)
    sandbox = Sandbox(world, clock=lambda: clock.now().timestamp(), limits=limits)
    with running(sandbox) as url:
        values = environment(sandbox, url) | {"BK_PIPELINE_DATA_DIR": str(folder)} | settings
        if otlp:
            values["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        yield Stage(sandbox, url, App(Settings.of(**values), clock=clock, retries=0))


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def span_table(*, seed: int, builds: int) -> pa.Table:
    """The spans of one day's builds, all of them over: retries, blocks, triggers, emoji, nulls."""
    world = World(seed=seed, days=1, builds_per_day=builds, today=PRESENT.date())
    day, _ = world.first_and_last_day()
    payloads = (build_as_of(one, one.created_ms + 30 * 86_400_000) for one in world.builds(day))
    traces = (spans_for_build(decode_build(msgspec.json.encode(one))) for one in payloads if one)
    return table_of([one for one in traces if one])

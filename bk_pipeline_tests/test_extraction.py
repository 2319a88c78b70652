"""Extraction against the sandbox over HTTP: no build is missed, none is stored twice.

Covers builds that resume, clock skew, and listings that change while they are read.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.pipeline import Day, extract_day
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.raw import RawStore
from bk_pipeline.window import Window
from bk_pipeline_tests.buildkite.listed import DAY as START
from bk_pipeline_tests.buildkite.listed import build, text_of

DAY = Day("2026-11-19", Window(START, START + timedelta(days=1)))
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@dataclass
class Scene:
    """An organization with only the builds that a test adds."""

    sandbox: Sandbox
    client: BuildkiteClient
    raw: RawStore
    clock: object

    def extract(self, **options):
        return extract_day(DAY, client=self.client, raw=self.raw, clock=self.clock, **options)

    def add(self, number, **fields) -> dict:
        made = build(number, **fields)
        self.sandbox.world.add_build(made)
        return made

    def stored(self) -> list[tuple[int, str | None]]:
        """Number and finish time of each record in the store, sorted."""
        records = [
            json.loads(payload)
            for part in self.raw.parts(DAY.key)
            for group in self.raw.payloads(DAY.key, part)
            for payload in group
        ]
        return sorted((one["number"], one["finished_at"] or "") for one in records)


@pytest.fixture
def make_scene(clock, tmp_path):
    @contextmanager
    def scene(clock_skew=timedelta()):
        """A scene; our clock is `clock_skew` ahead of Buildkite's."""

        def buildkite_time() -> float:
            return (clock.now() - clock_skew).timestamp()

        sandbox = Sandbox(World(days=1, builds_per_day=0), limits=False, clock=buildkite_time)
        with (
            running(sandbox) as url,
            BuildkiteClient("acme", sandbox.buildkite_token, api_url=url, clock=clock) as client,
        ):
            yield Scene(sandbox, client, RawStore(Folder(str(tmp_path / "data"))), clock)

    return scene


@pytest.fixture
def scene(make_scene):
    with make_scene() as made:
        yield made


@pytest.mark.parametrize("duration", [timedelta(minutes=20), timedelta(days=9)], ids=str)
def test_build_that_ends_on_a_later_day_is_stored_in_its_own_day(scene, clock, duration):
    created = START + 24 * HOUR - 10 * MINUTE
    running_build = scene.add(1, created_at=text_of(created), finished_at=None, state="running")
    clock.moment = created + 5 * MINUTE
    scene.extract()
    clock.moment = created + duration - MINUTE
    scene.extract()
    end = text_of(created + duration)
    scene.sandbox.world.add_build(running_build | {"finished_at": end, "state": "passed"})
    clock.moment = created + duration + MINUTE

    found = scene.extract()

    assert (found.stored, found.usage.requests) == (1, 1)
    assert scene.stored() == [(1, ""), (1, end)]


@pytest.mark.parametrize("blocked", [True, False], ids=["unblocked", "retried"])
@pytest.mark.parametrize("seen_running", [True, False], ids=["seen running", "not seen running"])
def test_build_that_finishes_again_is_stored_once_per_finish(
    *, scene, clock, blocked, seen_running
):
    first, second = text_of(START + HOUR), text_of(START + 5 * HOUR)
    paused = scene.add(1, finished_at=first, blocked=blocked)
    clock.moment = START + 2 * HOUR
    scene.extract()
    scene.sandbox.world.add_build(
        paused | {"finished_at": None, "state": "running", "blocked": False}
    )
    clock.moment = START + 3 * HOUR
    if seen_running:
        scene.extract()
    scene.sandbox.world.add_build(paused | {"finished_at": second, "blocked": False})
    clock.moment = START + 5 * HOUR + MINUTE
    for _ in range(3):
        scene.extract()
        clock.moment += MINUTE

    assert scene.stored() == [(1, first), (1, second)]


@pytest.mark.parametrize("minutes", [-45, -3, 3, 45], ids="{:+} min".format)
def test_clock_skew_misses_nothing(make_scene, clock, minutes):
    """A build ends every four minutes, a sync follows every seven."""
    with make_scene(clock_skew=minutes * MINUTE) as scene:
        clock.moment = START + 12 * HOUR + minutes * MINUTE
        ends = []
        for step in range(1, 40):
            clock.moment += MINUTE
            now = clock.now() - minutes * MINUTE
            if step % 4 == 0:
                ends.append(text_of(now))
                scene.add(step, created_at=text_of(now - 30 * MINUTE), finished_at=ends[-1])
            if step % 7 == 0:
                scene.extract()
        clock.moment += HOUR
        found = scene.extract()

        assert [end for _, end in scene.stored()] == ends
        assert found.clock_skew == max(minutes, 0) * MINUTE


def test_malformed_date_header_is_ignored(scene, clock):
    scene.sandbox.faults.inject("buildkite", "status", status=200, body=[], headers={"date": "?"})
    assert scene.extract().watermark == clock.now()


def add_finished_builds(scene, count):
    for number in range(1, count + 1):
        created = START + timedelta(seconds=60 * number)
        scene.add(number, created_at=text_of(created), finished_at=text_of(created + HOUR))


def after_first_page(change):
    """Return a `progress` callback that calls `change` once, after the first page was read."""
    pending = [change]

    def progress(_):
        if pending:
            pending.pop()()

    return progress


@pytest.mark.parametrize("first_time", [True, False], ids=["whole day", "since the watermark"])
@pytest.mark.parametrize("change", ["created", "deleted", "resumed", "finished"])
def test_listing_that_changes_while_it_is_read_misses_no_build(*, scene, clock, first_time, change):
    """Pages count from the newest build, so a build that leaves the listing shifts the others."""
    if not first_time:
        clock.moment = START + MINUTE
        scene.extract()
    add_finished_builds(scene, 250)
    newest = text_of(START + 11 * HOUR)
    waiting = scene.add(999, created_at=newest, finished_at=None, state="running")
    clock.moment = START + 12 * HOUR

    def shift():
        now = text_of(clock.now())
        for number in range(241, 251):  # on the first page
            if change == "created":
                scene.add(number + 100, created_at=now, finished_at=None, state="scheduled")
            elif change == "deleted":
                scene.sandbox.world.delete_build(build(number)["id"])
            elif change == "resumed":
                created = START + timedelta(seconds=60 * number)
                scene.add(number, created_at=text_of(created), finished_at=None, state="running")
        if change == "finished":
            scene.sandbox.world.add_build(waiting | {"finished_at": now, "state": "passed"})

    found = scene.extract(progress=after_first_page(shift))

    numbers = [number for number, _ in scene.stored() if number <= 250]
    assert numbers == list(range(1, 251))
    assert found.usage.requests == 3
    clock.moment += MINUTE
    assert scene.extract().stored == (1 if change == "finished" else 0)
    assert len(set(scene.stored())) == len(scene.stored())


def test_requests_and_waits_are_counted(scene, clock):
    add_finished_builds(scene, 150)
    scene.sandbox.faults.inject("buildkite", "status", status=503, headers={"retry-after": "20"})

    found = scene.extract()

    assert found.usage.requests == 3
    assert found.usage.waited_s == sum(clock.slept) >= 20


def test_day_beyond_the_retention_period_is_empty(scene, clock):
    clock.moment = datetime(2028, 1, 1, tzinfo=UTC)
    found = scene.extract()
    assert (found.listed, found.full, scene.raw.parts(DAY.key)) == (0, True, [])

"""One quota for several objects, as for several processes, and for real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bk_pipeline.buildkite.api import Gate
from bk_pipeline.buildkite.shared_quota import LEASE_S, SharedQuota
from bk_pipeline.errors import QuotaSpent, StorageError
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.buildkite.test_quota import headers

WORKER = Path(__file__).with_name("quota_worker.py")
TIMEOUT_S = 120


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "quota.json"


@pytest.fixture
def two(path):
    """Two processes' quotas; the first was told that 40 of 50 remain, at moment 100."""
    one, other = SharedQuota(path), SharedQuota(path)
    one.settle(one.begin(100), 100, headers(), complete=True)
    return one, other


def test_what_one_was_told_the_other_knows(two):
    one, other = two
    one.settle(one.begin(101), 101, headers(user_remaining=2, reset=30), complete=True)
    assert other.wait(101).seconds == 31
    assert [s.left for s in other.standings(101)] == [40, 2]


def test_requests_of_one_count_as_made_for_the_other(two):
    one, other = two
    one.settle(one.begin(101), 101, headers(user_remaining=4), complete=True)
    ticket = one.begin(102)
    assert other.begin(102) is not None
    assert other.begin(102) is None
    assert (one.elsewhere, other.elsewhere) == (0, 1)
    one.settle(ticket, 103, headers(user_remaining=3), complete=True)
    assert other.begin(103) is None


def test_only_one_process_asks_for_a_new_window(path):
    one, other = SharedQuota(path), SharedQuota(path)
    first = one.begin(100)
    assert other.begin(100) is None
    one.settle(first, 101, headers(), complete=True)
    assert other.begin(101) is not None


def test_429_of_one_blocks_the_other(two):
    one, other = two
    one.block(100, 42)
    assert other.begin(142.9) is None
    assert other.begin(143) is not None


def test_what_a_dead_process_asked_is_forgotten_in_time(path):
    SharedQuota(path).begin(100)
    alive = SharedQuota(path)
    assert alive.begin(100 + LEASE_S - 1) is None
    assert alive.begin(100 + LEASE_S) is not None


def test_answer_after_the_lease_is_taken_in(two):
    one, other = two
    late = one.begin(101)
    assert other.begin(400) is not None
    one.settle(late, 401, headers(user_remaining=0, reset=59), complete=True)
    assert other.pause_s(401) == 60


@pytest.mark.parametrize("content", [b"", b'{"issued": 1', b"[]", b"\xff"])
def test_file_that_cannot_be_read_is_begun_anew(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert SharedQuota(path).begin(100) is not None


def test_moments_of_before_a_restart_are_forgotten(path):
    before = SharedQuota(path)
    before.settle(before.begin(9e6), 9e6, headers(user_remaining=0), complete=True)
    before.block(9e6, 60)
    before.begin(9e6 + 500)
    assert SharedQuota(path).begin(50) is not None


def test_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="BK_PIPELINE_DATA_DIR"):
        SharedQuota(tmp_path / "file" / "quota.json").begin(100)


@pytest.mark.parametrize("answered_after", [3, 8])
def test_gate_looks_again_while_another_process_asks(path, clock, answered_after):
    other = SharedQuota(path)
    ticket = other.begin(clock.monotonic())
    looks = []

    class Watched(type(clock)):
        def sleep(self, seconds):
            super().sleep(seconds)
            looks.append(seconds)
            if len(looks) == answered_after:
                other.settle(ticket, self.monotonic(), headers(), complete=True)

    announced = []
    watched = Watched(clock.now())
    gate = Gate(SharedQuota(path), clock=watched, on_wait=announced.append)

    assert gate.enter()
    assert looks == [1] * answered_after
    # A wait of more than a few seconds is announced, and once.
    assert len(announced) == (answered_after > 3)


def test_gate_has_no_more_patience_with_another_process_than_it_was_given(path, clock):
    SharedQuota(path).begin(clock.monotonic())
    gate = Gate(SharedQuota(path), clock=clock, on_wait=print, patience_s=10)
    with pytest.raises(QuotaSpent, match="being asked for"):
        gate.enter()
    assert sum(clock.slept) == 10


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, WORKER, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("limits", "scope", "reserve"),
    [
        ({"user_limit": 20}, "rest_user", 2),
        # A tenth of 80 less what others can use while four requests are under way.
        ({"organization_limit": 80, "background_requests": 1}, "rest", 8 - 4),
    ],
    ids=["user", "organization, with background requests"],
)
def test_processes_that_share_a_token_leave_the_reserve(path, limits, scope, reserve):
    """Each of them alone would stay below the limit, and together they would be above it."""
    sandbox = Sandbox(World(days=1, builds_per_day=0), window_s=1, **limits)
    with running(sandbox) as url:
        workers = [start("ask", url, sandbox.buildkite_token, path, 12) for _ in range(4)]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        asked = [int(worker.communicate(timeout=TIMEOUT_S)[0]) for worker in workers]

    assert asked == [12] * 4
    assert sandbox.buildkite.request_count == 48
    assert sandbox.limits.refused_count == 0
    assert sandbox.limits.lowest_remaining[scope] >= reserve


def test_process_that_is_killed_keeps_nobody_waiting_for_its_lock(path, two):
    worker = start("die", path)
    assert worker.stdout.readline() == "gone\n"
    worker.kill()
    worker.communicate(timeout=TIMEOUT_S)
    assert SharedQuota(path).standings(0) is not None

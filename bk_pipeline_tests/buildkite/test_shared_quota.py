"""A quota shared by several objects in one process, and by real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bk_pipeline.buildkite.api import QuotaLimiter
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
    """The quotas of two processes; the first received a report of 40 of 50 at time 100."""
    one, other = SharedQuota(path), SharedQuota(path)
    one.settle(one.begin(100), 100, headers(), complete=True)
    return one, other


def test_report_to_one_process_counts_for_the_other(two):
    one, other = two
    one.settle(one.begin(101), 101, headers(user_remaining=2, reset=30), complete=True)
    assert other.wait(101).seconds == 31
    assert [s.remaining for s in other.statuses(101)] == [40, 2]


def test_requests_of_one_process_count_for_the_other(two):
    one, other = two
    one.settle(one.begin(101), 101, headers(user_remaining=4), complete=True)
    permit = one.begin(102)
    assert other.begin(102) is not None
    assert other.begin(102) is None
    assert (one.under_way_elsewhere, other.under_way_elsewhere) == (0, 1)
    one.settle(permit, 103, headers(user_remaining=3), complete=True)
    assert other.begin(103) is None


def test_only_one_process_probes_a_new_window(path):
    one, other = SharedQuota(path), SharedQuota(path)
    first = one.begin(100)
    assert other.begin(100) is None
    one.settle(first, 101, headers(), complete=True)
    assert other.begin(101) is not None


def test_429_of_one_process_blocks_the_other(two):
    one, other = two
    one.block(100, 42)
    assert other.begin(142.9) is None
    assert other.begin(143) is not None


def test_requests_of_a_dead_process_expire(path):
    SharedQuota(path).begin(100)
    alive = SharedQuota(path)
    assert alive.begin(100 + LEASE_S - 1) is None
    assert alive.begin(100 + LEASE_S) is not None


def test_response_after_the_lease_still_counts(two):
    one, other = two
    late = one.begin(101)
    assert other.begin(400) is not None
    one.settle(late, 401, headers(user_remaining=0, reset=59), complete=True)
    assert other.pause_s(401) == 60


@pytest.mark.parametrize("content", [b"", b'{"issued": 1', b"[]", b"\xff"])
def test_corrupt_file_is_replaced(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert SharedQuota(path).begin(100) is not None


def test_times_from_before_a_reboot_are_dropped(path):
    before = SharedQuota(path)
    before.settle(before.begin(9e6), 9e6, headers(user_remaining=0), complete=True)
    before.block(9e6, 60)
    before.begin(9e6 + 500)
    assert SharedQuota(path).begin(50) is not None


def test_unwritable_path_is_an_error_with_the_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="BK_PIPELINE_DATA_DIR"):
        SharedQuota(tmp_path / "file" / "quota.json").begin(100)


@pytest.mark.parametrize("answered_after", [3, 8])
def test_limiter_polls_while_another_process_probes(path, clock, answered_after):
    other = SharedQuota(path)
    permit = other.begin(clock.monotonic())
    polls = []

    class Watched(type(clock)):
        def sleep(self, seconds):
            super().sleep(seconds)
            polls.append(seconds)
            if len(polls) == answered_after:
                other.settle(permit, self.monotonic(), headers(), complete=True)

    announced = []
    watched = Watched(clock.now())
    limiter = QuotaLimiter(SharedQuota(path), clock=watched, on_wait=announced.append)

    assert limiter.acquire()
    assert polls == [1] * answered_after
    # A wait of more than a few seconds is reported, once.
    assert len(announced) == (answered_after > 3)


def test_wait_for_another_process_is_limited(path, clock):
    SharedQuota(path).begin(clock.monotonic())
    limiter = QuotaLimiter(SharedQuota(path), clock=clock, on_wait=print, max_wait_s=10)
    with pytest.raises(QuotaSpent, match="is checking Buildkite's"):
        limiter.acquire()
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
    """Each process alone would stay below the limit; together they would exceed it."""
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


def test_lock_of_a_killed_process_is_released(path, two):
    worker = start("die", path)
    assert worker.stdout.readline() == "gone\n"
    worker.kill()
    worker.communicate(timeout=TIMEOUT_S)
    assert SharedQuota(path).statuses(0) is not None

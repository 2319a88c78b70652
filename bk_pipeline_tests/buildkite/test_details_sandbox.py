"""The client of logs, artifacts and test results against the sandbox, under ordered faults."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import timedelta

import msgspec
import pytest

from bk_pipeline.app import App
from bk_pipeline.buildkite.detail_records import JobRef
from bk_pipeline.buildkite.quota import Quota
from bk_pipeline.buildkite.shared_quota import SharedQuota
from bk_pipeline.cli.demo import environment
from bk_pipeline.errors import AccessDenied, BudgetSpent, Gone, QuotaSpent, ServiceUnavailable
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.session import HttpSession
from bk_pipeline.sandbox.logs import is_deleted, log_of
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.settings import Settings
from bk_pipeline.window import Window
from bk_pipeline_tests.buildkite.test_sandbox import DAYS

LATER_MS = 1 << 45
ALL_LOGS = "*/log"


@pytest.fixture(scope="module")
def world():
    """A day of builds; read-only."""
    return World(seed=3, days=1, builds_per_day=40, today=DAYS.end.date())


@pytest.fixture
def start(world, clock, connect):
    """Starts a sandbox; returns it, a client of its builds, and one of its details."""
    with ExitStack() as opened:

        def start(scopes=None, quota=None, **options):
            sandbox = Sandbox(world, clock=lambda: clock.now().timestamp(), **options)
            url = opened.enter_context(running(sandbox))
            token = sandbox.add_token(scopes) if scopes else sandbox.buildkite_token
            client = connect(url, token)
            return sandbox, client, opened.enter_context(client.details(quota or Quota()))

        yield start


@pytest.fixture(scope="module")
def finished(world):
    """The builds that had finished when the tests' clock begins, as the API shows them."""
    sandbox = Sandbox(world, clock=lambda: DAYS.end.timestamp() + 43_000, limits=False)
    with running(sandbox) as url:
        settings = Settings.of(**environment(sandbox, url))
        with App(settings).buildkite(quota=Quota()) as client:
            day = Window(DAYS.end - timedelta(days=1), DAYS.end)
            records = [one for page in client.iter_builds(day) for one in page.builds]
    return [msgspec.json.decode(one.payload) for one in records if one.finished_ns]


@pytest.fixture(scope="module")
def jobs(finished):
    """The script jobs that have run, by the reference that the client takes."""
    return {
        JobRef(build["pipeline"]["slug"], build["number"], job["id"]): job
        for build in finished
        for job in build["jobs"]
        if job["type"] == "script" and job["started_at"] and job["finished_at"]
    }


@pytest.fixture(scope="module")
def with_log(jobs):
    """The jobs whose logs were not deleted."""
    return {ref: job for ref, job in jobs.items() if not is_deleted(job)}


def read(block):
    with block as chunks:
        return b"".join(chunks)


def stored(job):
    return log_of(job, LATER_MS)


def test_logs_are_read_in_each_way(start, with_log):
    _, _, details = start(limits=False)
    for ref, job in list(with_log.items())[:40]:
        content = stored(job).content
        assert read(details.log(ref)) == content
        assert details.log_size(ref) == len(content)
        assert details.header_times(ref) == stored(job).header_times
        tail = details.log_tail(ref, 500)
        assert (tail.content, tail.size) == (content[-500:], len(content))


@pytest.mark.parametrize("kind", ["status", "reset", "reset_after", "cut_body", "slow_body"])
def test_log_is_whole_despite_faults(start, with_log, kind):
    sandbox, _, details = start(limits=False)
    ref, job = next(iter(with_log.items()))
    details_of_kind = {"seconds": 0.01} if kind == "slow_body" else {}
    sandbox.faults.inject("buildkite", kind, count=2, path=ALL_LOGS, **details_of_kind)
    assert read(details.log(ref)) == stored(job).content
    sandbox.faults.inject("buildkite", kind, count=2, path=ALL_LOGS, **details_of_kind)
    assert details.log_tail(ref).content == stored(job).content[-256 * 1024 :]
    sandbox.faults.inject("buildkite", kind, count=2, path=ALL_LOGS, **details_of_kind)
    assert details.header_times(ref) == stored(job).header_times


def test_body_that_trickles_is_given_up_in_time(world, with_log):
    ref = next(iter(with_log))
    sandbox = Sandbox(world, clock=lambda: DAYS.end.timestamp() + 43_000)
    sandbox.faults.inject("buildkite", "slow_body", path=ALL_LOGS, seconds=0.1, pieces=500)
    path = f"/v2/organizations/acme/pipelines/{ref.pipeline}/builds/{ref.number}/jobs/{ref.job_id}"
    with (
        running(sandbox) as url,
        HttpSession(
            url,
            setting="X",
            headers={"Authorization": f"Bearer {sandbox.buildkite_token}"},
            timeouts=Timeouts(connect_s=5, read_s=5, total_s=1),
        ) as session,
        session.stream(f"{path}/log", headers={"Accept": "text/plain"}) as streamed,
    ):
        assert streamed.response.ok
        with pytest.raises(ServiceUnavailable, match="no complete answer came in time"):
            list(streamed.chunks)


def test_cut_log_is_resumed_and_not_read_twice(start, with_log):
    sandbox, _, details = start(limits=False)
    ref, job = max(with_log.items(), key=lambda item: len(stored(item[1]).content))
    sandbox.faults.inject("buildkite", "cut_body", count=3, path=ALL_LOGS)
    sizes = []
    details._spend = sizes.append
    assert read(details.log(ref)) == stored(job).content
    assert sum(sizes) == len(stored(job).content)


def test_log_that_is_always_cut_is_given_up(start, with_log):
    sandbox, _, details = start(limits=False)
    ref = next(iter(with_log))
    sandbox.faults.inject("buildkite", "cut_body", count=100, path=ALL_LOGS)
    with pytest.raises(ServiceUnavailable, match="broke off"):
        read(details.log(ref))
    assert sandbox.buildkite.request_count <= 7


def test_deleted_log_is_gone(start, jobs, with_log):
    _, _, details = start(limits=False)
    deleted = [ref for ref in jobs if ref not in with_log]
    assert deleted
    for call in (details.log_size, details.log_tail, details.header_times):
        with pytest.raises(Gone, match="the log of job"):
            call(deleted[0])
    with pytest.raises(Gone), details.log(deleted[0]):
        pass


def test_empty_log_is_empty_in_each_way(start, finished):
    _, _, details = start(limits=False)
    ref = next(
        JobRef(build["pipeline"]["slug"], build["number"], job["id"])
        for build in finished
        for job in build["jobs"]
        if job["type"] == "script" and not job["started_at"] and not is_deleted(job)
    )
    assert read(details.log(ref)) == b""
    assert details.log_size(ref) == 0
    assert (details.log_tail(ref).content, details.log_tail(ref).whole) == (b"", True)
    assert details.header_times(ref) == []


def test_artifacts_are_downloaded_and_no_token_leaves_the_api(start, finished):
    sandbox, _, details = start(limits=False)
    read_count = 0
    for build in finished:
        for artifact in details.artifacts(build["pipeline"]["slug"], build["number"]):
            if artifact.state == "finished":
                sandbox.faults.inject("artifacts", "cut_body", count=read_count % 2)
                assert len(read(details.download(artifact))) == artifact.size
                read_count += 1
            else:
                with pytest.raises(Gone):
                    read(details.download(artifact))
            sandbox.faults.clear()
        if read_count > 30:
            break
    store = sandbox.artifact_store
    assert store.leaked_count == 0
    assert store.request_count >= read_count
    assert sandbox.buildkite_token not in json.dumps(store.requests)


@pytest.mark.parametrize("kind", ["status", "reset", "cut_body", "slow_body", "html"])
def test_artifact_is_whole_despite_faults_of_its_store(start, finished, kind):
    sandbox, _, details = start(limits=False)
    artifact = next(
        artifact
        for build in finished
        for artifact in details.artifacts(build["pipeline"]["slug"], build["number"])
        if artifact.state == "finished"
    )
    whole = read(details.download(artifact))
    sandbox.faults.inject("artifacts", kind, count=2)
    found = read(details.download(artifact))
    assert sandbox.artifact_store.leaked_count == 0
    # A page with status 200 cannot be told from an artifact, except by its size.
    assert (found == whole) == (kind != "html")


def test_artifact_whose_address_expires_meanwhile_gets_a_new_one(start, finished, clock):
    sandbox, _, details = start(limits=False)
    artifact = next(
        one
        for build in finished
        for one in details.artifacts(build["pipeline"]["slug"], build["number"])
        if one.state == "finished"
    )
    sandbox.faults.inject("artifacts", "status", status=503, headers={"Retry-After": "90"})
    assert len(read(details.download(artifact))) == artifact.size
    assert clock.slept == [90]


def test_tests_of_a_build_are_read_in_pages(start, finished):
    _, _, details = start(limits=False)
    found = {build["id"]: list(details.tests(build["id"])) for build in finished[:30]}
    assert any(len(tests) > 40 for tests in found.values())
    names = [(one["scope"], one["name"]) for tests in found.values() for one in tests[:1]]
    assert names
    with pytest.raises(Gone, match="the tests of build"):
        list(details.tests("01901234-0000-7000-8000-000000000000"))


def test_each_scope_is_named_if_it_is_missing(start, with_log, finished):
    ref = next(iter(with_log))
    sandbox, _, details = start(["read_builds"], limits=False)
    for scope, call in {
        "read_build_logs": lambda: details.log_tail(ref),
        "read_artifacts": lambda: list(details.artifacts(ref.pipeline, ref.number)),
        "read_suites": lambda: list(details.tests(finished[0]["id"])),
    }.items():
        with pytest.raises(AccessDenied, match=f"the scope {scope} "):
            call()
    assert sandbox.buildkite.request_count == 3


def test_requests_in_the_background_meet_no_429_and_leave_extraction_its_share(
    start, with_log, clock, tmp_path
):
    path = tmp_path / "quota.json"
    quota = SharedQuota(path, background=0.5)
    sandbox, _, details = start(quota=quota)
    for ref in list(with_log)[:60]:
        details.log_size(ref)
    assert sandbox.limits.refused_count == 0
    # At least half of what is usable was left in every window.
    assert sandbox.limits.lowest_remaining["rest_user"] >= 25
    assert SharedQuota(path).wait(clock.monotonic()) is None


def test_extraction_does_not_wait_for_details(start, with_log, clock, tmp_path):
    path = tmp_path / "quota.json"
    sandbox, client, details = start(quota=SharedQuota(path, background=0.5))
    client._api = client._api.with_quota(SharedQuota(path))
    refs = iter(with_log)
    for _ in range(24):
        details.log_size(next(refs))
    assert not clock.slept
    for _ in range(20):
        client.access_token()
    assert not clock.slept
    before = clock.now()
    details.log_size(next(refs))  # waits, although extraction could go on
    assert clock.now() - before > timedelta(seconds=30)
    assert sandbox.limits.refused_count == 0


def test_app_makes_a_client_with_the_budget_of_all_processes(world, clock, with_log, tmp_path):
    sandbox = Sandbox(world, clock=lambda: clock.now().timestamp())
    ref, job = next(iter(with_log.items()))
    with running(sandbox) as url:
        values = environment(sandbox, url) | {"BK_PIPELINE_DATA_DIR": str(tmp_path / "data")}
        for expected in (None, BudgetSpent):
            app = App(Settings.of(**values), clock=clock)
            with app.buildkite() as client, app.details(client, share=0.5, bytes_per_day=1) as one:
                if expected is None:
                    assert read(one.log(ref)) == stored(job).content
                else:
                    with pytest.raises(expected):
                        read(one.log(ref))
        sandbox.limits.consume("rest_user", 40)
        app = App(Settings.of(**values), clock=clock)
        with app.buildkite() as client:
            client.access_token()
            with (
                app.details(client, share=0.5, bytes_per_day=9, max_wait_s=5) as one,
                pytest.raises(QuotaSpent),
            ):
                one.log_size(ref)

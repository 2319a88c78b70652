"""Logs, artifacts and test results of the stand-in for Buildkite, and the store of artifacts."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from bk_pipeline.sandbox.artifacts import artifacts_of
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.listing import RecordedBuild
from bk_pipeline.sandbox.logs import is_deleted, log_of
from bk_pipeline.sandbox.stories import story_of
from bk_pipeline.sandbox.times import parse_time
from bk_pipeline_tests.sandbox.conftest import NOON

LATER_MS = 1 << 45
MARK = re.compile(rb"\x1b_bk;t=(\d+)\x07")
HEADER = re.compile(rb"(?:^|\r\n)(?:\x1b_bk;t=(\d+)\x07)?(?:~~~ |--- |\+\+\+ )")
PLAIN = {"Accept": "text/plain"}


@pytest.fixture(scope="module")
def jobs(generated_builds):
    """All script jobs of the world as of their ends."""
    return [
        job
        for build in generated_builds
        for job in build_as_of(build, LATER_MS)["jobs"]
        if job["type"] == "script"
    ]


def url_of(job, end):
    return job["log_url"].removesuffix("/log").removeprefix("https://api.buildkite.com") + end


def one(jobs, **wanted):
    """The first job that ended before the sandbox's time, with these values and a log."""
    return next(
        job
        for job in jobs
        if job["finished_at"]
        and parse_time(job["finished_at"]) < NOON * 1000
        and not is_deleted(job)
        and all(job[name] == value for name, value in wanted.items())
    )


def test_log_is_served_as_json_and_as_text(client, jobs):
    job = one(jobs, state="passed")
    found = client.get(url_of(job, "/log")).json()
    text = client.get(url_of(job, "/log.txt"))
    assert list(found) == ["url", "content", "size", "header_times"]
    assert found["content"].encode() == text.content
    assert found["size"] == len(text.content)
    assert client.get(url_of(job, "/log"), extra_headers=PLAIN).content == text.content
    assert text.headers["content-type"].startswith("text/plain")
    assert client.get(url_of(job, "/log.txt")).content == text.content


def test_size_is_told_by_head(client, jobs):
    job = one(jobs, state="failed")
    size = len(client.get(url_of(job, "/log.txt")).content)
    headers = {"Authorization": f"Bearer {client.sandbox.buildkite_token}"}
    response = client.session.head(client.url + url_of(job, "/log"), headers=headers, timeout=20)
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["Content-Length"]) == size
    assert response.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("count", [1, 100, 10**9])
def test_tail_is_served_by_a_suffix(client, jobs, count):
    job = one(jobs, state="failed")
    whole = client.get(url_of(job, "/log.txt")).content
    ranged = {**PLAIN, "Range": f"bytes=-{count}"}
    response = client.get(url_of(job, "/log"), extra_headers=ranged)
    assert response.status_code == 206
    assert response.content == whole[-count:]
    start = max(len(whole) - count, 0)
    assert response.headers["Content-Range"] == f"bytes {start}-{len(whole) - 1}/{len(whole)}"


@pytest.mark.parametrize("value", ["bytes=0-9", "bytes=5-", "bytes=-0", "bytes=-1,-2", "lines=-1"])
def test_other_ranges_of_logs_are_refused_as_documented(client, jobs, value):
    job = one(jobs, state="passed")
    headers = {**PLAIN, "Range": value}
    assert client.get(url_of(job, "/log"), extra_headers=headers).status_code == 400
    headers = {"Range": "bytes=-5", "Accept": "application/json"}
    assert client.get(url_of(job, "/log"), extra_headers=headers).status_code == 400


def test_log_of_a_job_that_never_started_is_empty(client, jobs):
    job = next(
        job
        for job in jobs
        if not job["started_at"]
        and job["state"] in ("expired", "canceled")
        and not is_deleted(job)
        and parse_time(job["finished_at"]) < NOON * 1000
    )
    assert client.get(url_of(job, "/log")).json()["size"] == 0
    ranged = {**PLAIN, "Range": "bytes=-5"}
    assert client.get(url_of(job, "/log"), extra_headers=ranged).status_code == 416


def test_deleted_logs_and_unknown_jobs_are_not_found(client, jobs):
    deleted = next(job for job in jobs if is_deleted(job) and job["finished_at"])
    for path in (
        url_of(deleted, "/log"),
        url_of(deleted, "/log.txt"),
        url_of(one(jobs, state="passed"), "x/log"),
        url_of(one(jobs, state="passed"), "/artifacts/none"),
        url_of(one(jobs, state="passed"), "/artifacts/none/download"),
        "/v2/analytics/organizations/acme/builds/none/tests",
        "/v2/analytics/organizations/acme/builds/01901234-0000-7000-8000-000000000000/tests",
    ):
        assert client.get(path).status_code == 404, path
    assert 0 < sum(map(is_deleted, jobs)) < len(jobs) / 10


def test_times_of_a_log_are_those_of_its_job(jobs):
    timed = old = 0
    for job in jobs:
        log = log_of(job, LATER_MS)
        if log is None or not log.content:
            continue
        marks = [int(found) for found in MARK.findall(log.content)]
        headers = HEADER.findall(log.content)
        start, end = parse_time(job["started_at"]), parse_time(job["finished_at"])
        assert marks == sorted(marks)
        if marks:
            timed += 1
            assert start <= marks[0]
            assert marks[-1] <= end
            assert len(log.header_times) == len(headers)
            assert [at // 1_000_000 for at in log.header_times] == [int(at) for at in headers]
        else:
            old += 1
            assert len(log.header_times) == len(headers) + 1
    assert timed > 5 * old > 0


def test_log_of_a_running_job_grows(jobs):
    job = max(
        (job for job in jobs if not is_deleted(job) and (story := story_of(job)) and story.cases),
        key=lambda job: parse_time(job["finished_at"]) - parse_time(job["started_at"]),
    )
    start, end = parse_time(job["started_at"]), parse_time(job["finished_at"])
    contents = [log_of(job, start + (end - start) * share // 8).content for share in range(-1, 10)]
    assert contents[0] == b""
    assert all(after.startswith(before) for before, after in pairwise(contents))
    assert len(set(map(len, contents))) > 4


def test_output_fits_the_outcome(jobs):
    kinds = Counter()
    for job in jobs:
        story, log = story_of(job), log_of(job, LATER_MS)
        if story is None:
            continue
        hard = job["state"] in ("failed", "timed_out", "canceled")
        assert (story.cause is not None) == hard, job
        failed = [case for case in story.cases if case.result == "failed"]
        if story.cause is not None:
            kinds[story.cause.kind] += 1
            assert bool(failed) == (story.cause.kind == "test")
            if log is not None:
                assert all(line.encode() in log.content for line in story.cause.lines)
        else:
            assert not failed
    assert {"test", "build", "infrastructure", "timeout"} <= kinds.keys()


def test_same_world_has_the_same_logs_and_artifacts(jobs):
    for job in jobs[:200]:
        first, second = log_of(job, LATER_MS), log_of(dict(job), LATER_MS)
        assert (first and first.content) == (second and second.content)
        assert [one.content() for one in artifacts_of(job, LATER_MS)] == [
            one.content() for one in artifacts_of(dict(job), LATER_MS)
        ]


def test_junit_files_have_the_cases_of_the_job(jobs):
    reruns = failures = 0
    for job in jobs:
        for artifact in artifacts_of(job, LATER_MS):
            if not artifact.path.endswith(".xml"):
                continue
            root = ET.fromstring(artifact.content())
            cases = root.findall(".//testcase")
            took_s = sum(float(case.get("time")) for case in cases)
            length = timedelta(
                milliseconds=parse_time(job["finished_at"]) - parse_time(job["started_at"])
            )
            assert 0 < took_s <= length.total_seconds() + 0.1
            failed = root.findall(".//failure")
            assert bool(failed) == (job["state"] == "failed")
            failures += len(failed)
            reruns += len(root.findall(".//flakyFailure"))
    assert failures
    assert reruns


def test_artifacts_of_a_build_and_a_job_are_listed_in_pages(client, jobs):
    job = one(jobs, state="passed", command="make integration")
    build = job["build_url"].removeprefix("https://api.buildkite.com")
    listed, page = [], 1
    while True:
        response = client.get(f"{build}/artifacts?per_page=2&page={page}")
        listed += response.json()
        if "next" not in response.links:
            break
        page += 1
    assert page > 1
    assert listed == client.get(f"{build}/artifacts?per_page=100").json()
    of_job = client.get(url_of(job, "/artifacts")).json()
    assert of_job == [artifact for artifact in listed if artifact["job_id"] == job["id"]]
    assert of_job[0] == client.get(url_of(job, f"/artifacts/{of_job[0]['id']}")).json()
    assert {one["state"] for one in listed} <= {"finished", "expired", "error"}


def downloads(client, jobs):
    """The artifacts of the world's finished jobs that can be downloaded, with their jobs."""
    for job in jobs:
        if job["finished_at"] and parse_time(job["finished_at"]) < NOON * 1000:
            for artifact in artifacts_of(job, LATER_MS):
                if artifact.state == "finished":
                    yield job, artifact


def test_download_is_a_redirect_to_another_host_without_the_token(client, jobs):
    store = client.sandbox.artifact_store
    store.reset()
    job, artifact = next(downloads(client, jobs))
    path = url_of(job, f"/artifacts/{artifact.id}/download")
    response = client.get(path, allow_redirects=False)
    assert response.status_code == 302
    target = response.headers["Location"]
    assert response.json() == {"url": target}
    assert target.startswith(store.url)
    assert store.url != client.url

    found = client.session.get(target, timeout=20)
    assert found.content == artifact.content()
    listed = client.get(url_of(job, f"/artifacts/{artifact.id}")).json()
    assert listed["sha1sum"] == hashlib.sha1(found.content).hexdigest()
    assert listed["file_size"] == len(found.content)
    assert store.leaked_count == 0
    leaked = client.session.get(target, headers={"Authorization": "Bearer x"}, timeout=20)
    assert (leaked.status_code, store.leaked_count) == (400, 1)
    stored = client.session.get(client.url + "/_sandbox/stored", timeout=20).json()
    assert stored["artifact_requests_with_credentials"] == 1


def test_signed_address_expires_and_cannot_be_changed(client, jobs):
    job, artifact = next(downloads(client, jobs))
    path = url_of(job, f"/artifacts/{artifact.id}/download")
    target = client.get(path, allow_redirects=False).headers["Location"]
    get = client.session.get
    assert get(target.replace("Signature=", "Signature=0"), timeout=20).status_code == 403
    assert get(target.replace(artifact.id, "x"), timeout=20).status_code == 403
    assert get(target.partition("?")[0], timeout=20).status_code == 403
    client.clock.seconds = NOON + 59
    assert get(target, timeout=20).status_code == 200
    client.clock.seconds = NOON + 61
    assert get(target, timeout=20).status_code == 403


@pytest.mark.parametrize(
    ("value", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=5-999999999", 206, slice(5, None)),
        ("bytes=999999999-", 416, slice(0, 0)),
        ("bytes=1-2,5-6", 200, slice(None)),
        ("nonsense", 200, slice(None)),
    ],
)
def test_store_serves_ranges(client, jobs, value, status, part):
    job, artifact = next(downloads(client, jobs))
    path = url_of(job, f"/artifacts/{artifact.id}/download")
    target = client.get(path, allow_redirects=False).headers["Location"]
    found = client.session.get(target, headers={"Range": value}, timeout=20)
    assert (found.status_code, found.content) == (status, artifact.content()[part])


def test_hosts_serve_only_their_own(client):
    store = client.sandbox.artifact_store
    for url in (store.url + "/", store.url + "/v2/access-token", client.url + "/store/a/1/b/c"):
        assert client.session.get(url, timeout=20).status_code == 404


def test_expired_artifacts_are_listed_and_cannot_be_downloaded(client, jobs):
    job, artifact = next(
        (job, artifact)
        for job in jobs
        if job["finished_at"] and parse_time(job["finished_at"]) < NOON * 1000
        for artifact in artifacts_of(job, LATER_MS)
        if artifact.state == "expired"
    )
    listed = client.get(url_of(job, "/artifacts")).json()
    assert "expired" in {one["state"] for one in listed}
    path = url_of(job, f"/artifacts/{artifact.id}/download")
    assert client.get(path, allow_redirects=False).status_code == 404


def test_profile_is_a_chrome_trace(client, jobs):
    found = {}
    for _, artifact in downloads(client, jobs):
        if "profile" in artifact.path:
            found.setdefault(artifact.path, artifact.content())
    packed = found["out/command.profile.gz"]
    for content in (gzip.decompress(packed), found["out/build-profile.json"]):
        trace = json.loads(content)
        assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}


def test_results_of_test_engine_count_every_attempt(client, generated_builds):
    build = next(
        build
        for build in generated_builds
        if build.pipeline.slug == "e2e" and build.phases[-1].at_ms < NOON * 1000 and build.jobs
    )
    url = f"/v2/analytics/organizations/acme/builds/{build.ref.id}/tests"
    found, page = [], 1
    while True:
        response = client.get(f"{url}?per_page=10&page={page}")
        found += response.json()
        if "next" not in response.links:
            break
        page += 1
    assert page > 1
    averages = [one["duration_avg"] for one in found]
    assert averages == sorted(averages, reverse=True)
    for one in found:
        counts = one["executions_count_by_result"]
        assert {"passed", "failed"} <= counts.keys()
        assert sum(counts.values()) == one["executions_count"]
    jobs = build_as_of(build, LATER_MS)["jobs"]
    cases = [case for job in jobs if (story := story_of(job)) for case in story.cases]
    assert len(found) == len({(case.group, case.name) for case in cases})
    assert client.get(f"{url}?sort_by=nonsense").status_code == 422


@pytest.mark.parametrize(
    ("end", "scope"),
    [
        ("/log", "read_build_logs"),
        ("/log.txt", "read_build_logs"),
        ("/artifacts", "read_artifacts"),
    ],
)
def test_each_path_requires_its_scope(client, jobs, end, scope):
    job = one(jobs, state="passed")
    response = client.get(url_of(job, end), token=client.sandbox.add_token(["read_builds"]))
    assert response.status_code == 403
    assert scope in response.json()["message"]
    token = client.sandbox.add_token([scope])
    assert client.get(url_of(job, end), token=token).status_code == 200


def test_every_request_counts_against_both_limits(start_sandbox, jobs):
    client = start_sandbox()
    job = one(jobs, state="passed")
    for number, end in enumerate(("/log", "/log.txt", "/artifacts"), start=1):
        headers = client.get(url_of(job, end)).headers
        assert int(headers["RateLimit-Remaining"]) == 200 - number
        assert int(headers["RateLimit-User-Remaining"]) == 50 - number


def test_added_build_has_logs_and_tests_too(start_sandbox):
    client = start_sandbox(limits=False)
    build = client.sandbox.world.finish_build_now()
    assert RecordedBuild.of(build).slug == "playground"
    job = build["jobs"][-1]
    assert client.get(url_of(job, "/log")).status_code in (200, 404)
    url = f"/v2/analytics/organizations/acme/builds/{build['id']}/tests"
    assert client.get(url).status_code == 200


@pytest.mark.parametrize("service", ["buildkite", "artifacts"])
def test_slow_and_cut_bodies_are_injected(client, jobs, service):
    job, artifact = next(downloads(client, jobs))
    path = url_of(job, f"/artifacts/{artifact.id}/download")
    target = client.get(path, allow_redirects=False).headers["Location"]

    def get():
        if service == "artifacts":
            return client.session.get(target, timeout=20)
        return client.get(url_of(job, "/artifacts"))

    whole = get().content
    client.sandbox.faults.inject(service, "slow_body", seconds=0.01, pieces=3)
    assert get().content == whole
    client.sandbox.faults.inject(service, "cut_body")
    with pytest.raises(OSError, match=r"IncompleteRead|broken"):
        get()
    client.sandbox.faults.inject(service, "status", status=503)
    assert get().status_code == 503

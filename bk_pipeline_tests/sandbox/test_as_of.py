"""Properties of the builds that the sandbox shows at any time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bk_pipeline.sandbox.days import MAX_BUILD_LIFETIME
from bk_pipeline.sandbox.times import format_time, parse_time
from bk_pipeline.sandbox.world import build_as_of

ACTIVE = {"running", "scheduled", "assigned", "accepted", "canceling", "timing_out"}
FINISHED = {"passed", "failed", "canceled", "timed_out", "expired"}
# A build ends at most this long after its last job.
TAIL_MS = 372

coherence = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def change_times(build):
    """All times at which something about the build changes, in milliseconds."""
    times_ms = {phase.at_ms for phase in build.phases}
    for job in build.jobs:
        times_ms |= {job.created_ms, job.runnable_ms, job.started_ms, job.stopping_ms, job.ended_ms}
    return sorted(times_ms - {None})


@st.composite
def builds_and_times(draw, generated_builds):
    """A build and a time: any time, or exactly at, just before or just after a change."""
    build = generated_builds[draw(st.integers(0, len(generated_builds) - 1))]
    changes_ms = change_times(build)
    near_ms = draw(st.sampled_from(changes_ms)) + draw(st.integers(-2, 2))
    anywhere_ms = draw(st.integers(changes_ms[0] - 1_000, changes_ms[-1] + 10_000))
    return build, near_ms if draw(st.booleans()) else anywhere_ms


def times_in(payload):
    return {
        key: parse_time(value)
        for key, value in payload.items()
        if key.endswith("_at") and isinstance(value, str)
    }


def real_jobs(payload):
    return [job for job in payload["jobs"] if job["type"] in ("script", "trigger")]


@coherence
@given(data=st.data())
def test_no_time_is_later_than_the_request(generated_builds, data):
    build, at_ms = data.draw(builds_and_times(generated_builds))
    payload = build_as_of(build, at_ms)
    if payload is None:
        assert at_ms < build.created_ms
        return
    for part in (payload, *payload["jobs"]):
        assert all(at <= at_ms for at in times_in(part).values()), part


@coherence
@given(data=st.data())
def test_build_state_agrees_with_its_times_and_jobs(generated_builds, data):
    build, at_ms = data.draw(builds_and_times(generated_builds))
    payload = build_as_of(build, at_ms)
    if payload is None:
        return
    states = {job["state"] for job in payload["jobs"] if "state" in job}
    assert (payload["finished_at"] is not None) == (payload["state"] in FINISHED)
    if payload["state"] in ("running", "failing"):
        ends = [parse_time(job["finished_at"]) for job in real_jobs(payload) if job["finished_at"]]
        assert payload["started_at"] is not None
        assert states & (ACTIVE | {"waiting"}) or at_ms <= max(ends) + TAIL_MS
    if payload["finished_at"] is not None:
        assert not states & ACTIVE
        assert ("waiting" in states) <= payload["blocked"]
    assert payload["blocked"] <= ("blocked" in states)
    assert (payload["blocked_state"] != "") == payload["blocked"]


@coherence
@given(data=st.data())
def test_job_states_agree_with_their_times(generated_builds, data):
    build, at_ms = data.draw(builds_and_times(generated_builds))
    payload = build_as_of(build, at_ms)
    for job in real_jobs(payload) if payload else ():
        runnable, started, finished = job["runnable_at"], job["started_at"], job["finished_at"]
        assert (finished is not None) == (job["state"] in FINISHED)
        assert (job["state"] in ("running", "canceling", "timing_out")) == (
            started is not None and finished is None
        )
        if job["state"] in ("scheduled", "assigned", "accepted"):
            assert runnable is not None
            assert started is None
        times = [at for at in (job["created_at"], runnable, started, finished) if at]
        assert times == sorted(times)
        if job["type"] == "script":
            assert (job["exit_status"] is not None) == (
                started is not None and finished is not None
            )
            assert (started is not None) <= (job["agent"] is not None)
            assert job["soft_failed"] <= (job["state"] == "failed")


@coherence
@given(data=st.data())
def test_times_of_a_job_never_change(generated_builds, data):
    build, at_ms = data.draw(builds_and_times(generated_builds))
    later_ms = at_ms + data.draw(st.integers(0, 40_000_000))
    before, after = build_as_of(build, at_ms), build_as_of(build, later_ms)
    if before is None:
        return
    afterwards = {job["id"]: job for job in after["jobs"]}
    for job in before["jobs"]:
        for key, at in times_in(job).items():
            assert parse_time(afterwards[job["id"]][key]) == at


@coherence
@given(data=st.data())
def test_retried_job_and_its_retry_refer_to_each_other(generated_builds, data):
    build, at_ms = data.draw(builds_and_times(generated_builds))
    payload = build_as_of(build, at_ms)
    if payload is None:
        return
    jobs = {job["id"]: job for job in payload["jobs"]}
    for job in jobs.values():
        if job.get("retried"):
            source = jobs[job["retried_in_job_id"]]["retry_source"]
            assert source == {"job_id": job["id"], "retry_type": job["retry_type"]}
    shown = build_as_of(build, at_ms, retried_jobs=False)["jobs"]
    assert [job["id"] for job in shown] == [
        key for key, job in jobs.items() if not job.get("retried")
    ]


def test_phases_are_in_order_of_time(generated_builds):
    for build in generated_builds:
        assert all(first.at_ms < second.at_ms for first, second in pairwise(build.phases))


def test_builds_do_not_change_after_the_maximum_lifetime(generated_builds):
    assert all(
        change_times(build)[-1] - build.created_ms < MAX_BUILD_LIFETIME
        for build in generated_builds
    )


def test_clock_skew_is_as_in_recorded_responses(generated_builds):
    for build in generated_builds:
        if not build.jobs:
            continue
        assert 9 <= build.created_ms - build.jobs[0].created_ms <= 105
        payload = build_as_of(build, change_times(build)[-1])
        ends = [parse_time(job["finished_at"]) for job in real_jobs(payload) if job["finished_at"]]
        if payload["state"] != "canceled":
            assert 65 <= parse_time(payload["finished_at"]) - max(ends) <= 372


def test_same_time_gives_the_same_payload(generated_builds):
    build = generated_builds[0]
    assert build_as_of(build, build.created_ms) == build_as_of(build, build.created_ms)
    assert build_as_of(build, build.created_ms - 1) is None


@pytest.mark.parametrize(
    "text",
    ["2026-08-06T09:08:07.006Z", "2026-08-06T09:08:07.006+00:00", "2026-08-06 09:08:07.006 UTC"],
)
def test_times_are_parsed_in_new_and_old_formats(text):
    assert format_time(parse_time(text)) == "2026-08-06T09:08:07.006Z"

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bk_pipeline.sandbox.days import LONGEST_LIFE
from bk_pipeline.sandbox.times import format_time, parse_time
from bk_pipeline.sandbox.world import build_as_of

BUSY = {"running", "scheduled", "assigned", "accepted", "canceling", "timing_out"}
OVER = {"passed", "failed", "canceled", "timed_out", "expired"}
# The build's last job ends up to this long before the build itself does.
TAIL = 372

coherence = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def turning_points(build):
    """Every moment at which something about the build changes."""
    moments = {phase.at for phase in build.phases}
    for job in build.jobs:
        moments |= {job.created, job.runnable, job.started, job.stopping, job.ended}
    return sorted(moments - {None})


@st.composite
def moments_of(draw, lives):
    """A build and a moment of its life: anywhere, or right at, before or after a change."""
    build = lives[draw(st.integers(0, len(lives) - 1))]
    points = turning_points(build)
    near = draw(st.sampled_from(points)) + draw(st.integers(-2, 2))
    anywhere = draw(st.integers(points[0] - 1_000, points[-1] + 10_000))
    return build, near if draw(st.booleans()) else anywhere


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
def test_nothing_is_later_than_the_moment(lives, data):
    build, moment = data.draw(moments_of(lives))
    payload = build_as_of(build, moment)
    if payload is None:
        assert moment < build.created
        return
    for part in (payload, *payload["jobs"]):
        assert all(at <= moment for at in times_in(part).values()), part


@coherence
@given(data=st.data())
def test_build_state_agrees_with_its_times_and_jobs(lives, data):
    build, moment = data.draw(moments_of(lives))
    payload = build_as_of(build, moment)
    if payload is None:
        return
    states = {job["state"] for job in payload["jobs"] if "state" in job}
    assert (payload["finished_at"] is not None) == (payload["state"] in OVER)
    if payload["state"] in ("running", "failing"):
        ends = [parse_time(job["finished_at"]) for job in real_jobs(payload) if job["finished_at"]]
        assert payload["started_at"] is not None
        assert states & (BUSY | {"waiting"}) or moment <= max(ends) + TAIL
    if payload["finished_at"] is not None:
        assert not states & BUSY
        assert ("waiting" in states) <= payload["blocked"]
    assert payload["blocked"] <= ("blocked" in states)
    assert (payload["blocked_state"] != "") == payload["blocked"]


@coherence
@given(data=st.data())
def test_job_states_agree_with_their_times(lives, data):
    build, moment = data.draw(moments_of(lives))
    payload = build_as_of(build, moment)
    for job in real_jobs(payload) if payload else ():
        runnable, started, finished = job["runnable_at"], job["started_at"], job["finished_at"]
        assert (finished is not None) == (job["state"] in OVER)
        assert (job["state"] in ("running", "canceling", "timing_out")) == (
            started is not None and finished is None
        )
        if job["state"] in ("scheduled", "assigned", "accepted"):
            assert runnable is not None
            assert started is None
        known = [at for at in (job["created_at"], runnable, started, finished) if at]
        assert known == sorted(known)
        if job["type"] == "script":
            assert (job["exit_status"] is not None) == (
                started is not None and finished is not None
            )
            assert (started is not None) <= (job["agent"] is not None)
            assert job["soft_failed"] <= (job["state"] == "failed")


@coherence
@given(data=st.data())
def test_what_is_known_of_a_job_stays_known(lives, data):
    build, moment = data.draw(moments_of(lives))
    later = moment + data.draw(st.integers(0, 40_000_000))
    before, after = build_as_of(build, moment), build_as_of(build, later)
    if before is None:
        return
    afterwards = {job["id"]: job for job in after["jobs"]}
    for job in before["jobs"]:
        for key, at in times_in(job).items():
            assert parse_time(afterwards[job["id"]][key]) == at


@coherence
@given(data=st.data())
def test_a_retried_job_and_its_replacement_name_each_other(lives, data):
    build, moment = data.draw(moments_of(lives))
    payload = build_as_of(build, moment)
    if payload is None:
        return
    jobs = {job["id"]: job for job in payload["jobs"]}
    for job in jobs.values():
        if job.get("retried"):
            source = jobs[job["retried_in_job_id"]]["retry_source"]
            assert source == {"job_id": job["id"], "retry_type": job["retry_type"]}
    shown = build_as_of(build, moment, retried_jobs=False)["jobs"]
    assert [job["id"] for job in shown] == [
        key for key, job in jobs.items() if not job.get("retried")
    ]


def test_phases_follow_one_another(lives):
    for build in lives:
        assert all(first.at < second.at for first, second in pairwise(build.phases))


def test_every_life_is_over_within_its_bound(lives):
    assert all(turning_points(build)[-1] - build.created < LONGEST_LIFE for build in lives)


def test_clocks_disagree_as_they_do_in_recorded_answers(lives):
    for build in lives:
        if not build.jobs:
            continue
        assert 9 <= build.created - build.jobs[0].created <= 105
        payload = build_as_of(build, turning_points(build)[-1])
        ends = [parse_time(job["finished_at"]) for job in real_jobs(payload) if job["finished_at"]]
        if payload["state"] != "canceled":
            assert 65 <= parse_time(payload["finished_at"]) - max(ends) <= 372


def test_answers_are_equal_for_equal_moments(lives):
    build = lives[0]
    assert build_as_of(build, build.created) == build_as_of(build, build.created)
    assert build_as_of(build, build.created - 1) is None


@pytest.mark.parametrize(
    "text",
    ["2026-08-06T09:08:07.006Z", "2026-08-06T09:08:07.006+00:00", "2026-08-06 09:08:07.006 UTC"],
)
def test_times_are_read_in_new_and_old_formats(text):
    assert format_time(parse_time(text)) == "2026-08-06T09:08:07.006Z"

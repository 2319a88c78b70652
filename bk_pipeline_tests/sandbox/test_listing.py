"""Filters and contents of build listings."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bk_pipeline.sandbox.times import parse_time

BUILDS = "/v2/organizations/acme/builds"
NOON = "2026-08-06T12:00:00.000Z"


@pytest.fixture(scope="module")
def all_builds(running_client):
    return running_client.builds(include_retried_jobs="true")


def ids(builds):
    return [build["id"] for build in builds]


def test_builds_are_newest_first_and_none_is_from_the_future(client, all_builds):
    created = [build["created_at"] for build in all_builds]
    assert created == sorted(created, reverse=True)
    assert created[0] <= NOON
    assert created[-1] >= "2026-08-03"


def test_unfinished_builds_have_no_finished_at(client, all_builds):
    unfinished = [b for b in all_builds if b["state"] in ("scheduled", "running", "failing")]
    assert unfinished
    assert all(build["finished_at"] is None for build in unfinished)


def test_builds_appear_and_finish_as_time_passes(client, all_builds):
    running = next(build for build in all_builds if build["state"] == "running")
    client.clock.seconds += 3 * 86_400
    later = {build["id"]: build for build in client.builds()}
    assert later[running["id"]]["finished_at"] > NOON


def test_window_is_half_open(client, all_builds):
    first, last = all_builds[40], all_builds[10]
    builds = client.builds(created_from=first["created_at"], created_to=last["created_at"])
    assert ids(builds) == ids(all_builds[11:41])


def test_times_can_have_any_offset(client, all_builds):
    at = parse_time(all_builds[10]["created_at"]) / 1000
    local = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "-00:00")
    assert ids(client.builds(created_from=local)) == ids(all_builds[:11])


def test_finished_from_is_inclusive_and_excludes_unfinished_builds(client, all_builds):
    finished = sorted(build["finished_at"] for build in all_builds if build["finished_at"])
    builds = client.builds(finished_from=finished[-7])
    assert sorted(build["finished_at"] for build in builds) == finished[-7:]


@pytest.mark.parametrize(
    ("params", "states"),
    [
        ({"state": "failed"}, {"failed"}),
        ({"state[]": ["failed", "skipped"]}, {"failed", "skipped"}),
        ({"state": "finished"}, {"passed", "failed", "canceled"}),
        ({"state": "running"}, {"running"}),
    ],
    ids=["one", "several", "finished", "running"],
)
def test_state_filter(client, all_builds, params, states):
    expected = [build for build in all_builds if build["state"] in states]
    assert ids(client.builds(**params)) == ids(expected)
    assert expected


def test_blocked_filter_matches_although_no_build_has_that_state(client, all_builds):
    builds = client.builds(state="blocked")
    assert builds
    assert {build["state"] for build in builds} == {"passed"}
    assert ids(builds) == ids(build for build in all_builds if build["blocked"])


@pytest.mark.parametrize(
    ("params", "matches"),
    [
        ({"branch": "main"}, lambda branch: branch == "main"),
        ({"branch": "feature/*"}, lambda branch: branch.startswith("feature/")),
        ({"branch[]": ["v*", "master"]}, lambda branch: branch[0] == "v" or branch == "master"),
    ],
    ids=["exact", "wildcard", "several"],
)
def test_branch_filter(client, all_builds, params, matches):
    expected = [build for build in all_builds if matches(build["branch"])]
    assert ids(client.builds(**params)) == ids(expected)
    assert expected


def test_commit_creator_and_meta_data_filters(client, all_builds):
    build = next(b for b in all_builds if b["creator"] and b["meta_data"] and b["commit"] != "HEAD")
    key, value = next(iter(build["meta_data"].items()))
    assert build["id"] in ids(client.builds(commit=build["commit"]))
    assert {b["commit"] for b in client.builds(commit=build["commit"])} == {build["commit"]}
    creator = build["creator"]["id"]
    assert {b["creator"]["id"] for b in client.builds(creator=creator)} == {creator}
    assert {b["meta_data"][key] for b in client.builds(**{f"meta_data[{key}]": value})} == {value}
    assert client.builds(**{f"meta_data[{key}]": "something else"}) == []


def test_pipeline_listing_has_only_its_builds(client, all_builds):
    builds = client.builds("/v2/organizations/acme/pipelines/web/builds")
    assert ids(builds) == ids(b for b in all_builds if b["pipeline"]["slug"] == "web")


def test_retried_jobs_are_excluded_by_default(client, all_builds):
    retried = {job["id"] for build in all_builds for job in build["jobs"] if job.get("retried")}
    assert retried
    plain = {job["id"] for build in client.builds() for job in build["jobs"]}
    assert retried.isdisjoint(plain)


def test_jobs_and_pipeline_can_be_excluded(client):
    for build in client.builds(exclude_jobs="true", exclude_pipeline="true"):
        assert "jobs" not in build
        assert "pipeline" not in build


def test_one_build_is_found_by_its_number(client, all_builds):
    build = all_builds[20]
    path = build["url"].removeprefix("https://api.buildkite.com")
    assert client.get(path, params={"include_retried_jobs": "true"}).json() == build


def test_added_build_is_served_unchanged(start_sandbox):
    client = start_sandbox(limits=False)
    recorded = {
        "id": "old",
        "number": 7,
        "state": "passed",
        "created_at": "2015-04-23 16:55:52 UTC",
        "finished_at": "2015-04-23 16:58:00 UTC",
        "jobs": [{"id": "a", "retried": True}, {"id": "b"}],
        "pipeline": {"slug": "legacy", "name": "Legacy"},
    }
    client.sandbox.world.add_build(recorded)
    path = "/v2/organizations/acme/pipelines/legacy/builds"
    assert client.builds(path, include_retried_jobs="true") == [recorded]
    assert client.get(f"{path}/7").json()["jobs"] == [{"id": "b"}]
    assert client.builds(created_from="2015-04-23", created_to="2015-04-24", exclude_jobs="true")
    assert "legacy" in [p["slug"] for p in client.get("/v2/organizations/acme/pipelines").json()]


@pytest.mark.parametrize(
    "params",
    [
        {"created_from": "yesterday"},
        {"state": "done"},
        {"page": "0"},
        {"per_page": "many"},
        {"include_retried_jobs": "perhaps"},
    ],
    ids=str,
)
def test_malformed_parameter_is_rejected_by_name(client, params):
    response = client.get(BUILDS, params=params)
    assert response.status_code == 422
    assert next(iter(params)) in response.json()["message"]


def test_unencoded_plus_in_a_time_is_rejected(client):
    response = client.get(BUILDS + "?created_from=2026-08-06T00:00:00+00:00")
    assert response.status_code == 422

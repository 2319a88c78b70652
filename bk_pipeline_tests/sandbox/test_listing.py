from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bk_pipeline.sandbox.times import parse_time

BUILDS = "/v2/organizations/acme/builds"
NOON = "2026-08-06T12:00:00.000Z"


@pytest.fixture(scope="module")
def everything(served):
    return served.builds(include_retried_jobs="true")


def ids(builds):
    return [build["id"] for build in builds]


def test_newest_come_first_and_none_from_the_future(client, everything):
    created = [build["created_at"] for build in everything]
    assert created == sorted(created, reverse=True)
    assert created[0] <= NOON
    assert created[-1] >= "2026-08-03"


def test_unfinished_builds_are_shown_as_far_as_they_have_come(client, everything):
    unfinished = [b for b in everything if b["state"] in ("scheduled", "running", "failing")]
    assert unfinished
    assert all(build["finished_at"] is None for build in unfinished)


def test_builds_appear_and_finish_as_time_passes(client, everything):
    running = next(build for build in everything if build["state"] == "running")
    client.clock.seconds += 3 * 86_400
    later = {build["id"]: build for build in client.builds()}
    assert later[running["id"]]["finished_at"] > NOON


def test_window_is_half_open(client, everything):
    first, last = everything[40], everything[10]
    found = client.builds(created_from=first["created_at"], created_to=last["created_at"])
    assert ids(found) == ids(everything[11:41])


def test_times_may_have_any_offset(client, everything):
    at = parse_time(everything[10]["created_at"]) / 1000
    local = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "-00:00")
    assert ids(client.builds(created_from=local)) == ids(everything[:11])


def test_finished_from_is_inclusive_and_leaves_out_the_unfinished(client, everything):
    finished = sorted(build["finished_at"] for build in everything if build["finished_at"])
    found = client.builds(finished_from=finished[-7])
    assert sorted(build["finished_at"] for build in found) == finished[-7:]


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
def test_states_are_filtered(client, everything, params, states):
    expected = [build for build in everything if build["state"] in states]
    assert ids(client.builds(**params)) == ids(expected)
    assert expected


def test_blocked_is_a_filter_though_no_build_shows_it_as_state(client, everything):
    found = client.builds(state="blocked")
    assert found
    assert {build["state"] for build in found} == {"passed"}
    assert ids(found) == ids(build for build in everything if build["blocked"])


@pytest.mark.parametrize(
    ("params", "matches"),
    [
        ({"branch": "main"}, lambda branch: branch == "main"),
        ({"branch": "feature/*"}, lambda branch: branch.startswith("feature/")),
        ({"branch[]": ["v*", "master"]}, lambda branch: branch[0] == "v" or branch == "master"),
    ],
    ids=["exact", "wildcard", "several"],
)
def test_branches_are_filtered(client, everything, params, matches):
    expected = [build for build in everything if matches(build["branch"])]
    assert ids(client.builds(**params)) == ids(expected)
    assert expected


def test_commit_creator_and_meta_data_are_filtered(client, everything):
    build = next(b for b in everything if b["creator"] and b["meta_data"] and b["commit"] != "HEAD")
    key, value = next(iter(build["meta_data"].items()))
    assert build["id"] in ids(client.builds(commit=build["commit"]))
    assert {b["commit"] for b in client.builds(commit=build["commit"])} == {build["commit"]}
    creator = build["creator"]["id"]
    assert {b["creator"]["id"] for b in client.builds(creator=creator)} == {creator}
    assert {b["meta_data"][key] for b in client.builds(**{f"meta_data[{key}]": value})} == {value}
    assert client.builds(**{f"meta_data[{key}]": "something else"}) == []


def test_one_pipeline_has_its_own_listing(client, everything):
    found = client.builds("/v2/organizations/acme/pipelines/web/builds")
    assert ids(found) == ids(b for b in everything if b["pipeline"]["slug"] == "web")


def test_retried_attempts_are_hidden_unless_asked_for(client, everything):
    retried = {job["id"] for build in everything for job in build["jobs"] if job.get("retried")}
    assert retried
    plain = {job["id"] for build in client.builds() for job in build["jobs"]}
    assert retried.isdisjoint(plain)


def test_jobs_and_pipeline_can_be_left_out(client):
    for build in client.builds(exclude_jobs="true", exclude_pipeline="true"):
        assert "jobs" not in build
        assert "pipeline" not in build


def test_one_build_is_found_by_its_number(client, everything):
    build = everything[20]
    path = build["url"].removeprefix("https://api.buildkite.com")
    assert client.get(path, params={"include_retried_jobs": "true"}).json() == build


def test_recorded_build_is_served_as_it_is(serve_alone):
    client = serve_alone(limits=False)
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
def test_malformed_values_are_refused_by_name(client, params):
    answer = client.get(BUILDS, params=params)
    assert answer.status_code == 422
    assert next(iter(params)) in answer.json()["message"]


def test_unencoded_plus_in_a_time_is_not_understood(client):
    answer = client.get(BUILDS + "?created_from=2026-08-06T00:00:00+00:00")
    assert answer.status_code == 422

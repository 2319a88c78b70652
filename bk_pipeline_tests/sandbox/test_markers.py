"""The stand-in for Honeycomb's marker API."""

from __future__ import annotations

import pytest

MARKER = {"start_time": 1_785_000_000, "type": "deploy", "message": "web #7", "url": "https://a"}


@pytest.fixture
def call(client, event):
    """Sends requests with the configuration key; the dataset `ci` exists."""
    client.batch(event())

    def call(method, path, body=None, key=None):
        headers = {"X-Honeycomb-Team": key or client.sandbox.honeycomb_key}
        return client.session.request(
            method, f"{client.url}/1/{path}", json=body, headers=headers, timeout=20
        )

    return call


def test_created_marker_has_an_id_and_times_and_the_fields_sent(call):
    response = call("POST", "markers/ci", MARKER | {"id": "mine", "color": "#000000"})

    assert response.status_code == 201
    marker = response.json()
    assert {name: marker[name] for name in MARKER} == MARKER
    assert marker["created_at"] == marker["updated_at"] == "2026-08-06T12:00:00Z"
    assert len(marker["id"]) == 8
    assert "color" not in marker
    assert call("GET", "markers/ci").json() == [marker]


def test_marker_without_a_time_starts_now(call, client):
    assert call("POST", "markers/ci", {}).json()["start_time"] == client.clock()


def test_update_removes_missing_fields(call, client):
    marker = call("POST", "markers/ci", MARKER).json()
    client.clock.seconds += 60

    response = call("PUT", f"markers/ci/{marker['id']}", {"message": "other"})

    assert response.status_code == 200
    assert response.json() == {
        "id": marker["id"],
        "message": "other",
        "created_at": "2026-08-06T12:00:00Z",
        "updated_at": "2026-08-06T12:01:00Z",
    }


def test_deleted_marker_is_returned_and_no_longer_listed(call):
    marker = call("POST", "markers/ci", MARKER).json()

    response = call("DELETE", f"markers/ci/{marker['id']}")

    assert (response.status_code, response.json()) == (200, marker)
    assert call("GET", "markers/ci").json() == []
    assert call("DELETE", f"markers/ci/{marker['id']}").status_code == 404


def test_datasets_and_the_environment_have_separate_markers(call):
    call("POST", "markers/ci", MARKER)
    call("POST", "markers/__all__", MARKER)

    assert len(call("GET", "markers/ci").json()) == len(call("GET", "markers/CI").json()) == 1
    assert len(call("GET", "markers/__all__").json()) == 1


def test_unknown_dataset_has_no_markers_and_accepts_none(call):
    missing = {"error": "dataset not found"}

    for method, path, body in (
        ("POST", "markers/none", MARKER),
        ("PUT", "markers/none/1", MARKER),
        ("DELETE", "markers/none/1", None),
        ("GET", "marker_settings/none", None),
        ("POST", "marker_settings/none", {"type": "a", "color": "#000000"}),
    ):
        response = call(method, path, body)
        assert (response.status_code, response.json()) == (404, missing)
    assert call("GET", "markers/none").json() == []


@pytest.mark.parametrize(
    ("kind", "markers", "status"),
    [
        ("configuration", True, 201),
        ("classic_configuration", True, 201),
        ("configuration", False, 401),
        ("ingest", True, 401),
        ("classic_ingest", True, 401),
    ],
)
def test_only_configuration_keys_with_permission_can_create_markers(
    call, client, kind, markers, status
):
    key = client.sandbox.add_honeycomb_key(kind, markers=markers)

    response = call("POST", "markers/ci", MARKER, key=key)

    assert response.status_code == status
    assert ("error" in response.json()) == (status == 401)
    access = call("GET", "auth", key=key).json()["api_key_access"]
    assert access.get("markers", False) == (status == 201)


@pytest.mark.parametrize("body", [[], {"start_time": "now"}, {"message": 3}, {"end_time": 1.5}])
def test_malformed_body_is_rejected(call, body):
    response = call("POST", "markers/ci", body)

    assert response.status_code == 400
    assert response.json()["error"].startswith("Request body is malformed")


def test_color_of_a_type_can_be_set_changed_listed_and_deleted(call):
    call("POST", "markers/ci", MARKER)
    marker = call("POST", "marker_settings/ci", {"type": "deploy", "color": "#111111"})
    path = f"marker_settings/ci/{marker.json()['id']}"

    assert marker.status_code == 201
    assert call("GET", "markers/ci").json()[0]["color"] == "#111111"
    assert call("PUT", path, {"type": "deploy", "color": "#222222"}).status_code == 200
    assert call("GET", "marker_settings/ci").json()[0]["color"] == "#222222"
    assert call("PUT", path, {"type": "other", "color": "#222222"}).status_code == 422
    assert call("DELETE", path).status_code == 200
    assert call("GET", "marker_settings/ci").json() == []


@pytest.mark.parametrize(
    "body",
    [
        {"type": "a"},
        {"color": "#111111"},
        {"type": "", "color": "#111111"},
        {"type": "a", "color": "red"},
        {"type": "there", "color": "#111111"},
    ],
    ids=["no color", "no type", "empty type", "no hex color", "a type that has one"],
)
def test_invalid_marker_setting_is_rejected(call, body):
    call("POST", "marker_settings/ci", {"type": "there", "color": "#000000"})

    assert call("POST", "marker_settings/ci", body).status_code == 422


def test_call_limit_is_reported_and_exceeding_it_is_a_429(start_sandbox, event):
    client = start_sandbox(limits=True)
    client.sandbox.honeycomb.call_limit.limit = 3
    client.batch(event())

    def call():
        return client.post("/1/markers/ci", json=MARKER)

    headers = [call().headers["RateLimit"] for _ in range(3)]
    client.clock.seconds += 20
    rejected = call()

    assert headers == [f"limit=3, remaining={left}, reset=60" for left in (2, 1, 0)]
    assert rejected.status_code == 429
    assert rejected.json() == {"error": "Rate Limited"}
    assert rejected.headers["RateLimit"] == "limit=3, remaining=0, reset=40"
    assert rejected.headers["RateLimitPolicy"] == "3;w=60"
    assert rejected.headers["Retry-After"] == "Thu, 06 Aug 2026 12:01:00 GMT"
    client.clock.seconds += 40
    assert call().status_code == 201
    assert client.get("/_sandbox/stored").json()["marker_count"] == 4


def test_markers_are_listed_and_cleared_by_control_routes(call, client):
    call("POST", "markers/__all__", MARKER)

    [shown] = client.get("/_sandbox/markers").json()
    assert shown["dataset"] == "__all__"
    client.post("/_sandbox/reset")
    assert client.get("/_sandbox/markers").json() == []

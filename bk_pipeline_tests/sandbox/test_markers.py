from __future__ import annotations

import pytest

MARKER = {"start_time": 1_785_000_000, "type": "deploy", "message": "web #7", "url": "https://a"}


@pytest.fixture
def call(client, event):
    """Answers to requests with the configuration key; the dataset `ci` is there."""
    client.batch(event())

    def call(method, path, body=None, key=None):
        headers = {"X-Honeycomb-Team": key or client.sandbox.honeycomb_key}
        return client.session.request(
            method, f"{client.url}/1/{path}", json=body, headers=headers, timeout=20
        )

    return call


def test_a_marker_has_an_id_and_times_and_what_was_sent(call):
    answer = call("POST", "markers/ci", MARKER | {"id": "mine", "color": "#000000"})

    assert answer.status_code == 201
    made = answer.json()
    assert {name: made[name] for name in MARKER} == MARKER
    assert made["created_at"] == made["updated_at"] == "2026-08-06T12:00:00Z"
    assert len(made["id"]) == 8
    assert "color" not in made
    assert call("GET", "markers/ci").json() == [made]


def test_a_marker_without_a_time_is_of_now(call, client):
    assert call("POST", "markers/ci", {}).json()["start_time"] == client.clock()


def test_an_update_erases_what_it_leaves_out(call, client):
    made = call("POST", "markers/ci", MARKER).json()
    client.clock.seconds += 60

    answer = call("PUT", f"markers/ci/{made['id']}", {"message": "other"})

    assert answer.status_code == 200
    assert answer.json() == {
        "id": made["id"],
        "message": "other",
        "created_at": "2026-08-06T12:00:00Z",
        "updated_at": "2026-08-06T12:01:00Z",
    }


def test_a_deleted_marker_is_in_the_answer_and_no_longer_in_the_list(call):
    made = call("POST", "markers/ci", MARKER).json()

    answer = call("DELETE", f"markers/ci/{made['id']}")

    assert (answer.status_code, answer.json()) == (200, made)
    assert call("GET", "markers/ci").json() == []
    assert call("DELETE", f"markers/ci/{made['id']}").status_code == 404


def test_datasets_and_the_environment_have_their_own(call):
    call("POST", "markers/ci", MARKER)
    call("POST", "markers/__all__", MARKER)

    assert len(call("GET", "markers/ci").json()) == len(call("GET", "markers/CI").json()) == 1
    assert len(call("GET", "markers/__all__").json()) == 1


def test_a_dataset_that_is_not_there_has_no_markers_and_takes_none(call):
    missing = {"error": "dataset not found"}

    for method, path, body in (
        ("POST", "markers/none", MARKER),
        ("PUT", "markers/none/1", MARKER),
        ("DELETE", "markers/none/1", None),
        ("GET", "marker_settings/none", None),
        ("POST", "marker_settings/none", {"type": "a", "color": "#000000"}),
    ):
        answer = call(method, path, body)
        assert (answer.status_code, answer.json()) == (404, missing)
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
def test_only_configuration_keys_with_the_permission_may(call, client, kind, markers, status):
    key = client.sandbox.add_honeycomb_key(kind, markers=markers)

    answer = call("POST", "markers/ci", MARKER, key=key)

    assert answer.status_code == status
    assert ("error" in answer.json()) == (status == 401)
    access = call("GET", "auth", key=key).json()["api_key_access"]
    assert access.get("markers", False) == (status == 201)


@pytest.mark.parametrize("body", [[], {"start_time": "now"}, {"message": 3}, {"end_time": 1.5}])
def test_a_body_of_the_wrong_form_is_refused(call, body):
    answer = call("POST", "markers/ci", body)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Request body is malformed")


def test_a_types_color_is_set_changed_shown_in_lists_and_taken_back(call):
    call("POST", "markers/ci", MARKER)
    made = call("POST", "marker_settings/ci", {"type": "deploy", "color": "#111111"})
    path = f"marker_settings/ci/{made.json()['id']}"

    assert made.status_code == 201
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
def test_a_color_that_cannot_be_is_refused(call, body):
    call("POST", "marker_settings/ci", {"type": "there", "color": "#000000"})

    assert call("POST", "marker_settings/ci", body).status_code == 422


def test_the_limit_is_told_and_passed_only_with_a_429(serve_alone, event):
    client = serve_alone(limits=True)
    client.sandbox.honeycomb.call_limit.limit = 3
    client.batch(event())

    def call():
        return client.post("/1/markers/ci", json=MARKER)

    told = [call().headers["RateLimit"] for _ in range(3)]
    client.clock.seconds += 20
    refused = call()

    assert told == [f"limit=3, remaining={left}, reset=60" for left in (2, 1, 0)]
    assert refused.status_code == 429
    assert refused.json() == {"error": "Rate Limited"}
    assert refused.headers["RateLimit"] == "limit=3, remaining=0, reset=40"
    assert refused.headers["RateLimitPolicy"] == "3;w=60"
    assert refused.headers["Retry-After"] == "Thu, 06 Aug 2026 12:01:00 GMT"
    client.clock.seconds += 40
    assert call().status_code == 201
    assert client.get("/_sandbox/stored").json()["marker_count"] == 4


def test_markers_are_shown_and_forgotten_on_request(call, client):
    call("POST", "markers/__all__", MARKER)

    [shown] = client.get("/_sandbox/markers").json()
    assert shown["dataset"] == "__all__"
    client.post("/_sandbox/reset")
    assert client.get("/_sandbox/markers").json() == []

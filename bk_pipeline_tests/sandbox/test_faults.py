"""Injected faults, as a client sees them."""

from __future__ import annotations

import logging
from threading import Thread

import pytest
import requests

BUILDS = "/v2/organizations/acme/builds"


@pytest.fixture(autouse=True)
def no_server_logs(caplog):
    """Injected faults must not cause log messages of the server."""
    with caplog.at_level(logging.INFO):
        yield
    logged = [r.getMessage() for r in caplog.records if r.name.startswith(("uvicorn", "asyncio"))]
    assert logged == []


@pytest.fixture
def faults(client):
    return client.sandbox.faults


@pytest.fixture
def honeycomb(client):
    return client.sandbox.honeycomb


def connection_breaks(call):
    """Whether the connection breaks before the response is complete."""
    try:
        call()
    except requests.ConnectionError:
        return True
    except requests.exceptions.ChunkedEncodingError:
        return True
    return False


def test_status_has_the_error_body_of_the_service(client, faults, event):
    faults.inject("buildkite", "status", status=503)
    faults.inject("honeycomb", "status", status=429)
    faults.inject("honeycomb", "status", status=403)
    response = client.get(BUILDS)
    assert (response.status_code, list(response.json())) == (503, ["message"])
    assert client.batch(event()).json() == {"error": "Request dropped due to rate limiting."}
    assert "administrative throttling" in client.batch(event()).json()["error"]
    assert client.get(BUILDS).status_code == 200


@pytest.mark.parametrize("body", [{"odd": 1}, "Bad Gateway"])
def test_status_can_have_a_body_and_headers(client, faults, body):
    faults.inject("buildkite", "status", status=502, body=body, headers={"Retry-After": "7"})
    response = client.get(BUILDS)
    assert response.status_code == 502
    assert response.headers["Retry-After"] == "7"
    assert (response.text if isinstance(body, str) else response.json()) == body


def test_429_has_no_retry_after_by_default(client, faults, event):
    faults.inject("honeycomb", "status", status=429)
    assert "Retry-After" not in client.batch(event()).headers


def test_reset_breaks_the_connection_and_stores_nothing(client, faults, honeycomb, event):
    faults.inject("honeycomb", "reset")
    with pytest.raises(requests.ConnectionError, match="reset"):
        client.batch(event())
    assert (honeycomb.event_count, honeycomb.request_count) == (0, 1)


def test_reset_after_breaks_the_connection_after_storing(client, faults, honeycomb, event):
    faults.inject("honeycomb", "reset_after")
    assert connection_breaks(lambda: client.batch(event()))
    assert honeycomb.event_count == 1


@pytest.mark.parametrize("processed", [False, True])
def test_hang_lasts_until_the_client_disconnects(client, faults, honeycomb, event, processed):
    faults.inject("honeycomb", "hang", processed=processed)
    with pytest.raises(requests.ReadTimeout):
        client.batch(event(), timeout=2)
    assert honeycomb.event_count == processed
    assert client.batch(event(2)).status_code == 200


def test_server_stops_while_requests_hang(start_sandbox):
    client = start_sandbox()
    client.sandbox.faults.inject("buildkite", "hang", count=3)
    errors = []
    record_request = client.sandbox.buildkite.requests

    def get_builds():
        try:
            requests.get(client.url + BUILDS, timeout=30)
        except requests.ConnectionError as exc:
            errors.append(exc)

    threads = [Thread(target=get_builds) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(record_request) < 3:
        pass
    client.stop()
    for thread in threads:
        thread.join(timeout=10)
    assert len(errors) == 3


def test_cut_body_breaks_the_connection_within_the_body(client, faults):
    faults.inject("buildkite", "cut_body")
    assert connection_breaks(lambda: client.get(BUILDS))


def test_batch_with_cut_body_is_stored(client, faults, honeycomb, event):
    faults.inject("honeycomb", "cut_body")
    assert connection_breaks(lambda: client.batch(event()))
    assert honeycomb.event_count == 1


def test_html_has_status_200_and_stores_nothing(client, faults, honeycomb, event):
    faults.inject("honeycomb", "html")
    response = client.batch(event())
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert honeycomb.event_count == 0


def test_slow_responds_late_and_as_usual(client, faults, honeycomb, event):
    faults.inject("honeycomb", "slow", seconds=0.15)
    response = client.batch(event())
    assert response.elapsed.total_seconds() >= 0.15
    assert response.json() == [{"status": 202}]
    assert honeycomb.event_count == 1


def test_slow_request_of_a_disconnected_client_is_not_processed(client, faults, honeycomb, event):
    faults.inject("honeycomb", "slow", seconds=30)
    with pytest.raises(requests.ReadTimeout):
        client.batch(event(), timeout=1)
    assert honeycomb.event_count == 0


def test_short_answer_lacks_elements_of_stored_events(client, faults, honeycomb, event):
    faults.inject("honeycomb", "short_answer", missing=2)
    assert client.batch(event(1), event(2), event(3)).json() == [{"status": 202}]
    assert honeycomb.event_count == 3


def test_event_status_rejects_by_index(client, faults, honeycomb, event):
    faults.inject("honeycomb", "event_status", status=500, error="oops", indexes=[0, 2])
    response = client.batch(event(1), event(2), event(3)).json()
    assert [element["status"] for element in response] == [500, 202, 500]
    assert response[0]["error"] == "oops"
    assert [stored.data["name"] for stored in honeycomb.events] == ["span 2"]


def test_event_status_rejects_by_name_and_waits_for_a_match(client, faults, honeycomb, event):
    faults.inject("honeycomb", "event_status", status=429, where="span 2", count=2)
    statuses = [
        [element["status"] for element in client.batch(*map(event, numbers)).json()]
        for numbers in ([1, 3], [1, 2], [2], [2])
    ]
    assert statuses == [[202, 202], [202, 429], [429], [202]]


def test_faults_apply_one_after_another(client, faults):
    faults.inject("buildkite", "status", status=500, after=1, count=2)
    faults.inject("buildkite", "status", status=502, after=1)
    statuses = [client.get(BUILDS).status_code for _ in range(6)]
    assert statuses == [200, 500, 500, 200, 502, 200]


def test_fault_can_be_limited_to_paths(client, faults):
    faults.inject("buildkite", "status", status=500, path="*/pipelines/web/*")
    assert client.get(BUILDS).status_code == 200
    assert client.get("/v2/organizations/acme/pipelines/web/builds").status_code == 500


def test_services_have_separate_faults(client, faults, event):
    faults.inject("buildkite", "status", status=500)
    assert client.batch(event()).status_code == 200
    assert client.get(BUILDS).status_code == 500


def test_requests_are_recorded_despite_faults(client, faults):
    faults.inject("buildkite", "reset")
    assert connection_breaks(lambda: client.get(BUILDS))
    client.get(BUILDS, params={"page": 2})
    buildkite = client.sandbox.buildkite
    assert buildkite.requests == [("GET", BUILDS, ""), ("GET", BUILDS, "page=2")]
    assert buildkite.request_count == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"service": "github", "kind": "reset"}, "no service 'github'"),
        ({"service": "buildkite", "kind": "explode"}, "no fault 'explode'"),
        (
            {"service": "buildkite", "kind": "status", "code": 500},
            "Fault 'status' has no details code",
        ),
        ({"service": "buildkite", "kind": "reset", "at": 1}, "it has none"),
    ],
)
def test_invalid_faults_are_rejected(faults, fault, message):
    with pytest.raises(ValueError, match=message):
        faults.inject(**fault)

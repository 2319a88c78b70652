"""Requests that web pages of other sites cause a browser to send are rejected on all paths."""

from __future__ import annotations

import pytest

STORED, FAULTS, RESET = "/_sandbox/stored", "/_sandbox/faults", "/_sandbox/reset"
BATCH, TRACES = "/1/batch/ci", "/v1/traces"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "localhost.evil.example"},
        {"Host": ""},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", STORED, FAULTS, "/_sandbox/builds", RESET, BATCH, TRACES])
def test_requests_from_other_sites_are_rejected_and_change_nothing(client, event, headers, path):
    client.batch(event())
    response = client.post(path, headers=headers)
    assert response.status_code == 403
    assert client.get(path, extra_headers=headers).status_code == 403
    stored = client.get(STORED).json()
    assert (stored["event_count"], stored["honeycomb_requests"], stored["otlp_requests"]) == (
        1,
        1,
        0,
    )


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8099", "localhost:1", "LOCALHOST.", "[::1]:8099", "sandbox", "a.localhost"]
)
def test_local_host_names_are_accepted(client, host):
    assert client.get(STORED, extra_headers={"Host": host}).status_code == 200


def test_pages_of_the_sandbox_itself_can_send_requests(client):
    headers = {"Origin": client.url, "Sec-Fetch-Site": "same-origin"}
    assert client.post(RESET, headers=headers).status_code == 200
    assert client.get(STORED, extra_headers={"Sec-Fetch-Site": "none"}).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
@pytest.mark.parametrize("path", [FAULTS, "/_sandbox/builds", RESET])
def test_bodies_that_a_form_can_send_are_rejected(client, event, content_type, path):
    client.batch(event())
    fault = b'{"service": "honeycomb", "kind": "status", "status": 500, "count": 1}'
    for body in (fault, b""):
        response = client.post(path, data=body, headers={"Content-Type": content_type})
        assert response.status_code == 415
    assert client.post(path, data=fault).status_code == 400  # no type at all
    assert client.batch(event(2)).status_code == 200
    assert client.get(STORED).json()["event_count"] == 2

"""The control routes under `/_sandbox/`."""

from __future__ import annotations

import pytest

from bk_pipeline.sandbox.times import parse_time


def test_front_page_describes_the_sandbox(client):
    text = client.get("/").text
    assert "stand-in" in text
    assert "/v2/organizations/acme/builds" in text
    assert "/1/batch/{dataset}" in text


def test_stored_counts_what_has_arrived(client, event):
    client.batch(event(1), event(1), event(2, odd=None), dataset="one")
    client.batch(event(3), dataset="two")
    client.get("/v2/access-token")
    assert client.get("/_sandbox/stored").json() == {
        "event_count": 4,
        "duplicate_count": 1,
        "distinct_spans": 3,
        "datasets": {"one": 3, "two": 1},
        "buildkite_requests": 1,
        "buildkite_refused": 0,
        "artifact_requests": 0,
        "artifact_requests_with_credentials": 0,
        "honeycomb_requests": 2,
        "otlp_span_count": 0,
        "otlp_duplicate_count": 0,
        "otlp_requests": 0,
        "otlp_metrics": {},
        "otlp_point_count": 0,
        "otlp_point_duplicate_count": 0,
        "marker_count": 0,
        "warning_count": 1,
        "warnings": [{"dataset": "one", "column": "odd", "text": "null is not a column value"}],
    }


def test_stored_shows_the_first_twenty_warnings(client, event):
    client.batch(*(event(number, odd=None) for number in range(30)))
    stored = client.get("/_sandbox/stored").json()
    assert (stored["warning_count"], len(stored["warnings"])) == (30, 20)


def test_events_are_listed_newest_last_and_can_be_filtered(client, event):
    client.batch(event(1), event(2), event(3, **{"trace.trace_id": "t"}), dataset="One Two")
    client.batch(event(4), dataset="other")

    def names(**params):
        found = client.get("/_sandbox/events", params=params).json()
        return [stored["data"]["name"] for stored in found]

    assert names() == ["span 1", "span 2", "span 3", "span 4"]
    assert names(dataset="one-two", limit=2) == ["span 2", "span 3"]
    assert names(trace_id="t") == ["span 3"]
    assert client.get("/_sandbox/events", params={"limit": "0"}).status_code == 400


def test_listed_event_has_its_time_to_the_nanosecond(client, event):
    client.batch(event())
    (stored,) = client.get("/_sandbox/events").json()
    assert stored["time"] == "2026-08-06T11:59:59.123Z"
    assert stored["time_ns"] % 1_000_000_000 == 123_456_789
    assert stored["samplerate"] == 1


def test_faults_can_be_injected_over_http(client, event):
    fault = {"service": "honeycomb", "kind": "status", "status": 500, "count": 1}
    assert client.post("/_sandbox/faults", json=fault).status_code == 201
    assert client.batch(event()).status_code == 500


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"service":"x","kind":"reset"}', b'{"kind":"reset"}'], ids=str
)
def test_invalid_faults_are_rejected(client, body):
    response = client.post("/_sandbox/faults", data=body)
    assert response.status_code == 400
    assert response.json()["error"]


def test_build_finishes_on_request(client):
    build = client.post("/_sandbox/builds").json()
    assert (
        client.clock.seconds - 60 < parse_time(build["finished_at"]) / 1000 <= client.clock.seconds
    )
    found = client.builds(finished_from=build["finished_at"], include_retried_jobs="true")
    assert build in found


def test_build_can_be_added(client):
    build = {
        "id": "added-build",
        "number": 1,
        "created_at": "2026-08-05T10:00:00Z",
        "pipeline": {"slug": "added-build"},
    }
    assert client.post("/_sandbox/builds", json=build).status_code == 201
    path = "/v2/organizations/acme/pipelines/added-build/builds"
    assert [found["id"] for found in client.builds(path)] == ["added-build"]


@pytest.mark.parametrize("body", [b"{}", b"[]", b"{"], ids=str)
def test_invalid_build_is_rejected(client, body):
    assert client.post("/_sandbox/builds", data=body).status_code == 400


def test_reset_clears_events_and_counts(client, event):
    client.batch(event(odd=None))
    client.get("/v2/access-token")
    assert client.post("/_sandbox/reset").status_code == 200
    stored = client.get("/_sandbox/stored").json()
    assert not any(stored.values())


def test_control_requests_are_not_counted(client):
    client.get("/_sandbox/stored")
    assert client.sandbox.buildkite.request_count == 0
    assert client.sandbox.honeycomb.request_count == 0

"""The client for markers, with a running sandbox and its faults."""

from __future__ import annotations

import pytest

from bk_pipeline.errors import (
    AccessDenied,
    ConfigError,
    DeliveryThrottled,
    NotFound,
    RequestRefused,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.honeycomb.client import Color, MarkerClient
from bk_pipeline.honeycomb.placing import color_changes, set_colors
from bk_pipeline.settings import Settings
from bk_pipeline_tests.honeycomb.conftest import DATASET

EVERYWHERE = "__all__"


@pytest.fixture
def inject(sandbox):
    """Injects a fault into the paths of markers."""
    return lambda kind, **details: sandbox.faults.inject(
        "honeycomb", kind, **{"path": "/1/marker*"} | details
    )


@pytest.mark.parametrize("dataset", [DATASET, EVERYWHERE])
def test_marker_is_created_listed_changed_and_deleted(client, stored, marker, dataset):
    new = marker(end_time=1_790_000_060, url="https://bk/7")

    marker_id, recovered = client.create(dataset, new, others=())
    [listed] = client.list_markers(dataset)
    assert not recovered
    assert listed.id == marker_id
    assert listed.equals(new)

    assert client.update(dataset, marker_id, marker(message="other"))
    [listed] = client.list_markers(dataset)
    # An update erases the fields that it leaves out, so all of them are sent.
    assert listed.equals(marker(message="other"))
    assert stored.markers[0]["dataset"] == dataset

    assert client.delete(dataset, marker_id)
    assert client.list_markers(dataset) == []


def test_changing_a_missing_marker_returns_false(client, marker):
    assert not client.update(DATASET, "nowhere", marker())
    assert not client.delete(DATASET, "nowhere")


def test_missing_dataset_is_reported_with_the_remedy(client, marker):
    with pytest.raises(
        NotFound,
        match=r"has no dataset nowhere \(404: dataset not found\).*honeycomb_events first.*__all__",
    ):
        client.create("nowhere", marker(), others=())
    assert client.list_markers("nowhere") == []


def test_name_is_host_team_and_environment(client, sandbox):
    assert client.name == client.name
    assert client.name.startswith("markers:127.0.0.1:")
    assert client.name.endswith("/sandbox/sandbox")
    assert client.request_count == 1


@pytest.mark.parametrize(
    ("kind", "markers", "message"),
    [
        ("ingest", True, "HONEYCOMB_CONFIGURATION_KEY is an ingest key.*configuration key with"),
        ("classic_ingest", True, "HONEYCOMB_CONFIGURATION_KEY is an ingest key"),
        ("configuration", False, "HONEYCOMB_CONFIGURATION_KEY may not manage markers"),
    ],
)
def test_key_without_permission_is_reported_before_anything_is_changed(
    connect, sandbox, kind, markers, message
):
    client = connect(sandbox.add_honeycomb_key(kind, markers=markers))

    with pytest.raises(
        AccessDenied, match=f"{message}.*Manage Markers.*Configuration in Honeycomb"
    ):
        _ = client.name


def test_unknown_key_is_reported_and_not_shown(connect):
    key = "an-unknown-key-22-chars"

    with pytest.raises(TokenRefused, match=r"HONEYCOMB_CONFIGURATION_KEY.*401.*eu1") as raised:
        _ = connect(key).name
    assert key not in str(raised.value)


def test_key_rejected_by_a_later_call_is_reported(connect, sandbox, marker):
    client = connect(sandbox.add_honeycomb_key("ingest"))

    with pytest.raises(TokenRefused, match=r"may not manage markers \(401.*no ingest key has"):
        client.create(DATASET, marker(), others=())


def test_client_needs_a_key(clock):
    with pytest.raises(
        ConfigError, match=r"HONEYCOMB_CONFIGURATION_KEY is not set\. .*no ingest key has"
    ):
        MarkerClient.from_settings(Settings.of(HONEYCOMB_API_KEY="k" * 22), clock=clock)


@pytest.mark.parametrize("fault", ["reset_after", "cut_body", "cut_json"])
def test_marker_with_a_lost_response_is_recovered(client, stored, marker, inject, fault):
    before, _ = client.create(DATASET, marker(), others=())
    inject(fault)

    marker_id, recovered = client.create(DATASET, marker(), others={before})

    assert recovered
    assert [one["id"] for one in stored.markers] == [before, marker_id]


@pytest.mark.parametrize("fault", ["reset", "status"])
def test_marker_that_was_not_created_is_retried(client, stored, marker, inject, fault):
    inject(fault, count=3)

    _, recovered = client.create(DATASET, marker(), others=())

    assert not recovered
    assert len(stored.markers) == 1


def test_older_identical_marker_is_not_mistaken_for_the_new_one(client, stored, marker, inject):
    before, _ = client.create(DATASET, marker(), others=())
    inject("reset")

    marker_id, _ = client.create(DATASET, marker(), others={before})

    assert marker_id != before
    assert len(stored.markers) == 2


def test_retry_after_of_a_429_is_honoured(client, stored, clock, marker, inject):
    until = "Fri, 20 Nov 2026 12:00:42 GMT"
    inject("status", status=429, headers={"Retry-After": until})

    client.create(DATASET, marker(), others=())

    assert clock.slept == [42]
    assert len(stored.markers) == 1


def test_persistent_429_is_reported(client, marker, inject):
    inject("status", status=429, count=100)

    with pytest.raises(DeliveryThrottled, match=r"accepts no more calls.*429.*Gave up"):
        client.create(DATASET, marker(), others=())


def test_persistent_outage_is_reported(client, inject):
    inject("status", status=500, count=100)

    with pytest.raises(ServiceUnavailable, match=r"server error \(500.*Gave up"):
        client.list_markers(DATASET)


def test_rate_limit_is_never_exceeded(sandbox, client, clock, marker):
    limit = sandbox.honeycomb.call_limit
    limit.enforced, limit.limit = True, 20

    for number in range(50):
        client.create(DATASET, marker(start_time=number), others=())

    # 15 calls per minute: 5 are left to others. There is never a 429, which would cost a call.
    assert client.request_count == 50
    assert clock.slept == [60, 60, 60]


def test_html_page_instead_of_a_response_is_reported(client, inject):
    inject("html")

    with pytest.raises(UnexpectedAnswer, match=r"text/html.*HONEYCOMB_API_ENDPOINT"):
        client.list_markers(DATASET)


def test_refusal_is_reported_with_its_message(client, marker, inject):
    inject("status", status=422, body={"error": "no such thing"})

    with pytest.raises(RequestRefused, match=r"422: no such thing.*type, message and url"):
        client.create(DATASET, marker(), others=())


def test_unreachable_endpoint_is_reported(connect):
    with pytest.raises(ServiceUnavailable, match=r"\(127.0.0.1:1\) cannot be reached.*Gave up"):
        _ = connect(endpoint="http://127.0.0.1:1").name


def test_colors_are_set_once_and_changed_if_they_differ(client, stored):
    colors = {"deploy": "#111111", "failed": "#222222"}

    assert set_colors(DATASET, colors, client=client) == 2
    assert set_colors(DATASET, colors, client=client) == 0
    assert set_colors(DATASET, colors | {"failed": "#333333"}, client=client) == 1

    assert stored.colors == {(DATASET, "deploy"): "#111111", (DATASET, "failed"): "#333333"}
    assert set_colors("nowhere", {}, client=client) == 0
    with pytest.raises(NotFound, match="has no dataset nowhere"):
        color_changes("nowhere", colors, client=client)


def test_color_with_a_lost_response_is_set(client, stored, inject):
    inject("reset_after", after=1)

    assert set_colors(DATASET, {"deploy": "#111111"}, client=client) == 1
    assert stored.colors == {(DATASET, "deploy"): "#111111"}


def test_permanently_rejected_color_is_an_error(client, inject):
    with pytest.raises(RequestRefused, match="422"):
        client.set_color(DATASET, Color("", "deploy", "red"))
    inject("status", status=422, after=1, count=1)
    with pytest.raises(RequestRefused, match="422"):
        set_colors(DATASET, {"deploy": "#111111"}, client=client)

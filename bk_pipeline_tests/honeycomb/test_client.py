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
from bk_pipeline.honeycomb.placing import paint, unlike
from bk_pipeline.settings import Settings
from bk_pipeline_tests.honeycomb.conftest import DATASET

EVERYWHERE = "__all__"


@pytest.fixture
def order(sandbox):
    """Orders a fault on the paths of markers."""
    return lambda kind, **details: sandbox.faults.inject(
        "honeycomb", kind, **{"path": "/1/marker*"} | details
    )


@pytest.mark.parametrize("dataset", [DATASET, EVERYWHERE])
def test_a_marker_is_made_listed_changed_and_deleted(client, held, marker, dataset):
    made = marker(end_time=1_790_000_060, url="https://bk/7")

    marker_id, found_again = client.create(dataset, made, others=())
    [listed] = client.listed(dataset)
    assert not found_again
    assert listed.id == marker_id
    assert listed.says(made)

    assert client.update(dataset, marker_id, marker(message="other"))
    [listed] = client.listed(dataset)
    # What an update leaves out is gone, so all of it is sent.
    assert listed.says(marker(message="other"))
    assert held.markers[0]["dataset"] == dataset

    assert client.delete(dataset, marker_id)
    assert client.listed(dataset) == []


def test_what_is_gone_is_told(client, marker):
    assert not client.update(DATASET, "nowhere", marker())
    assert not client.delete(DATASET, "nowhere")


def test_a_dataset_that_is_not_there_is_told_and_what_to_do(client, marker):
    with pytest.raises(
        NotFound,
        match=r"has no dataset nowhere \(404: dataset not found\).*honeycomb_events first.*__all__",
    ):
        client.create("nowhere", marker(), others=())
    assert client.listed("nowhere") == []


def test_the_place_is_host_team_and_environment(client, sandbox):
    assert client.name == client.name
    assert client.name.startswith("markers:127.0.0.1:")
    assert client.name.endswith("/sandbox/sandbox")
    assert client.request_count == 1


@pytest.mark.parametrize(
    ("kind", "markers", "said"),
    [
        ("ingest", True, "HONEYCOMB_CONFIGURATION_KEY is an ingest key.*configuration key with"),
        ("classic_ingest", True, "HONEYCOMB_CONFIGURATION_KEY is an ingest key"),
        ("configuration", False, "HONEYCOMB_CONFIGURATION_KEY may not manage markers"),
    ],
)
def test_a_key_that_cannot_place_markers_is_told_before_anything_is_done(
    connect, sandbox, kind, markers, said
):
    client = connect(sandbox.add_honeycomb_key(kind, markers=markers))

    with pytest.raises(AccessDenied, match=f"{said}.*Manage Markers.*Configuration in Honeycomb"):
        _ = client.name


def test_an_unknown_key_is_told_and_not_shown(connect):
    key = "nobody-has-this-key-22"

    with pytest.raises(TokenRefused, match=r"HONEYCOMB_CONFIGURATION_KEY.*401.*eu1") as raised:
        _ = connect(key).name
    assert key not in str(raised.value)


def test_a_key_that_is_refused_later_is_told_as_well(connect, sandbox, marker):
    client = connect(sandbox.add_honeycomb_key("ingest"))

    with pytest.raises(TokenRefused, match=r"may not manage markers \(401.*no ingest key has"):
        client.create(DATASET, marker(), others=())


def test_without_a_key_there_is_no_client(clock):
    with pytest.raises(
        ConfigError, match=r"HONEYCOMB_CONFIGURATION_KEY is not set\. .*no ingest key has"
    ):
        MarkerClient.from_settings(Settings.of(HONEYCOMB_API_KEY="k" * 22), clock=clock)


@pytest.mark.parametrize("fault", ["reset_after", "cut_body", "cut_json"])
def test_a_marker_whose_answer_was_lost_is_found_again(client, held, marker, order, fault):
    before, _ = client.create(DATASET, marker(), others=())
    order(fault)

    marker_id, found_again = client.create(DATASET, marker(), others={before})

    assert found_again
    assert [one["id"] for one in held.markers] == [before, marker_id]


@pytest.mark.parametrize("fault", ["reset", "status"])
def test_a_marker_that_was_not_made_is_made_in_the_end(client, held, marker, order, fault):
    order(fault, count=3)

    _, found_again = client.create(DATASET, marker(), others=())

    assert not found_again
    assert len(held.markers) == 1


def test_a_likeness_that_was_there_before_is_not_taken_for_the_lost_one(
    client, held, marker, order
):
    before, _ = client.create(DATASET, marker(), others=())
    order("reset")

    marker_id, _ = client.create(DATASET, marker(), others={before})

    assert marker_id != before
    assert len(held.markers) == 2


def test_the_wait_that_a_429_asks_for_is_kept(client, held, clock, marker, order):
    until = "Fri, 20 Nov 2026 12:00:42 GMT"
    order("status", status=429, headers={"Retry-After": until})

    client.create(DATASET, marker(), others=())

    assert clock.slept == [42]
    assert len(held.markers) == 1


def test_a_429_that_lasts_is_told(client, marker, order):
    order("status", status=429, count=100)

    with pytest.raises(DeliveryThrottled, match=r"takes no more calls.*429.*Gave up"):
        client.create(DATASET, marker(), others=())


def test_an_outage_that_lasts_is_told(client, order):
    order("status", status=500, count=100)

    with pytest.raises(ServiceUnavailable, match=r"in trouble \(500.*Gave up"):
        client.listed(DATASET)


def test_the_limit_is_kept_to_before_it_bites(sandbox, client, clock, marker):
    limit = sandbox.honeycomb.call_limit
    limit.enforced, limit.limit = True, 20

    for number in range(50):
        client.create(DATASET, marker(start_time=number), others=())

    # 15 calls a minute: 5 are left to others. Never a 429, which would cost a call.
    assert client.request_count == 50
    assert clock.slept == [60, 60, 60]


def test_a_page_instead_of_an_answer_is_told(client, order):
    order("html")

    with pytest.raises(UnexpectedAnswer, match=r"text/html.*HONEYCOMB_API_ENDPOINT"):
        client.listed(DATASET)


def test_a_refusal_is_told_with_its_words(client, marker, order):
    order("status", status=422, body={"error": "no such thing"})

    with pytest.raises(RequestRefused, match=r"422: no such thing.*type, message and url"):
        client.create(DATASET, marker(), others=())


def test_nobody_at_the_endpoint_is_told(connect):
    with pytest.raises(ServiceUnavailable, match=r"\(127.0.0.1:1\) cannot be reached.*Gave up"):
        _ = connect(endpoint="http://127.0.0.1:1").name


def test_colors_are_set_once_and_changed_where_they_differ(client, held):
    colors = {"deploy": "#111111", "failed": "#222222"}

    assert paint(DATASET, colors, client=client) == 2
    assert paint(DATASET, colors, client=client) == 0
    assert paint(DATASET, colors | {"failed": "#333333"}, client=client) == 1

    assert held.colors == {(DATASET, "deploy"): "#111111", (DATASET, "failed"): "#333333"}
    assert paint("nowhere", {}, client=client) == 0
    with pytest.raises(NotFound, match="has no dataset nowhere"):
        unlike("nowhere", colors, client=client)


def test_a_color_whose_answer_was_lost_is_there(client, held, order):
    order("reset_after", after=1)

    assert paint(DATASET, {"deploy": "#111111"}, client=client) == 1
    assert held.colors == {(DATASET, "deploy"): "#111111"}


def test_a_color_that_is_refused_for_good_is_an_error(client, order):
    with pytest.raises(RequestRefused, match="422"):
        client.set_color(DATASET, Color("", "deploy", "red"))
    order("status", status=422, after=1, count=1)
    with pytest.raises(RequestRefused, match="422"):
        paint(DATASET, {"deploy": "#111111"}, client=client)

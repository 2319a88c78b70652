from __future__ import annotations

import logging
from threading import Thread

import pytest
import requests

BUILDS = "/v2/organizations/acme/builds"


@pytest.fixture(autouse=True)
def silence(caplog):
    """No ordered fault may leave a trace in the logs."""
    with caplog.at_level(logging.INFO):
        yield
    loud = [r.getMessage() for r in caplog.records if r.name.startswith(("uvicorn", "asyncio"))]
    assert loud == []


@pytest.fixture
def faults(client):
    return client.sandbox.faults


@pytest.fixture
def honeycomb(client):
    return client.sandbox.honeycomb


def broken(call):
    """Whether the connection broke before a whole answer had come."""
    try:
        call()
    except requests.ConnectionError:
        return True
    except requests.exceptions.ChunkedEncodingError:
        return True
    return False


def test_status_is_answered_in_the_service_s_own_words(client, faults, event):
    faults.inject("buildkite", "status", status=503)
    faults.inject("honeycomb", "status", status=429)
    faults.inject("honeycomb", "status", status=403)
    refused = client.get(BUILDS)
    assert (refused.status_code, list(refused.json())) == (503, ["message"])
    assert client.batch(event()).json() == {"error": "Request dropped due to rate limiting."}
    assert "administrative throttling" in client.batch(event()).json()["error"]
    assert client.get(BUILDS).status_code == 200


@pytest.mark.parametrize("body", [{"odd": 1}, "Bad Gateway"])
def test_status_may_have_its_own_body_and_headers(client, faults, body):
    faults.inject("buildkite", "status", status=502, body=body, headers={"Retry-After": "7"})
    answer = client.get(BUILDS)
    assert answer.status_code == 502
    assert answer.headers["Retry-After"] == "7"
    assert (answer.text if isinstance(body, str) else answer.json()) == body


def test_429_has_no_retry_after_unless_ordered(client, faults, event):
    faults.inject("honeycomb", "status", status=429)
    assert "Retry-After" not in client.batch(event()).headers


def test_reset_breaks_the_connection_before_anything_is_stored(client, faults, honeycomb, event):
    faults.inject("honeycomb", "reset")
    with pytest.raises(requests.ConnectionError, match="reset"):
        client.batch(event())
    assert (honeycomb.event_count, honeycomb.request_count) == (0, 1)


def test_reset_after_breaks_it_when_all_is_stored(client, faults, honeycomb, event):
    faults.inject("honeycomb", "reset_after")
    assert broken(lambda: client.batch(event()))
    assert honeycomb.event_count == 1


@pytest.mark.parametrize("processed", [False, True])
def test_hang_lasts_until_the_client_gives_up(client, faults, honeycomb, event, processed):
    faults.inject("honeycomb", "hang", processed=processed)
    with pytest.raises(requests.ReadTimeout):
        client.batch(event(), timeout=2)
    assert honeycomb.event_count == processed
    assert client.batch(event(2)).status_code == 200


def test_server_stops_though_requests_hang(serve_alone):
    client = serve_alone()
    client.sandbox.faults.inject("buildkite", "hang", count=3)
    errors = []
    arrived = client.sandbox.buildkite.requests

    def ask():
        try:
            requests.get(client.url + BUILDS, timeout=30)
        except requests.ConnectionError as exc:
            errors.append(exc)

    threads = [Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(arrived) < 3:
        pass
    client.stop()
    for thread in threads:
        thread.join(timeout=10)
    assert len(errors) == 3


def test_cut_body_ends_amid_the_answer(client, faults):
    faults.inject("buildkite", "cut_body")
    assert broken(lambda: client.get(BUILDS))


def test_cut_body_of_a_batch_has_been_stored(client, faults, honeycomb, event):
    faults.inject("honeycomb", "cut_body")
    assert broken(lambda: client.batch(event()))
    assert honeycomb.event_count == 1


def test_html_comes_with_status_200_and_stores_nothing(client, faults, honeycomb, event):
    faults.inject("honeycomb", "html")
    answer = client.batch(event())
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert honeycomb.event_count == 0


def test_slow_answers_late_and_as_usual(client, faults, honeycomb, event):
    faults.inject("honeycomb", "slow", seconds=0.15)
    answer = client.batch(event())
    assert answer.elapsed.total_seconds() >= 0.15
    assert answer.json() == [{"status": 202}]
    assert honeycomb.event_count == 1


def test_slow_does_nothing_for_a_client_that_has_gone(client, faults, honeycomb, event):
    faults.inject("honeycomb", "slow", seconds=30)
    with pytest.raises(requests.ReadTimeout):
        client.batch(event(), timeout=1)
    assert honeycomb.event_count == 0


def test_short_answer_lacks_elements_of_events_that_are_stored(client, faults, honeycomb, event):
    faults.inject("honeycomb", "short_answer", missing=2)
    assert client.batch(event(1), event(2), event(3)).json() == [{"status": 202}]
    assert honeycomb.event_count == 3


def test_event_status_hits_by_index(client, faults, honeycomb, event):
    faults.inject("honeycomb", "event_status", status=500, error="oops", indexes=[0, 2])
    answer = client.batch(event(1), event(2), event(3)).json()
    assert [element["status"] for element in answer] == [500, 202, 500]
    assert answer[0]["error"] == "oops"
    assert [stored.data["name"] for stored in honeycomb.events] == ["span 2"]


def test_event_status_hits_by_name_and_waits_for_it(client, faults, honeycomb, event):
    faults.inject("honeycomb", "event_status", status=429, where="span 2", count=2)
    statuses = [
        [element["status"] for element in client.batch(*map(event, numbers)).json()]
        for numbers in ([1, 3], [1, 2], [2], [2])
    ]
    assert statuses == [[202, 202], [202, 429], [429], [202]]


def test_orders_are_carried_out_one_after_another(client, faults):
    faults.inject("buildkite", "status", status=500, after=1, count=2)
    faults.inject("buildkite", "status", status=502, after=1)
    statuses = [client.get(BUILDS).status_code for _ in range(6)]
    assert statuses == [200, 500, 500, 200, 502, 200]


def test_order_may_be_for_some_paths_only(client, faults):
    faults.inject("buildkite", "status", status=500, path="*/pipelines/web/*")
    assert client.get(BUILDS).status_code == 200
    assert client.get("/v2/organizations/acme/pipelines/web/builds").status_code == 500


def test_services_have_orders_of_their_own(client, faults, event):
    faults.inject("buildkite", "status", status=500)
    assert client.batch(event()).status_code == 200
    assert client.get(BUILDS).status_code == 500


def test_requests_are_counted_whatever_befalls_them(client, faults):
    faults.inject("buildkite", "reset")
    assert broken(lambda: client.get(BUILDS))
    client.get(BUILDS, params={"page": 2})
    buildkite = client.sandbox.buildkite
    assert buildkite.requests == [("GET", BUILDS, ""), ("GET", BUILDS, "page=2")]
    assert buildkite.request_count == 2


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"service": "github", "kind": "reset"}, "no service 'github'"),
        ({"service": "buildkite", "kind": "explode"}, "no fault 'explode'"),
        ({"service": "buildkite", "kind": "status", "code": 500}, "status knows nothing of code"),
        ({"service": "buildkite", "kind": "reset", "at": 1}, "only none"),
    ],
)
def test_impossible_orders_are_refused(faults, order, words):
    with pytest.raises(ValueError, match=words):
        faults.inject(**order)

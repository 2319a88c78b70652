"""The stand-in for Honeycomb's ingest API: batches, events, limits and warnings."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime

import pytest
import zstandard

from bk_pipeline.sandbox.bodies import parse_rfc3339_ns, parse_unix_time_ns

NOON = datetime(2026, 8, 6, 12, tzinfo=UTC)
MALFORMED = "Request body is malformed and cannot be read."
EMPTY = "Request body should not be empty."
TOO_LARGE = "Request body is too large."


@pytest.fixture
def honeycomb(client):
    return client.sandbox.honeycomb


def warnings(honeycomb):
    return [(warning.column, warning.text) for warning in honeycomb.warnings]


def test_valid_batch_is_stored_in_order_without_warnings(client, honeycomb, event):
    response = client.batch(event(1), event(2, samplerate=4) | {"samplerate": 4})
    assert response.json() == [{"status": 202}, {"status": 202}]
    assert honeycomb.warnings == []
    first, second = honeycomb.events
    assert (first.dataset, first.samplerate, second.samplerate) == ("ci", 1, 4)
    assert first.data == event(1)["data"]
    assert first.time == datetime(2026, 8, 6, 11, 59, 59, 123456, tzinfo=UTC)
    assert first.time_ns % 1_000_000_000 == 123456789


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstandard.compress)]
)
def test_compressed_bodies_are_accepted(client, honeycomb, event, encoding, compress):
    body = compress(json.dumps([event()]).encode())
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    assert client.post("/1/batch/ci", data=body, headers=headers).json() == [{"status": 202}]
    assert honeycomb.event_count == 1


@pytest.mark.parametrize(
    ("body", "encoding", "message"),
    [
        (b"", "", EMPTY),
        (b" \n", "", EMPTY),
        (b"{}", "", MALFORMED),
        (b"[", "", MALFORMED),
        (b'[{"data":{"a":NaN}}]', "", MALFORMED),
        (b"[]", "gzip", MALFORMED),
        (gzip.compress(b"[]", mtime=0)[:-5], "gzip", MALFORMED),
        (b"[]", "zstd", MALFORMED),
        (b"[]", "br", MALFORMED),
        (b"[" + b" " * 5_000_000 + b"]", "", TOO_LARGE),
        (gzip.compress(b"[" + b" " * 5_000_000 + b"]", mtime=0), "gzip", TOO_LARGE),
        (zstandard.compress(b"[" + b" " * 5_000_000 + b"]"), "zstd", TOO_LARGE),
    ],
    ids=lambda value: str(value)[:20],
)
def test_malformed_body_is_rejected(client, body, encoding, message):
    response = client.post("/1/batch/ci", data=body, headers={"Content-Encoding": encoding})
    assert response.status_code == 400
    assert response.json() == {"error": message}


def test_body_of_exactly_the_limit_is_accepted(client):
    body = b"[" + b" " * 4_999_998 + b"]"
    assert client.post("/1/batch/ci", data=body).json() == []


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ({"data": {}}, EMPTY),
        ({}, EMPTY),
        ({"data": 5}, MALFORMED),
        (5, MALFORMED),
        ({"data": {"a": "x" * 1_000_000}}, TOO_LARGE),
        ({"data": {f"c{n}": n for n in range(2_001)}}, "Event has too many columns."),
    ],
    ids=["empty", "none", "number for data", "number", "large", "wide"],
)
def test_only_the_bad_event_of_a_batch_is_rejected(client, honeycomb, event, element, message):
    response = client.batch(event(1), element, event(2))
    assert response.status_code == 200
    assert response.json() == [{"status": 202}, {"status": 400, "error": message}, {"status": 202}]
    assert honeycomb.event_count == 2


def test_dataset_has_a_column_limit(client, honeycomb, monkeypatch, event):
    monkeypatch.setattr(honeycomb, "max_dataset_columns", 6)
    assert client.batch(event(a=1, b=2)).status_code == 200
    response = client.batch(event(a=1, c=3))
    assert response.status_code == 400
    assert response.json() == {"error": "Dataset has too many columns."}
    assert honeycomb.event_count == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "null is not a column value"),
        ([1], "list is not a column value"),
        ({"a": 1}, "dict is not a column value"),
        ("é" * 40_000, "a string of 80000 bytes"),
        (1 << 64, "an integer beyond 64 bits"),
    ],
    ids=["null", "array", "object", "long", "big"],
)
def test_doubtful_values_are_accepted_with_a_warning(client, honeycomb, event, value, message):
    assert client.batch(event(field=value)).json() == [{"status": 202}]
    assert warnings(honeycomb) == [("field", message)]


def test_type_change_is_a_warning_for_each_dataset_separately(client, honeycomb, event):
    client.batch(event(1, exit_status=0, soft=True))
    client.batch(event(2, exit_status="0", soft=1), event(3, exit_status=0.5))
    client.batch(event(4, exit_status="0"), dataset="other")
    assert warnings(honeycomb) == [
        ("exit_status", "string in a column of type integer"),
        ("soft", "integer in a column of type boolean"),
        ("exit_status", "float in a column of type integer"),
    ]


def test_ids_that_are_not_strings_and_empty_parents_are_warnings(client, honeycomb, event):
    client.batch(event() | {"data": {"name": "a", "trace.trace_id": 5, "trace.parent_id": ""}})
    assert [column for column, _ in warnings(honeycomb)] == ["trace.trace_id", "trace.parent_id"]


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (1_786_000_000, "time is not a string (int)"),
        (None, "no time"),
        ("yesterday", "'yesterday' is not an RFC 3339 time"),
        ("2026-13-06T11:00:00Z", "is not an RFC 3339 time"),
        ("2026-08-06T11:00:00", "is not an RFC 3339 time"),
        ("2026-08-06T13:00:01Z", "is more than an hour in the future"),
    ],
)
def test_unusable_time_is_replaced_by_the_time_of_receipt(client, honeycomb, event, time, message):
    client.batch(event() | {"time": time})
    ((column, text),) = warnings(honeycomb)
    assert column == "time"
    assert message in text
    assert honeycomb.events[0].time == NOON


@pytest.mark.parametrize("time", ["1999-12-31T23:59:59Z", "2026-08-06T12:59:59+00:00"])
def test_old_and_near_future_times_are_accepted(client, honeycomb, event, time):
    client.batch(event() | {"time": time})
    assert honeycomb.warnings == []
    assert honeycomb.events[0].time == datetime.fromisoformat(time)


def test_unix_time_as_string_is_accepted_with_a_warning(client, honeycomb, event):
    client.batch(event() | {"time": "1786000000123"})
    assert warnings(honeycomb) == [("time", "Unix time, not RFC 3339")]
    assert honeycomb.events[0].time_ns == 1_786_000_000_123_000_000


@pytest.mark.parametrize("rate", [0, -1, "4", 1.5])
def test_bad_sample_rate_is_replaced_by_one(client, honeycomb, event, rate):
    client.batch(event() | {"samplerate": rate})
    assert honeycomb.events[0].samplerate == 1
    assert [column for column, _ in warnings(honeycomb)] == ["samplerate"]


def test_body_not_declared_as_json_is_a_warning(client, honeycomb, event):
    client.post("/1/batch/ci", data=json.dumps([event()]), headers={"Content-Type": "text/plain"})
    assert warnings(honeycomb) == [("", "Content-Type is not application/json")]


def test_names_with_the_same_slug_are_one_dataset(client, honeycomb, event):
    for name in ("My%20Dataset!", "my-dataset-", "MY DATASET!"):
        assert client.batch(event(), dataset=name).status_code == 200
    assert {stored.dataset for stored in honeycomb.events} == {"My Dataset!"}
    assert client.batch(event(), dataset="a%2Fb").status_code == 404
    assert client.batch(event(), dataset="x" * 256).status_code == 400


def test_key_without_create_datasets_can_send_only_to_existing_datasets(client, event):
    key = client.sandbox.add_honeycomb_key("ingest", create_datasets=False)
    headers = {"X-Honeycomb-Team": key}
    missing = client.batch(event(), headers=headers)
    assert missing.status_code == 404
    assert missing.json() == {"error": "dataset not found"}
    client.batch(event())
    assert client.batch(event(2), headers=headers).status_code == 200


def test_configuration_key_without_permission_cannot_send_events(client, event):
    key = client.sandbox.add_honeycomb_key("configuration", events=False)
    assert client.batch(event(), headers={"X-Honeycomb-Team": key}).status_code == 401


def test_duplicates_are_counted_by_span_id_and_for_links_by_content(client, honeycomb, event):
    link = event() | {
        "data": {"meta.annotation_type": "link", "trace.trace_id": "a", "trace.parent_id": "b"}
    }
    other = {**link, "data": link["data"] | {"trace.link.span_id": "c"}}
    client.batch(event(1), event(2), event(1, name="again"), link, other, link)
    client.batch(event(1), dataset="other")
    assert honeycomb.event_count == 7
    assert honeycomb.duplicate_count == 2
    assert honeycomb.store.distinct_spans == 3


def test_events_can_be_counted_without_storing_them(start_sandbox, event):
    client = start_sandbox(keep_events=False)
    client.batch(event(1), event(1))
    honeycomb = client.sandbox.honeycomb
    assert honeycomb.events == []
    assert (honeycomb.event_count, honeycomb.duplicate_count) == (2, 1)


def test_single_event_takes_time_and_rate_from_headers(client, honeycomb):
    headers = {
        "X-Honeycomb-Event-Time": "2026-08-06T11:00:00Z",
        "X-Honeycomb-Samplerate": "2",
    }
    response = client.post("/1/events/ci", json={"name": "one"}, headers=headers)
    assert (response.status_code, response.content) == (200, b"")
    (stored,) = honeycomb.events
    assert (stored.time.hour, stored.samplerate, stored.data) == (11, 2, {"name": "one"})
    assert honeycomb.warnings == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", EMPTY),
        (b"{}", EMPTY),
        (b"{", MALFORMED),
        (b"[1]", MALFORMED),
        (b'{"a":"' + b"x" * 1_000_000 + b'"}', TOO_LARGE),
    ],
    ids=["none", "empty", "cut", "array", "large"],
)
def test_bad_single_event_is_rejected(client, body, message):
    response = client.post("/1/events/ci", data=body)
    assert response.status_code == 400
    assert response.json() == {"error": message}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T01:00:00.5+01:00", 500_000_000),
        ("1970-01-01T00:00:00.1234567899Z", 123_456_789),
        ("1969-12-31T23:59:59.25Z", -750_000_000),
        ("1970-01-01 00:00:00Z", None),
        ("", None),
    ],
)
def test_rfc_3339_times_are_parsed_to_the_nanosecond(text, expected):
    assert parse_rfc3339_ns(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1786000000", 1_786_000_000_000_000_000), ("1786000000123456789", 1_786_000_000_123_456_789)]
    + [(text, None) for text in ("5", "1786000000.5", "17860000001234567891")],
)
def test_unix_times_have_ten_digits_of_seconds(text, expected):
    assert parse_unix_time_ns(text) == expected

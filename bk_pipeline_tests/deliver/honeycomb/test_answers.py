"""The interpretation of Honeycomb's responses."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from bk_pipeline.deliver.destination import Verdict
from bk_pipeline.deliver.honeycomb.answers import outcomes, refusal
from bk_pipeline.errors import (
    AccessDenied,
    DeliveryThrottled,
    NotFound,
    RequestRefused,
    RequestTooLarge,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.http.session import Response

PLACE = "Honeycomb (dataset ci at api.honeycomb.io)"


def response(status, body=b"", **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, headers, content, "POST host/1/batch/ci", "https://host/1/batch/ci")


def read(status, body, count=1):
    return outcomes(response(status, body), count, place=PLACE, quote=str)


def refused(status, body=b"", **headers):
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    return refusal(response(status, body, **headers), place=PLACE, quote=str, now=now)


@pytest.mark.parametrize(
    ("element", "verdict"),
    [
        ({"status": 202}, Verdict.ACCEPTED),
        ({"status": 200}, Verdict.ACCEPTED),
        ({"status": 400, "error": "Event has too many columns."}, Verdict.REJECTED),
        ({"status": 413, "error": "Request body is too large."}, Verdict.REJECTED),
        ({"status": 429, "error": "Request dropped due to rate limiting."}, Verdict.THROTTLED),
        (
            {"status": 429, "error": "Event dropped due to administrative denylist"},
            Verdict.REJECTED,
        ),
        (
            {"status": 429, "error": "event dropped due to administrative blacklist"},
            Verdict.REJECTED,
        ),
        (
            {"status": 202, "error": "request dropped due to server side sampling"},
            Verdict.REJECTED,
        ),
        ({"status": 200, "error": "Event dropped due to rate limiting."}, Verdict.THROTTLED),
        ({"status": 202, "error": "dropped by sampling"}, Verdict.REJECTED),
        ({"status": 202, "error": "discarded 1 event"}, Verdict.REJECTED),
        ({"status": 202, "error": "the time lies ahead and was replaced"}, Verdict.ACCEPTED),
        ({"status": 500, "error": "oops"}, Verdict.FAILED),
        ({"status": 401, "error": "unknown API key"}, Verdict.FAILED),
    ],
    ids=lambda value: str(value.get("status")) if isinstance(value, dict) else value.value,
)
def test_each_event_has_its_own_outcome(element, verdict):
    (outcome,) = read(200, [element])

    assert outcome.verdict is verdict
    assert verdict is Verdict.ACCEPTED or element.get("error", "") in outcome.message


def test_events_missing_from_the_response_are_unanswered():
    found = read(200, [{"status": 202}], count=3)

    assert [one.verdict for one in found] == [Verdict.ACCEPTED, *[Verdict.UNANSWERED] * 2]


def test_an_empty_202_accepts_all():
    assert [one.verdict for one in read(202, b"", count=2)] == [Verdict.ACCEPTED] * 2


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Your request was dropped</html>",
        b"",
        b'{"status":202}',
        b"[202]",
        b'[{"error":"x"}]',
        b'{"error":"no such thing"}',
    ],
    ids=["html", "empty", "object", "numbers", "no status", "other message"],
)
def test_a_200_without_outcomes_is_unexpected(body):
    with pytest.raises(UnexpectedAnswer, match="HONEYCOMB_API_ENDPOINT"):
        read(200, body)


@pytest.mark.parametrize("body", [b'[{"status":202},{"sta', b"[", b"[{\xff}]", b'[{"status":2'])
def test_truncated_200_is_retryable_and_may_have_been_processed(body):
    with pytest.raises(ServiceUnavailable, match="cut short") as caught:
        read(200, body, count=2)
    assert caught.value.maybe_processed


@pytest.mark.parametrize("status", [200, 202])
@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("request dropped due to server side sampling", Verdict.REJECTED),
        ("Request dropped due to rate limiting.", Verdict.THROTTLED),
        ("Event dropped due to administrative throttling", Verdict.THROTTLED),
    ],
)
def test_success_that_reports_dropped_events_accepts_nothing(status, message, verdict):
    assert read(status, {"error": message}, count=2) == [(verdict, f"{status}: {message}")] * 2
    for body in (message, f'"{message}"'):
        assert [one.verdict for one in read(status, body.encode(), count=2)] == [verdict] * 2


def test_success_that_reports_a_denylist_raises():
    with pytest.raises(AccessDenied, match=r"denylist \(200: event dropped.*support"):
        read(200, {"error": "event dropped due to administrative blacklist"})


def test_more_outcomes_than_events_are_unexpected():
    with pytest.raises(UnexpectedAnswer, match="2 outcomes for 1 events"):
        read(200, [{"status": 202}] * 2)


@pytest.mark.parametrize(
    ("status", "error", "kind", "remedy"),
    [
        (400, "Request body is malformed and cannot be read.", RequestRefused, "HONEYCOMB_DATASET"),
        (400, "Request body is too large.", RequestTooLarge, "too large"),
        (400, "Dataset has too many columns.", RequestRefused, "BK_PIPELINE_SPANS_DROP"),
        (401, "unknown API key - check your credentials", TokenRefused, "HONEYCOMB_API_KEY"),
        (403, "Event dropped due to administrative throttling", AccessDenied, "plan"),
        (404, "dataset not found", NotFound, "Create Datasets"),
        (413, "too much", RequestTooLarge, "too large"),
        (429, "Request dropped due to rate limiting.", DeliveryThrottled, "later"),
        (429, "Event dropped due to administrative denylist", AccessDenied, "support"),
        (429, "event dropped due to administrative blacklist", AccessDenied, "support"),
        (500, "oops", ServiceUnavailable, "status.honeycomb.io"),
        (503, "oops", ServiceUnavailable, "status.honeycomb.io"),
    ],
)
def test_refusal_names_place_response_and_remedy(status, error, kind, remedy):
    found = refused(status, {"error": error})

    assert type(found) is kind
    assert PLACE in str(found)
    assert f"{status}: {error}" in str(found)
    assert remedy in str(found)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_success_is_no_refusal(status):
    assert refused(status) is None


@pytest.mark.parametrize(("status", "maybe"), [(500, True), (502, True), (503, False), (504, True)])
def test_only_a_503_is_known_not_to_have_been_processed(status, maybe):
    assert refused(status).maybe_processed is maybe


@pytest.mark.parametrize("status", [429, 500])
def test_retry_after_is_honoured(status):
    assert refused(status, {"error": "x"}).retry_in_s is None
    assert refused(status, {"error": "x"}, **{"Retry-After": "7"}).retry_in_s == 7


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "plain"}, "plain"),
        ({"type": "t", "title": "a title", "detail": "a detail"}, "a detail"),
        ({"errors": [{"title": "inside", "status": "401"}]}, "inside"),
        (b"<html>", '"<html>"'),
        (b"", "an empty body"),
    ],
    ids=["error", "RFC 7807", "JSON:API", "html", "empty"],
)
def test_message_is_found_in_each_error_format(body, message):
    assert message in str(refused(401, body))

from __future__ import annotations

import gzip

import pytest

from bk_pipeline.buildkite.listing import PipelineFilter
from bk_pipeline.errors import (
    AccessDenied,
    NotFound,
    RequestRefused,
    ServiceUnavailable,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline_tests.buildkite.conftest import TOKEN
from bk_pipeline_tests.buildkite.listed import DAY, WHOLE_DAY, build, numbers
from bk_pipeline_tests.http.scripted import Answer, Hang, Raw, as_json

STATUSES = {
    401: (TokenRefused, "Buildkite does not know the token in BUILDKITE_API_TOKEN (401)"),
    403: (AccessDenied, "Give it the scope read_builds"),
    404: (NotFound, "Check BUILDKITE_ORGANIZATION_SLUG"),
    400: (RequestRefused, "(400: created_from is no time)"),
    422: (RequestRefused, "(422: created_from is no time)"),
    418: (RequestRefused, "(418: created_from is no time)"),
}


@pytest.mark.parametrize("status", STATUSES)
def test_refused_request_is_not_retried_and_says_what_to_do(server, client, clock, status):
    kind, message = STATUSES[status]
    server.otherwise = as_json({"message": "created_from is no time"}, status)

    with pytest.raises(kind) as caught:
        list(client.iter_builds(WHOLE_DAY))

    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert len(server.requests) == 1
    assert clock.slept == []


def test_missing_pipeline_is_named(server, connect):
    server.otherwise = as_json({"message": "No pipeline found"}, 404)
    client = connect(server.url, pipelines=PipelineFilter(("gone",)))
    with pytest.raises(NotFound, match=r"no pipeline gone, .* Check BK_PIPELINE_PIPELINES"):
        list(client.iter_builds(WHOLE_DAY))


def test_message_of_the_server_is_truncated(server, client):
    server.otherwise = as_json({"message": "no\n" * 500}, 400)
    with pytest.raises(RequestRefused) as caught:
        list(client.iter_builds(WHOLE_DAY))
    assert caught.value.status == 400
    assert len(str(caught.value)) < 500


def test_html_error_page_of_a_proxy_is_described(server, client):
    server.otherwise = Answer(403, b"<html>\nBlocked", {"Content-Type": "text/html"})
    with pytest.raises(AccessDenied, match='403: text/html beginning with "<html> Blocked"'):
        list(client.iter_builds(WHOLE_DAY))


TRANSIENT = {
    "500": as_json({"message": "oops"}, 500),
    "502 without headers": Answer(502, b"<html>", {"Content-Type": "text/html"}),
    "503": as_json({"message": "later"}, 503),
    "408": Answer(408),
    "hang": Hang(),
    "reset": Raw(b""),
    "body cut": Raw(Answer(body=b"[1, 2", length=90).bytes()),
    "body cut, length agrees": Answer(body=b'[{"id": "a", "numb'),
    "gzip cut": Answer(body=gzip.compress(b"[]")[:-4], headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("reply", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_transient_failure_is_retried_with_growing_pauses(server, connect, clock, messages, reply):
    client = connect(server.url, read_s=1 if isinstance(reply, Hang) else 30)
    server.replies.extend([reply, reply, as_json([build(1, 1)])])

    assert numbers(client.iter_builds(WHOLE_DAY)) == [1]
    assert clock.slept == [1, 2]
    assert messages[0].endswith("Attempt 2 follows in 1 s, at 12:00:01Z.")


def test_lasting_failure_reports_attempts_and_seconds(server, client):
    server.otherwise = as_json({"message": "later"}, 503)
    with pytest.raises(
        ServiceUnavailable, match=r"503: later\)\. Gave up after 7 attempts in 63 s"
    ):
        list(client.iter_builds(WHOLE_DAY))


def test_retry_after_of_a_503_is_honoured(server, client, clock):
    server.replies.append(as_json({}, 503, {"Retry-After": "17"}))
    list(client.iter_builds(WHOLE_DAY))
    assert clock.slept == [17]


NOT_ARRAYS = {
    "html": (
        Answer(body=b"<!doctype html><title>Sign in", headers={"Content-Type": "text/html"}),
        "text/html",
    ),
    "object": (as_json({"builds": []}), '{"builds": []}'),
    "empty": (Answer(body=b""), "an empty body"),
    "no content": (Answer(204, b""), "an empty body"),
    "text": (Answer(body=b"OK"), "OK"),
}


@pytest.mark.parametrize(("reply", "shown"), NOT_ARRAYS.values(), ids=NOT_ARRAYS.keys())
def test_body_that_is_not_an_array_is_described_and_not_retried(server, client, reply, shown):
    server.otherwise = reply

    with pytest.raises(UnexpectedAnswer, match="Check that BUILDKITE_API_URL") as caught:
        list(client.iter_builds(WHOLE_DAY))

    assert shown in str(caught.value)
    assert len(server.requests) == 1


def test_token_appears_in_no_error_message_repr_or_log(server, client, messages, caplog):
    """Even if the server echoes it."""
    caplog.set_level("DEBUG")
    echo = f"token {TOKEN} (Bearer {TOKEN})"
    replies = [as_json({"message": echo}, status) for status in (400, 401, 403, 404, 418, 422)]
    replies += [as_json({"reset": 999, "scope": echo, "limit": echo}, 429)]
    replies += [as_json({"message": echo}, 400), Answer(302, b"", {"Location": f"/x?{TOKEN}"})]
    replies += [Answer(body=f"<p>{echo}".encode(), headers={"Content-Type": echo})]
    broken = [reply for reply in TRANSIENT.values() if not isinstance(reply, Hang)]
    shown = [repr(client), str(client), repr(client._session), repr(client._api._quota)]

    for number, reply in enumerate([*replies, *broken]):
        server.replies.clear()
        server.otherwise = reply
        client._api._quota.blocked_until = 0
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
            list(client.iter_builds(WHOLE_DAY)) if number % 2 else client.iter_finished(
                WHOLE_DAY, finished_from=DAY, max_pages=9
            )
        error = caught.value
        while error is not None:
            shown += [str(error), repr(error), repr(vars(error))]
            error = error.__cause__ or error.__context__

    everything = "\n".join([*shown, *messages, caplog.text])
    assert TOKEN not in everything
    assert "[redacted]" in everything

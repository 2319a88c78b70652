from __future__ import annotations

import gzip

import pytest

from bk_pipeline.buildkite.listing import PipelineChoice
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
def test_refusal_is_not_repeated_and_says_what_to_do(server, client, clock, status):
    kind, words = STATUSES[status]
    server.otherwise = as_json({"message": "created_from is no time"}, status)

    with pytest.raises(kind) as caught:
        list(client.iter_builds(WHOLE_DAY))

    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert len(server.requests) == 1
    assert clock.slept == []


def test_missing_pipeline_is_named(server, connect):
    server.otherwise = as_json({"message": "No pipeline found"}, 404)
    client = connect(server.url, choice=PipelineChoice(("gone",)))
    with pytest.raises(NotFound, match=r"no pipeline gone, .* Check BK_PIPELINE_PIPELINES"):
        list(client.iter_builds(WHOLE_DAY))


def test_servers_words_are_shortened(server, client):
    server.otherwise = as_json({"message": "no\n" * 500}, 400)
    with pytest.raises(RequestRefused) as caught:
        list(client.iter_builds(WHOLE_DAY))
    assert caught.value.status == 400
    assert len(str(caught.value)) < 500


def test_proxys_page_in_place_of_a_refusal_is_described(server, client):
    server.otherwise = Answer(403, b"<html>\nBlocked", {"Content-Type": "text/html"})
    with pytest.raises(AccessDenied, match='403: text/html beginning with "<html> Blocked"'):
        list(client.iter_builds(WHOLE_DAY))


PASSING = {
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


@pytest.mark.parametrize("reply", PASSING.values(), ids=PASSING.keys())
def test_passing_failure_is_asked_again_with_growing_pauses(server, connect, clock, said, reply):
    client = connect(server.url, read_s=1 if isinstance(reply, Hang) else 30)
    server.replies.extend([reply, reply, as_json([build(1, 1)])])

    assert numbers(client.iter_builds(WHOLE_DAY)) == [1]
    assert clock.slept == [1, 2]
    assert said[0].endswith("Attempt 2 follows in 1 s, at 12:00:01Z.")


def test_failure_that_does_not_pass_ends_with_attempts_and_seconds(server, client):
    server.otherwise = as_json({"message": "later"}, 503)
    with pytest.raises(
        ServiceUnavailable, match=r"503: later\)\. Gave up after 7 attempts in 63 s"
    ):
        list(client.iter_builds(WHOLE_DAY))


def test_retry_after_of_a_503_is_honoured(server, client, clock):
    server.replies.append(as_json({}, 503, {"Retry-After": "17"}))
    list(client.iter_builds(WHOLE_DAY))
    assert clock.slept == [17]


NO_LISTS = {
    "html": (
        Answer(body=b"<!doctype html><title>Sign in", headers={"Content-Type": "text/html"}),
        "text/html",
    ),
    "object": (as_json({"builds": []}), '{"builds": []}'),
    "empty": (Answer(body=b""), "an empty body"),
    "no content": (Answer(204, b""), "an empty body"),
    "text": (Answer(body=b"OK"), "OK"),
}


@pytest.mark.parametrize(("reply", "shown"), NO_LISTS.values(), ids=NO_LISTS.keys())
def test_what_is_no_list_is_described_and_not_asked_for_again(server, client, reply, shown):
    server.otherwise = reply

    with pytest.raises(UnexpectedAnswer, match="Check that BUILDKITE_API_URL") as caught:
        list(client.iter_builds(WHOLE_DAY))

    assert shown in str(caught.value)
    assert len(server.requests) == 1


def test_token_is_in_no_error_announcement_repr_or_log(server, client, said, caplog):
    """Even where the other side repeats it."""
    caplog.set_level("DEBUG")
    echo = f"token {TOKEN} (Bearer {TOKEN})"
    replies = [as_json({"message": echo}, status) for status in (400, 401, 403, 404, 418, 422)]
    replies += [as_json({"reset": 999, "scope": echo, "limit": echo}, 429)]
    replies += [as_json({"message": echo}, 400), Answer(302, b"", {"Location": f"/x?{TOKEN}"})]
    replies += [Answer(body=f"<p>{echo}".encode(), headers={"Content-Type": echo})]
    broken = [reply for reply in PASSING.values() if not isinstance(reply, Hang)]
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

    everything = "\n".join([*shown, *said, caplog.text])
    assert TOKEN not in everything
    assert "[redacted]" in everything

from __future__ import annotations

import pytest

from bk_pipeline.errors import QuotaSpent
from bk_pipeline.http.retry import LONGEST_WAIT_S
from bk_pipeline_tests.buildkite.listed import WHOLE_DAY
from bk_pipeline_tests.http.scripted import as_json

QUOTA = {
    "RateLimit-Remaining": "150",
    "RateLimit-Limit": "200",
    "RateLimit-Reset": "42",
    "RateLimit-User-Remaining": "40",
    "RateLimit-User-Limit": "50",
    "RateLimit-User-Reset": "42",
}


SPENT = {
    "body": ({"scope": "rest_user", "limit": 50, "reset": 42}, {}, 43, "user quota (50 a minute)"),
    "header of the scope": ({"scope": "rest_user"}, QUOTA, 43, "user quota"),
    "Retry-After": ({}, {"Retry-After": "7"}, 8, "quota"),
    "nothing": ("no JSON object", {}, 61, "quota"),
    "nonsense": ({"reset": "soon", "scope": ["x"]}, {"RateLimit-Reset": "-"}, 61, "quota"),
}


@pytest.mark.parametrize(("body", "headers", "pause", "name"), SPENT.values(), ids=SPENT.keys())
def test_429_waits_for_its_reset(*, server, client, clock, messages, body, headers, pause, name):
    server.replies.append(as_json(body, 429, headers))

    list(client.iter_builds(WHOLE_DAY))

    assert sum(clock.slept) == pytest.approx(pause)
    assert len(clock.slept) == 1
    assert f"Buildkite's {name} is spent (429)." in messages[0]


def test_429_beyond_the_deadline_has_the_time_of_the_next_retry(server, client, clock):
    server.otherwise = as_json({"reset": 400}, 429)
    with pytest.raises(QuotaSpent, match="Gave up after 1 attempt") as caught:
        list(client.iter_builds(WHOLE_DAY))
    assert caught.value.retry_in_s == pytest.approx(LONGEST_WAIT_S + 1)
    assert clock.slept == []


def test_wait_before_the_quota_is_spent_is_reported(server, client, clock, messages):
    server.replies.append(as_json([], headers={**QUOTA, "RateLimit-User-Remaining": "2"}))
    list(client.iter_builds(WHOLE_DAY))
    list(client.iter_builds(WHOLE_DAY))

    assert messages == [
        "Buildkite's user quota is down to its reserve (2 of 50 left). Waiting 43 s, until 12:00:43Z."
    ]
    assert clock.slept == [43]


def test_wait_longer_than_the_maximum_is_an_error(server, connect, clock):
    client = connect(server.url, max_wait_s=10)
    server.replies.append(as_json([], headers={**QUOTA, "RateLimit-User-Remaining": "2"}))
    list(client.iter_builds(WHOLE_DAY))
    with pytest.raises(QuotaSpent, match=r"\(2 of 50 left\)\. There is room in 43 s\.") as caught:
        list(client.iter_builds(WHOLE_DAY))
    assert caught.value.retry_in_s == pytest.approx(43)
    assert clock.slept == []


def test_waiting_for_the_quota_does_not_count_against_the_deadline(server, connect, clock):
    client = connect(server.url)
    spent = {**QUOTA, "RateLimit-User-Remaining": "2", "RateLimit-User-Reset": "99"}
    server.replies.extend([as_json([], headers=spent), as_json({}, 503), as_json([])])
    list(client.iter_builds(WHOLE_DAY))
    list(client.iter_builds(WHOLE_DAY))
    assert clock.slept == [100, 1]

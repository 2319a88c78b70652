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
def test_429_waits_for_the_reset_it_names(
    *, server, client, clock, said, body, headers, pause, name
):
    server.replies.append(as_json(body, 429, headers))

    list(client.iter_builds(WHOLE_DAY))

    assert sum(clock.slept) == pytest.approx(pause)
    assert len(clock.slept) == 1
    assert f"Buildkite's {name} is spent (429)." in said[0]


def test_429_beyond_the_deadline_says_when_to_come_back(server, client, clock):
    server.otherwise = as_json({"reset": 400}, 429)
    with pytest.raises(QuotaSpent, match="Gave up after 1 attempt") as caught:
        list(client.iter_builds(WHOLE_DAY))
    assert caught.value.retry_in_s == pytest.approx(LONGEST_WAIT_S + 1)
    assert clock.slept == []


def test_quota_is_waited_for_before_it_is_spent_and_announced(server, client, clock, said):
    server.replies.append(as_json([], headers={**QUOTA, "RateLimit-User-Remaining": "2"}))
    list(client.iter_builds(WHOLE_DAY))
    list(client.iter_builds(WHOLE_DAY))

    assert said == [
        "Buildkite's user quota is down to its reserve (2 of 50 left). Waiting 43 s, until 12:00:43Z."
    ]
    assert clock.slept == [43]


def test_who_has_no_patience_is_told_instead_of_made_to_wait(server, connect, clock):
    client = connect(server.url, patience_s=10)
    server.replies.append(as_json([], headers={**QUOTA, "RateLimit-User-Remaining": "2"}))
    list(client.iter_builds(WHOLE_DAY))
    with pytest.raises(QuotaSpent, match=r"\(2 of 50 left\)\. There is room in 43 s\.") as caught:
        list(client.iter_builds(WHOLE_DAY))
    assert caught.value.retry_in_s == pytest.approx(43)
    assert clock.slept == []


def test_waiting_for_the_quota_is_no_part_of_the_retries_deadline(server, connect, clock):
    client = connect(server.url)
    spent = {**QUOTA, "RateLimit-User-Remaining": "2", "RateLimit-User-Reset": "99"}
    server.replies.extend([as_json([], headers=spent), as_json({}, 503), as_json([])])
    list(client.iter_builds(WHOLE_DAY))
    list(client.iter_builds(WHOLE_DAY))
    assert clock.slept == [100, 1]

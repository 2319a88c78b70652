"""Buildkite's rate limits."""

from __future__ import annotations

import pytest

PATH = "/v2/access-token"


def limit_headers(response):
    return {k.lower(): v for k, v in response.headers.items() if k.lower().startswith("ratelimit")}


def test_every_response_reports_both_limits(start_sandbox):
    client = start_sandbox(user_limit=50, organization_limit=200)
    client.get(PATH)
    client.clock.seconds += 18.5
    assert limit_headers(client.get(PATH)) == {
        "ratelimit-limit": "200",
        "ratelimit-remaining": "198",
        "ratelimit-reset": "42",
        "ratelimit-scope": "rest",
        "ratelimit-user-limit": "50",
        "ratelimit-user-remaining": "48",
        "ratelimit-user-reset": "42",
        "ratelimit-user-scope": "rest_user",
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/organizations/unknown", 404),
        ("/v2/nowhere", 404),
        ("/v2/organizations/acme/builds?page=x", 422),
    ],
)
def test_error_responses_report_limits_and_count(start_sandbox, path, status):
    client = start_sandbox()
    response = client.get(path)
    assert response.status_code == status
    assert limit_headers(response)["ratelimit-remaining"] == "199"


def test_request_with_an_unknown_token_is_not_counted(start_sandbox):
    client = start_sandbox()
    response = client.get(PATH, token="wrong")
    assert response.status_code == 401
    assert limit_headers(response)["ratelimit-user-remaining"] == "50"
    assert limit_headers(client.get(PATH))["ratelimit-remaining"] == "199"


def test_user_limit_rejects_until_its_reset(start_sandbox):
    client = start_sandbox(user_limit=2)
    assert [client.get(PATH).status_code for _ in range(3)] == [200, 200, 429]
    client.clock.seconds += 20
    response = client.get(PATH)
    body = response.json()
    assert body.pop("message")
    assert body == {"scope": "rest_user", "limit": 2, "current": 4, "reset": 40}
    assert limit_headers(response)["ratelimit-user-remaining"] == "0"
    client.clock.seconds += 40
    assert client.get(PATH).status_code == 200


def test_others_can_exhaust_the_organization_limit(start_sandbox):
    client = start_sandbox()
    client.sandbox.limits.consume(scope="rest", count=200)
    response = client.get(PATH)
    assert response.status_code == 429
    assert response.json()["scope"] == "rest"
    assert limit_headers(response)["ratelimit-user-remaining"] == "49"


def test_each_user_has_its_own_limit(start_sandbox):
    client = start_sandbox(user_limit=1)
    other = client.sandbox.add_token(user="other")
    twin = client.sandbox.add_token()
    assert client.get(PATH).status_code == 200
    assert client.get(PATH, token=other).status_code == 200
    assert client.get(PATH, token=twin).status_code == 429


def test_requests_of_the_same_user_can_be_simulated(start_sandbox):
    client = start_sandbox()
    client.sandbox.limits.consume(scope="rest_user", count=50)
    assert client.get(PATH).json()["scope"] == "rest_user"
    with pytest.raises(ValueError, match="no scope 'graphql'"):
        client.sandbox.limits.consume(scope="graphql")


def test_rate_limit_endpoint_reports_the_organization(start_sandbox):
    client = start_sandbox()
    client.sandbox.limits.consume(count=4)
    response = client.get("/v2/organizations/acme/rate_limit").json()
    assert response["scopes"]["rest"] == {
        "limit": 200,
        "current": 5,
        "reset": 60,
        "reset_at": "2026-08-06T12:01:00Z",
        "enforced": True,
    }


def test_limits_can_be_switched_off(start_sandbox):
    client = start_sandbox(limits=False, user_limit=1)
    client.sandbox.limits.consume(count=500)
    responses = [client.get(PATH) for _ in range(3)]
    assert {response.status_code for response in responses} == {200}
    assert limit_headers(responses[-1])["ratelimit-user-remaining"] == "1"

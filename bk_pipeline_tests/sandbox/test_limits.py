from __future__ import annotations

import pytest

PATH = "/v2/access-token"


def limit_headers(answer):
    return {k.lower(): v for k, v in answer.headers.items() if k.lower().startswith("ratelimit")}


def test_every_answer_tells_both_limits(serve_alone):
    client = serve_alone(user_limit=50, organization_limit=200)
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
        ("/v2/organizations/nobody", 404),
        ("/v2/nowhere", 404),
        ("/v2/organizations/acme/builds?page=x", 422),
    ],
)
def test_refusals_tell_them_too_and_count(serve_alone, path, status):
    client = serve_alone()
    answer = client.get(path)
    assert answer.status_code == status
    assert limit_headers(answer)["ratelimit-remaining"] == "199"


def test_request_without_a_token_tells_them_and_counts_for_nobody(serve_alone):
    client = serve_alone()
    answer = client.get(PATH, token="wrong")
    assert answer.status_code == 401
    assert limit_headers(answer)["ratelimit-user-remaining"] == "50"
    assert limit_headers(client.get(PATH))["ratelimit-remaining"] == "199"


def test_user_limit_refuses_until_its_reset(serve_alone):
    client = serve_alone(user_limit=2)
    assert [client.get(PATH).status_code for _ in range(3)] == [200, 200, 429]
    client.clock.seconds += 20
    refused = client.get(PATH)
    body = refused.json()
    assert body.pop("message")
    assert body == {"scope": "rest_user", "limit": 2, "current": 4, "reset": 40}
    assert limit_headers(refused)["ratelimit-user-remaining"] == "0"
    client.clock.seconds += 40
    assert client.get(PATH).status_code == 200


def test_others_can_use_up_the_organizations_limit(serve_alone):
    client = serve_alone()
    client.sandbox.limits.consume(scope="rest", count=200)
    refused = client.get(PATH)
    assert refused.status_code == 429
    assert refused.json()["scope"] == "rest"
    assert limit_headers(refused)["ratelimit-user-remaining"] == "49"


def test_users_have_limits_of_their_own(serve_alone):
    client = serve_alone(user_limit=1)
    other = client.sandbox.add_token(user="somebody-else")
    twin = client.sandbox.add_token()
    assert client.get(PATH).status_code == 200
    assert client.get(PATH, token=other).status_code == 200
    assert client.get(PATH, token=twin).status_code == 429


def test_consumption_of_the_same_user_can_be_simulated(serve_alone):
    client = serve_alone()
    client.sandbox.limits.consume(scope="rest_user", count=50)
    assert client.get(PATH).json()["scope"] == "rest_user"
    with pytest.raises(ValueError, match="no scope 'graphql'"):
        client.sandbox.limits.consume(scope="graphql")


def test_rate_limit_endpoint_reports_the_organization(serve_alone):
    client = serve_alone()
    client.sandbox.limits.consume(count=4)
    answer = client.get("/v2/organizations/acme/rate_limit").json()
    assert answer["scopes"]["rest"] == {
        "limit": 200,
        "current": 5,
        "reset": 60,
        "reset_at": "2026-08-06T12:01:00Z",
        "enforced": True,
    }


def test_limits_can_be_switched_off(serve_alone):
    client = serve_alone(limits=False, user_limit=1)
    client.sandbox.limits.consume(count=500)
    answers = [client.get(PATH) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert limit_headers(answers[-1])["ratelimit-user-remaining"] == "1"

from __future__ import annotations

import re

import pytest

ORGANIZATION = "/v2/organizations/acme"


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        (ORGANIZATION, "read_organizations"),
        (ORGANIZATION + "/builds", "read_builds"),
        (ORGANIZATION + "/pipelines/web/builds", "read_builds"),
        (ORGANIZATION + "/pipelines", "read_pipelines"),
        (ORGANIZATION + "/rate_limit", "read_accounts"),
    ],
)
def test_each_path_wants_its_scope(client, path, scope):
    refused = client.get(path, token=client.sandbox.add_token(scopes=["read_artifacts"]))
    assert refused.status_code == 403
    assert scope in refused.json()["message"]
    assert client.get(path, token=client.sandbox.add_token(scopes=[scope])).status_code == 200


def test_token_tells_about_itself_without_any_scope(client):
    answer = client.get("/v2/access-token", token=client.sandbox.add_token(scopes=[])).json()
    assert answer["scopes"] == []
    assert {"uuid", "description", "created_at", "expires_at", "user"} <= answer.keys()


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic abc"])
def test_without_a_valid_token_all_is_refused(client, header):
    headers = {"Authorization": header} if header else {}
    answer = client.session.get(client.url + ORGANIZATION, headers=headers, timeout=20)
    assert answer.status_code == 401
    assert answer.json()["message"].startswith("Authentication required.")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/organizations/other/builds",
        ORGANIZATION + "/pipelines/none/builds",
        ORGANIZATION + "/pipelines/web/builds/999999999",
        ORGANIZATION + "/pipelines/web/builds/0",
        "/v2/unknown",
        "/v3/unknown",
    ],
)
def test_what_does_not_exist_is_not_found(client, path):
    assert client.get(path).status_code == 404


def test_organization_describes_itself(client):
    answer = client.get(ORGANIZATION).json()
    assert answer["slug"] == "acme"
    assert answer["graphql_id"]


def test_wrong_method_is_refused_in_json(client):
    answer = client.session.post(client.url + ORGANIZATION, timeout=20)
    assert answer.status_code == 405
    assert "message" in answer.json()


def test_credentials_have_the_right_shape_and_are_plainly_not_real(client):
    sandbox = client.sandbox
    assert re.fullmatch(r"bkua_0{30}[0-9a-f]{10}", sandbox.buildkite_token)
    assert re.fullmatch(r"SandboxOnlyKey\d{8}", sandbox.honeycomb_key)


@pytest.mark.parametrize(
    ("kind", "shape", "told"),
    [
        ("ingest", r"hcaik_[a-z0-9]{58}", "ingest"),
        ("configuration", r"[A-Za-z0-9]{22}", "configuration"),
        ("classic_ingest", r"hcaic_[a-z0-9]{58}", "ingest"),
        ("classic_configuration", r"[0-9a-f]{32}", "configuration"),
    ],
)
def test_honeycomb_keys_of_every_kind_tell_what_they_may_do(client, kind, shape, told):
    key = client.sandbox.add_honeycomb_key(kind, create_datasets=False)
    assert re.fullmatch(shape, key)
    answer = client.session.get(
        client.url + "/1/auth", headers={"X-Honeycomb-Team": key}, timeout=20
    ).json()
    assert answer["type"] == told
    assert answer["api_key_access"]["createDatasets"] is False
    assert ("events" in answer["api_key_access"]) == (told == "configuration")
    assert (answer["environment"]["slug"] == "") == kind.startswith("classic")


def test_unknown_kind_of_key_is_refused(client):
    with pytest.raises(ValueError, match="no key kind 'management'"):
        client.sandbox.add_honeycomb_key("management")


@pytest.mark.parametrize("path", ["/1/auth", "/1/batch/ci", "/1/events/ci"])
def test_unknown_honeycomb_key_is_refused(client, path):
    method = "GET" if path == "/1/auth" else "POST"
    answer = client.session.request(
        method, client.url + path, headers={"X-Honeycomb-Team": "nobody"}, timeout=20
    )
    assert answer.status_code == 401
    assert answer.json() == {"error": "unknown API key - check your credentials"}

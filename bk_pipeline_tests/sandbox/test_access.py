"""Authentication, scopes and unknown paths of the stand-ins for Buildkite and Honeycomb."""

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
        (ORGANIZATION + "/clusters", "read_clusters"),
        (ORGANIZATION + "/rate_limit", "read_accounts"),
    ],
)
def test_each_path_requires_its_scope(client, path, scope):
    response = client.get(path, token=client.sandbox.add_token(scopes=["read_artifacts"]))
    assert response.status_code == 403
    assert scope in response.json()["message"]
    assert client.get(path, token=client.sandbox.add_token(scopes=[scope])).status_code == 200


def test_access_token_endpoint_needs_no_scope(client):
    response = client.get("/v2/access-token", token=client.sandbox.add_token(scopes=[])).json()
    assert response["scopes"] == []
    assert {"uuid", "description", "created_at", "expires_at", "user"} <= response.keys()


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic abc"])
def test_request_without_a_valid_token_is_rejected(client, header):
    headers = {"Authorization": header} if header else {}
    response = client.session.get(client.url + ORGANIZATION, headers=headers, timeout=20)
    assert response.status_code == 401
    assert response.json()["message"].startswith("Authentication required.")


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
def test_unknown_path_is_not_found(client, path):
    assert client.get(path).status_code == 404


def test_clusters_are_listed_in_pages_and_pipelines_are_in_them(client):
    page, found = 1, []
    while page:
        response = client.get(f"{ORGANIZATION}/clusters?per_page=1&page={page}")
        found += response.json()
        page = page + 1 if "next" in response.links else None
    assert found == client.get(ORGANIZATION + "/clusters").json()
    assert all({"id", "graphql_id", "name"} <= one.keys() for one in found)
    pipelines = client.get(ORGANIZATION + "/pipelines").json()
    assert {one["cluster_id"] for one in pipelines} - {None} == {one["id"] for one in found}


def test_organization_endpoint_returns_the_organization(client):
    response = client.get(ORGANIZATION).json()
    assert response["slug"] == "acme"
    assert response["graphql_id"]


def test_wrong_method_is_rejected_with_json(client):
    response = client.session.post(client.url + ORGANIZATION, timeout=20)
    assert response.status_code == 405
    assert "message" in response.json()


def test_credentials_have_the_real_format_and_are_plainly_fake(client):
    sandbox = client.sandbox
    assert re.fullmatch(r"bkua_0{30}[0-9a-f]{10}", sandbox.buildkite_token)
    assert re.fullmatch(r"SandboxOnlyKey\d{8}", sandbox.honeycomb_key)


@pytest.mark.parametrize(
    ("kind", "pattern", "key_type"),
    [
        ("ingest", r"hcaik_[a-z0-9]{58}", "ingest"),
        ("configuration", r"[A-Za-z0-9]{22}", "configuration"),
        ("classic_ingest", r"hcaic_[a-z0-9]{58}", "ingest"),
        ("classic_configuration", r"[0-9a-f]{32}", "configuration"),
    ],
)
def test_auth_endpoint_returns_the_permissions_of_each_kind_of_key(client, kind, pattern, key_type):
    key = client.sandbox.add_honeycomb_key(kind, create_datasets=False)
    assert re.fullmatch(pattern, key)
    response = client.session.get(
        client.url + "/1/auth", headers={"X-Honeycomb-Team": key}, timeout=20
    ).json()
    assert response["type"] == key_type
    assert response["api_key_access"]["createDatasets"] is False
    assert ("events" in response["api_key_access"]) == (key_type == "configuration")
    assert (response["environment"]["slug"] == "") == kind.startswith("classic")


def test_unknown_kind_of_key_is_an_error(client):
    with pytest.raises(ValueError, match="no key kind 'management'"):
        client.sandbox.add_honeycomb_key("management")


@pytest.mark.parametrize("path", ["/1/auth", "/1/batch/ci", "/1/events/ci"])
def test_unknown_honeycomb_key_is_rejected(client, path):
    method = "GET" if path == "/1/auth" else "POST"
    response = client.session.request(
        method, client.url + path, headers={"X-Honeycomb-Team": "unknown"}, timeout=20
    )
    assert response.status_code == 401
    assert response.json() == {"error": "unknown API key - check your credentials"}

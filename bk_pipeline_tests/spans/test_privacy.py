from __future__ import annotations

import json

import pytest

from bk_pipeline.spans.privacy import MASK, Privacy, hashed
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import SCHEMA, rows, table_of
from bk_pipeline.spans.tree import spans_for_build

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----"
# Made up here; none of them was ever issued.
SECRETS = {
    "Buildkite": "bkua_" + "0a1b2c3d" * 5,
    "GitHub": "ghp_" + "aB3" * 12,
    "GitHub, fine-grained": "github_pat_" + "11ABC" * 8,
    "AWS key id": "AKIA" + "ABCDEFGH12345678",
    "Slack": "xoxb-" + "123456789012-abcdefABCDEF",
    "Honeycomb": "hcaik_" + "01abcdefgh" * 5 + "12345678",
    "npm": "npm_" + "aB3" * 12,
    "private key": KEY,
}


def spans_of(privacy: Privacy, **job) -> list[dict]:
    payload = {
        "id": "018f0000-1111-7222-8333-444455556666",
        "number": 1,
        "state": "passed",
        "message": job.pop("message", "Fix it"),
        "meta_data": job.pop("meta_data", {"release": "1.2"}),
        "creator": {"name": "Ann", "email": "ann@example.com"},
        "created_at": "2026-11-20T10:00:00.000Z",
        "finished_at": "2026-11-20T10:05:00.000Z",
        "pipeline": {"slug": "web"},
        "jobs": [
            {
                "id": "018f0000-1111-7222-8333-0000000000a1",
                "type": "script",
                "state": "passed",
                "exit_status": 0,
                "started_at": "2026-11-20T10:00:07.000Z",
                "finished_at": "2026-11-20T10:05:00.000Z",
                **job,
            }
        ],
    }
    trace = spans_for_build(decode_build(json.dumps(payload).encode()))
    table = privacy.apply(table_of([trace, trace]))
    assert table.schema == SCHEMA
    table.validate(full=True)
    return list(rows(table))[:4]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(secret):
    spans = spans_of(
        Privacy(),
        command=f"deploy --token {secret} --verbose",
        message=f"Oops {secret}",
        meta_data={"note": secret},
        agent={"id": "a", "meta_data": ["queue=default", f"token={secret}"]},
        matrix={"token": secret},
    )
    text = json.dumps(spans)
    assert json.dumps(secret)[1:-1] not in text
    job = spans[-1]["attributes"]
    assert job["buildkite.job.command"] == f"deploy --token {MASK} --verbose"
    assert job["buildkite.agent.meta_data"] == ["queue=default", f"token={MASK}"]
    assert job["buildkite.agent.meta_data.token"] == MASK
    assert json.loads(job["buildkite.job.matrix"]) == {"token": MASK}
    assert spans[0]["attributes"]["buildkite.build.meta_data.note"] == MASK


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("git clone https://me:pa55@github.com/a/b", f"git clone https://{MASK}@github.com/a/b"),
        ("git clone https://t0ken@github.com/a/b", f"git clone https://{MASK}@github.com/a/b"),
        ("psql postgres://u:p@db:5432/x", f"psql postgres://{MASK}@db:5432/x"),
        ("curl -H 'Authorization: Bearer abc.def'", f"curl -H 'Authorization:{MASK}'"),
        (
            "export AWS_SECRET_ACCESS_KEY=" + "aB3/" * 10,
            f"export AWS_SECRET_ACCESS_KEY{MASK}",
        ),
        (
            "curl https://hooks.slack.com/services/T000AAAA/B000BBBB/c3c3c3c3c3c3",
            f"curl https://hooks.slack.com/services/{MASK}",
        ),
        ("echo '-----BEGIN PRIVATE KEY-----\nabc", f"echo '{MASK}"),
    ],
)
def test_credentials_are_masked_and_the_rest_stays(command, left):
    assert spans_of(Privacy(), command=command)[-1]["attributes"]["buildkite.job.command"] == left


@pytest.mark.parametrize(
    "command",
    [
        "git clone git@github.com:acme/web.git",
        "git clone ssh://git@github.com/acme/web.git",
        "curl https://example.com/a@b?c=d",
        "make test # see bk_pipeline",
        "echo 0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d",
    ],
)
def test_what_is_no_secret_stays(command):
    job = spans_of(Privacy(), command=command)[-1]["attributes"]
    assert job["buildkite.job.command"] == command


def test_a_glob_reaches_into_a_map():
    spans = spans_of(Privacy(drop=("*release",)))
    assert "buildkite.build.meta_data.release" not in spans[0]["attributes"]


def test_masking_can_be_turned_off():
    secret = SECRETS["GitHub"]
    job = spans_of(Privacy(mask_secrets=False), command=secret)[-1]["attributes"]
    assert job["buildkite.job.command"] == secret


def test_patterns_of_the_users_own_are_masked_too():
    job = spans_of(Privacy(mask=r"ticket-\d+"), command="close ticket-123")[-1]["attributes"]
    assert job["buildkite.job.command"] == f"close {MASK}"


def test_attributes_are_dropped_by_name_and_glob():
    privacy = Privacy(drop=("*.email", "buildkite.build.meta_data.rel*", "*.exit_status"))
    spans = spans_of(privacy)
    for span in spans:
        assert "buildkite.build.creator.email" not in span["attributes"]
        assert "buildkite.build.meta_data.release" not in span["attributes"]
        assert "buildkite.job.exit_status" not in span["attributes"]
    assert spans[0]["attributes"]["buildkite.build.creator.name"] == "Ann"


def test_a_whole_map_can_be_dropped():
    spans = spans_of(Privacy(drop=("buildkite.build.meta_data.*",)))
    assert not any("meta_data" in name for name in spans[0]["attributes"])


def test_hashed_values_group_and_cannot_be_read():
    privacy = Privacy(
        hash=("buildkite.build.creator.*", "*.meta_data.release", "*.agent_query_rules")
    )
    spans = spans_of(privacy, agent_query_rules=["queue=secret"])
    names = {span["attributes"]["buildkite.build.creator.name"] for span in spans}
    assert names == {hashed("Ann")}
    assert len(hashed("Ann")) == 16
    assert spans[0]["attributes"]["buildkite.build.meta_data.release"] == hashed("1.2")
    rules = spans[-1]["attributes"]["buildkite.job.agent_query_rules"]
    assert rules == [hashed("queue=secret")]


def test_nothing_to_hide_changes_nothing():
    assert spans_of(Privacy()) == spans_of(Privacy(mask_secrets=False))

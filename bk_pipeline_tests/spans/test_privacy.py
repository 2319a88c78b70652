from __future__ import annotations

import json

import pytest

from bk_pipeline.spans.fields import FIELDS, OF_BUILD
from bk_pipeline.spans.organizations import Origin
from bk_pipeline.spans.privacy import MASK, Privacy, hashed
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import SCHEMA, rows, table_of
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline_tests.spans.full_build import AGENT, FULL, PERSON

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
def test_secrets_are_masked_in_every_attribute(secret):
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
def test_credentials_are_masked_and_the_rest_is_kept(command, left):
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
def test_text_without_secrets_is_kept(command):
    job = spans_of(Privacy(), command=command)[-1]["attributes"]
    assert job["buildkite.job.command"] == command


def test_a_glob_matches_keys_of_a_map():
    spans = spans_of(Privacy(drop=("*release",)))
    assert "buildkite.build.meta_data.release" not in spans[0]["attributes"]


def test_masking_can_be_turned_off():
    secret = SECRETS["GitHub"]
    job = spans_of(Privacy(mask_secrets=False), command=secret)[-1]["attributes"]
    assert job["buildkite.job.command"] == secret


def test_the_users_own_patterns_are_masked_too():
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


def test_hashed_values_can_be_grouped_but_not_read():
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


def test_a_table_without_matches_is_unchanged():
    assert spans_of(Privacy()) == spans_of(Privacy(mask_secrets=False))


# Words of Buildkite's and ours, which say nothing by themselves, and what follows from times.
WORDS = {"failed", "unblocked", "manual", "script", "github", "branch", "failure", "success"}

# The ids of attempts, which their own spans have under another name.
OF_OTHER_SPANS = {"buildkite.job.retried_in_job_id", "buildkite.job.retry_source.job_id"}


def full_table(privacy: Privacy):
    trace = spans_for_build(decode_build(json.dumps(FULL).encode()))
    trace.origin = Origin("org-uuid", "Org & Sons", "cluster-name", "cluster-gid")
    return privacy.apply(table_of([trace]))


def texts_of(value: object) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(texts_of, value.values()))
    if isinstance(value, list):
        return {one.partition("=")[2] or one for one in value}
    return {str(value)}


EVERYTHING = [{**span["attributes"], **span["resource"]} for span in rows(full_table(Privacy()))]


def values_named(name: str) -> set[str]:
    """Return an attribute's values on all spans; for a name with `*`, those of all keys."""
    stem = name.removesuffix("*")
    found: set[str] = set()
    for attributes in EVERYTHING:
        for key, value in attributes.items():
            if key == name or (name.endswith("*") and key.startswith(stem)):
                is_json = isinstance(value, str) and value.startswith("{")
                found |= texts_of(json.loads(value) if is_json else value)
    return {one for one in found - WORDS if len(one) > 3 and one != "True"}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
@pytest.mark.parametrize("way", ["drop", "hash"])
def test_values_of_a_dropped_or_hashed_field_occur_nowhere(field, way):
    table = full_table(Privacy(**{way: (field.name,)}))
    table.validate(full=True)
    own = [name for span in rows(table) for name in (*span["attributes"], *span["resource"])]
    if way == "drop":
        assert field.name not in own
    if field.name.startswith("buildkite.") and field.name not in OF_OTHER_SPANS:
        left = [{**span, "trace_id": "", "span_id": "", "links": []} for span in rows(table)]
        text = json.dumps(left)
        ends = ('"', "/", "#", "\\")
        starts = ('"', "=", "/", "#")
        stands = [
            one
            for one in values_named(field.name)
            if any(f"{start}{one}{end}" in text for start in starts for end in ends)
        ]
        assert stands == []


def test_every_field_but_a_few_is_in_the_test_above():
    of_builds = [field for field in FIELDS if field.kinds & OF_BUILD]
    without = {field.name for field in of_builds if not values_named(field.name)}
    assert {name for name in without if "id" in name.split(".") or "email" in name} == set()
    assert len(without) < len(of_builds) / 3


def test_email_addresses_of_people_in_json_are_dropped():
    job = next(
        span["attributes"]
        for span in rows(full_table(Privacy(drop=("*.email",))))
        if "buildkite.job.retried_by" in span["attributes"]
    )
    assert json.loads(job["buildkite.job.retried_by"]) == {
        key: value for key, value in PERSON.items() if key != "email"
    }
    assert "x.example" not in json.dumps(list(rows(full_table(Privacy(drop=("*.email",))))))


@pytest.mark.parametrize("member", ["id", "uuid"])
def test_the_id_of_who_unblocked_is_dropped_under_either_name(member):
    privacy = Privacy(drop=(f"buildkite.job.unblocked_by.{member}",))
    found = [
        span["attributes"].get("buildkite.job.unblocked_by") for span in rows(full_table(privacy))
    ]
    assert [one for one in found if one] == ['{"name":"Sam"}']


def test_the_agents_ip_address_can_be_dropped():
    assert "203.0.113.77" in str(EVERYTHING)
    left = list(rows(full_table(Privacy(drop=("buildkite.agent.ip_address",)))))
    assert "203.0.113.77" not in str(left)


def test_a_string_in_place_of_a_person_counts_as_name_or_email():
    spans = spans_of(Privacy(drop=("*.email",)), retried_by="old@x.example")
    assert "buildkite.job.retried_by" not in spans[-1]["attributes"]
    spans = spans_of(Privacy(hash=("*.name",)), retried_by="Old Name")
    assert spans[-1]["attributes"]["buildkite.job.retried_by"] == f'"{hashed("Old Name")}"'


def test_the_graphql_id_of_a_person_follows_the_id_that_it_contains():
    person = {"id": "018f-person", "graphql_id": "VXNlci0tLTAxOGYtcGVyc29u", "name": "Ann"}
    for privacy, left in (
        (Privacy(drop=("*.retried_by.id",)), {"name": "Ann"}),
        (Privacy(hash=("*.id",)), person | {n: hashed(person[n]) for n in ("id", "graphql_id")}),
    ):
        job = spans_of(privacy, retried_by=person)[-1]["attributes"]
        assert json.loads(job["buildkite.job.retried_by"]) == left


def test_an_agent_tag_is_dropped_or_hashed_in_both_list_and_map():
    privacy = Privacy(
        drop=("buildkite.agent.meta_data.account",), hash=("buildkite.agent.*hostname",)
    )
    job = list(rows(full_table(privacy)))[-1]["attributes"]
    host = hashed("tag-host")
    assert job["buildkite.agent.meta_data"] == ["queue=agentqueue", f"hostname={host}"]
    assert job["buildkite.agent.meta_data.hostname"] == host
    assert job["buildkite.agent.hostname"] == hashed("agent-host")
    assert "000111222" not in json.dumps(job)


def test_a_dropped_queue_is_dropped_from_query_rules_too():
    more = {"agent": AGENT, "agent_query_rules": ["queue=agentqueue", "os=rules-os"]}
    spans = spans_of(Privacy(drop=("buildkite.agent.queue",)), **more)
    assert "agentqueue" not in json.dumps(spans)
    assert spans[-1]["attributes"]["buildkite.job.agent_query_rules"] == ["os=rules-os"]


def test_json_in_the_text_of_a_tag_is_searched_too():
    owner = '{"owner": {"email": "a@x.example", "team": "web"}, "more": [{"email": "b@x.example"}]}'
    broken = '{"email": '
    more = {
        "meta_data": {"who": owner, "only": '{"email": "c@x.example"}', "broken": broken},
        "agent": {"id": "a", "meta_data": [f"who={owner}"]},
    }
    spans = spans_of(Privacy(drop=("*.email",)), **more)
    assert "x.example" not in json.dumps(spans)
    root, job = spans[0]["attributes"], spans[-1]["attributes"]
    left = {"owner": {"team": "web"}, "more": []}
    assert json.loads(root["buildkite.build.meta_data.who"]) == left
    assert "buildkite.build.meta_data.only" not in root
    assert root["buildkite.build.meta_data.broken"] == broken
    assert json.loads(job["buildkite.agent.meta_data.who"]) == left
    assert json.loads(job["buildkite.agent.meta_data"][0].removeprefix("who=")) == left
    hashes = json.dumps(spans_of(Privacy(hash=("*.team",)), **more))
    assert hashed("web") in hashes
    assert 'team\\": \\"web' not in hashes
    kept = spans_of(Privacy(drop=("*.nothing",)), **more)[0]["attributes"]
    assert kept["buildkite.build.meta_data.who"] == owner


@pytest.mark.parametrize("way", ["drop", "hash"])
def test_convention_fields_follow_the_fields_they_copy(way):
    for span in rows(full_table(Privacy(**{way: ("buildkite.build.branch",)}))):
        left = span["attributes"].get("vcs.ref.head.name")
        assert left == (None if way == "drop" else hashed("the-branch"))
        assert span["attributes"]["vcs.ref.head.type"] == "branch"


def test_a_copy_can_be_dropped_alone():
    root = next(rows(full_table(Privacy(drop=("vcs.*", "cicd.*")))))["attributes"]
    assert root["buildkite.build.branch"] == "the-branch"
    assert not any(name.startswith(("vcs.", "cicd.")) for name in root)


def test_a_different_value_is_kept():
    """The label is the key only if a step has no other label; here it has one."""
    job = list(rows(full_table(Privacy(drop=("buildkite.step.key",)))))[-1]["attributes"]
    assert job["buildkite.step.label"] == "job label"


def test_links_are_dropped_with_the_ids_they_contain():
    def linked(*drop: str) -> int:
        return sum(len(span["links"]) for span in rows(full_table(Privacy(drop=drop))))

    everything = linked()
    assert everything == 4
    assert linked("buildkite.build.rebuilt_from.id") == everything - 1
    assert linked("buildkite.job.retry_source.job_id") == everything - 1
    assert linked("buildkite.*") == 0


def test_numbers_to_be_hashed_are_dropped():
    for span in rows(full_table(Privacy(hash=("*.number", "*.exit_status")))):
        assert "buildkite.build.number" not in span["attributes"]
        assert "buildkite.job.exit_status" not in span["attributes"]
        assert str(FULL["number"]) not in json.dumps(span)


def test_keys_are_masked_too():
    root = next(rows(full_table(Privacy(mask="rel[a-z]+"))))["attributes"]
    assert root[f"buildkite.build.meta_data.{MASK}"] in {"x", "r-77"}
    assert "bkua_" not in json.dumps(root)
    assert "release" not in json.dumps(root)


def test_a_value_with_the_name_of_a_secret_is_masked_entirely():
    spans = spans_of(
        Privacy(),
        meta_data={"deploy-password": "a b c"},
        agent={"id": "a", "meta_data": ["password=a b c"]},
        matrix={"NPM_TOKEN": "abc12345"},
    )
    assert spans[0]["attributes"]["buildkite.build.meta_data.deploy-password"] == MASK
    job = spans[-1]["attributes"]
    assert job["buildkite.agent.meta_data"] == [f"password={MASK}"]
    assert job["buildkite.agent.meta_data.password"] == MASK
    assert json.loads(job["buildkite.job.matrix"]) == {"NPM_TOKEN": MASK}


MATRIX = {"os": "linux", "cloud": {"region": "eu-7"}, "version": 3, "NPM_TOKEN": "abc12345"}
LABELS = ("buildkite.job.label", "buildkite.step.label", "cicd.pipeline.task.name")


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, f"Test linux 3 eu-7 {MASK} x"),
        ({"drop": ("*.matrix",)}, f"Test {MASK} {MASK} {MASK} {MASK} x"),
        ({"drop": ("*.matrix.os", "*.region")}, f"Test {MASK} 3 {MASK} {MASK} x"),
        ({"hash": ("*.matrix.os",)}, f"Test {hashed('linux')} 3 eu-7 {MASK} x"),
        ({"hash": ("*.matrix",)}, " ".join(["Test", *map(hashed, ("linux", "3", "eu-7"))])),
        ({"drop": ("*.matrix",), "hash": ("*.label",)}, None),
    ],
)
def test_hidden_matrix_values_are_removed_from_labels(settings, label):
    name = "Test {{matrix.os}} {{matrix.version}} eu-7 {{matrix.NPM_TOKEN}} x"
    spans = spans_of(Privacy(**settings), matrix=MATRIX, name=name)
    job = spans[-1]["attributes"]
    for name in LABELS[::2]:
        if label is None:
            assert len(job[name]) == 16
        else:
            assert job[name].startswith(label)
    assert "abc12345" not in json.dumps(spans)


def test_hidden_matrix_values_are_removed_from_step_labels():
    spans = spans_of(Privacy(drop=("*.matrix",)), matrix={"os": "linux"}, name="On linux")
    assert [span["attributes"].get("buildkite.step.label") for span in spans[2:]] == [
        f"On {MASK}"
    ] * 2
    assert "linux" not in json.dumps(spans)


def test_truncated_json_is_dropped_if_a_rule_may_match_its_members():
    matrix = {"a": "x" * 70_000, "email": "m@x.example"}
    for privacy, present in ((Privacy(), True), (Privacy(drop=("*.email",)), False)):
        job = spans_of(privacy, matrix=matrix)[-1]["attributes"]
        assert ("buildkite.job.matrix" in job) is present


def test_the_users_patterns_apply_to_urls_too():
    spans = full_table(Privacy(mask="pipeslug"))
    assert "pipeslug" not in json.dumps(list(rows(spans)))

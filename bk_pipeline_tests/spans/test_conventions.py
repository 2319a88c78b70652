"""Tests of the fields of OpenTelemetry's semantic conventions."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from bk_pipeline.spans import derived
from bk_pipeline.spans.fields import CONVENTION_FIELDS, SCHEMA_URL, FieldType
from bk_pipeline.spans.model import SpanKind, Step
from bk_pipeline.spans.records import Job, Pipeline, Provider
from bk_pipeline.spans.table import table_of
from bk_pipeline_tests.builders import make_build, make_job, make_retry, make_spans, make_trace
from bk_pipeline_tests.spans.test_fields import PAYLOADS

# The registry of OpenTelemetry's semantic conventions, version 1.44.0: each attribute of `cicd.*`
# and `vcs.*` that a span of a pipeline run, of a task or of a change may have. All are strings.
REGISTRY_VERSION = "1.44.0"
RESULT = {"success", "failure", "error", "timeout", "cancellation", "skip"}
REF_TYPE = {"branch", "tag"}
REGISTRY: dict[str, set[str] | None] = {
    "cicd.pipeline.name": None,
    "cicd.pipeline.action.name": {"BUILD", "RUN", "SYNC"},
    "cicd.pipeline.result": RESULT,
    "cicd.pipeline.run.id": None,
    "cicd.pipeline.run.url.full": None,
    "cicd.pipeline.run.state": {"pending", "executing", "finalizing"},
    "cicd.pipeline.task.name": None,
    "cicd.pipeline.task.type": {"build", "test", "deploy"},
    "cicd.pipeline.task.run.id": None,
    "cicd.pipeline.task.run.result": RESULT,
    "cicd.pipeline.task.run.url.full": None,
    "cicd.system.component": None,
    "cicd.worker.id": None,
    "cicd.worker.name": None,
    "cicd.worker.state": {"available", "busy", "offline"},
    "cicd.worker.url.full": None,
    "vcs.change.id": None,
    "vcs.change.state": {"open", "wip", "closed", "merged"},
    "vcs.change.title": None,
    "vcs.owner.name": None,
    "vcs.provider.name": {"github", "gitlab", "bitbucket", "gitea"},
    "vcs.ref.base.name": None,
    "vcs.ref.base.revision": None,
    "vcs.ref.base.type": REF_TYPE,
    "vcs.ref.head.name": None,
    "vcs.ref.head.revision": None,
    "vcs.ref.head.type": REF_TYPE,
    "vcs.ref.type": REF_TYPE,
    "vcs.repository.name": None,
    "vcs.repository.url.full": None,
}


class RegisteredMetric(NamedTuple):
    """A metric of the registry, and its attributes by requirement level."""

    instrument: str
    unit: str
    required: set[str]
    conditional: frozenset[str] = frozenset()


METRICS = {
    "cicd.pipeline.run.duration": RegisteredMetric(
        "histogram",
        "s",
        {"cicd.pipeline.name", "cicd.pipeline.run.state"},
        frozenset({"cicd.pipeline.result", "error.type"}),
    ),
    "cicd.pipeline.run.active": RegisteredMetric(
        "updowncounter", "{run}", {"cicd.pipeline.name", "cicd.pipeline.run.state"}
    ),
    "cicd.pipeline.run.errors": RegisteredMetric(
        "counter", "{error}", {"cicd.pipeline.name", "error.type"}
    ),
    "cicd.worker.count": RegisteredMetric("updowncounter", "{worker}", {"cicd.worker.state"}),
    "cicd.system.errors": RegisteredMetric(
        "counter", "{error}", {"cicd.system.component", "error.type"}
    ),
}
REQUIRED = {
    SpanKind.BUILD: {"cicd.pipeline.result"},
    SpanKind.JOB: {
        "cicd.pipeline.task.name",
        "cicd.pipeline.task.run.id",
        "cicd.pipeline.task.run.url.full",
    },
}
ENUMERATED = [field for field in CONVENTION_FIELDS if REGISTRY.get(field.name)]
# What our functions can return, whether or not a payload of the tests has it.
POSSIBLE = {
    "cicd.pipeline.action.name": {derived.ACTION},
    "cicd.pipeline.result": {*derived.RESULTS.values(), "error"},
    "cicd.pipeline.task.run.result": {*derived.RESULTS.values(), "error"},
    "cicd.pipeline.task.type": set(derived.TASK_TYPES.values()),
    "vcs.provider.name": set(derived.PROVIDERS),
}


def test_schema_url_names_the_version_of_the_registry():
    assert f"https://opentelemetry.io/schemas/{REGISTRY_VERSION}" == SCHEMA_URL


@pytest.mark.parametrize("field", CONVENTION_FIELDS, ids=lambda field: field.name)
def test_every_attribute_is_a_string_in_the_registry(field):
    assert field.name in REGISTRY
    assert field.type is FieldType.STRING


@pytest.mark.parametrize(("kind", "names"), REQUIRED.items())
def test_required_attributes_are_on_their_spans(kind, names):
    assert names <= {field.name for field in CONVENTION_FIELDS if kind in field.kinds}


@pytest.mark.parametrize("field", ENUMERATED, ids=lambda field: field.name)
def test_values_are_those_that_the_registry_enumerates(field):
    table = table_of([make_trace(path.read_bytes()) for path in PAYLOADS])
    found = set(table[field.name].drop_null().to_pylist())

    assert found
    assert found | POSSIBLE.get(field.name, set()) <= (REGISTRY[field.name] or set())


def test_failed_spans_have_an_error_type():
    for path in PAYLOADS:
        for span in make_spans(path.read_bytes()):
            found = span["attributes"]
            result = found.get("cicd.pipeline.result")
            assert result not in {"failure", "error", "timeout"} or found["error.type"]


@pytest.mark.parametrize(
    ("address", "url", "owner", "name"),
    [
        ("git@github.com:acme/web.git", "https://github.com/acme/web", "acme", "web"),
        ("git@github.com:acme/web", "https://github.com/acme/web", "acme", "web"),
        ("org-1@github.com:/acme/web.git", "https://github.com/acme/web", "acme", "web"),
        ("ssh://git@git.acme.io:2222/a/b/web.git", "https://git.acme.io/a/b/web", "a/b", "web"),
        ("git://github.com/acme/web.git/", "https://github.com/acme/web", "acme", "web"),
        ("https://github.com/acme/web", "https://github.com/acme/web", "acme", "web"),
        ("https://me:s3cret@x.io:8443/a/web.git", "https://x.io:8443/a/web", "a", "web"),
        ("https://x.io/web.git", "https://x.io/web", None, "web"),
        ("/srv/git/web.git", None, None, None),
        ("file:///srv/git/web.git", None, None, None),
        ("C:\\web", None, None, None),
        ("git@github.com:", None, None, None),
        ("", None, None, None),
        (None, None, None, None),
    ],
)
def test_repository_url_owner_and_name_are_parsed_from_the_address(address, url, owner, name):
    pipeline = Pipeline(repository=address)
    assert derived.repository_url(pipeline) == url
    assert derived.repository_owner(pipeline) == owner
    assert derived.repository_name(pipeline) == name


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        (Provider("github"), "github"),
        (Provider("github_enterprise"), "github"),
        (Provider("gitlab_ee"), "gitlab"),
        (Provider("bitbucket"), "bitbucket"),
        (Provider("unknown"), None),
        (Provider(), None),
        (None, None),
    ],
)
def test_provider_has_the_name_of_the_conventions(provider, name):
    assert derived.provider(Pipeline(provider=provider)) == name


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"state": "passed"}, "success"),
        ({"state": "failed"}, "failure"),
        ({"state": "failed", "exit_status": -1}, "error"),
        ({"state": "failed", "signal_reason": "agent_stop"}, "error"),
        ({"state": "timed_out"}, "timeout"),
        ({"state": "expired"}, "error"),
        ({"state": "failed", "exit_status": -1, "signal_reason": "stack_error"}, "error"),
        ({"state": "failed", "exit_status": -1, "signal_reason": "agent_refused"}, "error"),
        ({"state": "failed", "exit_status": 1, "signal_reason": "none"}, "failure"),
        ({"state": "timed_out", "exit_status": -1, "signal_reason": "cancel"}, "timeout"),
        ({"state": "unblocked"}, "success"),
        ({"state": "canceled", "exit_status": -1}, "cancellation"),
        ({"state": "finished", "exit_status": 0}, "success"),
        ({"state": "finished", "exit_status": 4}, "failure"),
        ({"state": "brand new"}, None),
    ],
)
def test_task_result_follows_the_conventions(fields, result):
    assert derived.task_result(Job("a", **fields)) == result


def root_attributes(**fields):
    return make_spans(make_build(**fields))[0]["attributes"]


TIMED_OUT = {"state": "timed_out", "exit_status": -1}
LOST = {"state": "failed", "exit_status": -1}
FAILED = {"state": "failed", "exit_status": 1}


@pytest.mark.parametrize(
    ("failures", "result"),
    [
        ([TIMED_OUT], "timeout"),
        ([TIMED_OUT, TIMED_OUT], "timeout"),
        ([LOST, {"state": "expired"}], "error"),
        ([LOST, TIMED_OUT], "failure"),
        ([TIMED_OUT, FAILED], "failure"),
        ([TIMED_OUT, FAILED | {"soft_failed": True}], "timeout"),
        ([FAILED], "failure"),
        ([], "failure"),
    ],
)
def test_failed_builds_result_is_that_of_all_its_hard_failures(failures, result):
    jobs = [make_job(f"job-{n}", **one) for n, one in enumerate([{"state": "passed"}, *failures])]
    assert root_attributes(jobs=jobs, state="failed")["cicd.pipeline.result"] == result


def test_failures_that_were_retried_do_not_count_for_the_builds_result():
    first = make_job(**FAILED)
    retry = make_retry(first, made_s=14, **TIMED_OUT)
    found = root_attributes(jobs=[first, retry], state="failed")
    assert found["cicd.pipeline.result"] == "timeout"


def test_passed_build_succeeds_whatever_failed_softly():
    jobs = [make_job(**TIMED_OUT, soft_failed=True)]
    assert root_attributes(jobs=jobs, state="passed")["cicd.pipeline.result"] == "success"


@pytest.mark.parametrize(
    ("key", "label", "type_"),
    [
        (None, ":hammer: Build", "build"),
        (None, "Run unit tests", "test"),
        (None, "e2eTest", "test"),
        (None, "DEPLOY to eu-1", "deploy"),
        (None, "deployment_eu", "deploy"),
        ("unit-test", "Build and deploy", "test"),
        ("step-1", ":rocket: Deploy", "deploy"),
        ("build-and-test", "Deploy", None),
        (None, "Build the test image", None),
        (None, "Rebuild latest contest", None),
        (None, "prätest", None),
        (None, "Release", None),
        (None, "", None),
        (None, None, None),
    ],
)
def test_task_type_is_the_only_one_that_the_key_or_else_the_label_names(key, label, type_):
    step = Step(identity="x", type="command", key=key, group=None, label=label)
    assert derived.task_type(step) == type_


def test_block_step_has_no_task_type():
    step = Step(identity="x", type="block", key="deploy", group=None, label="Deploy?")
    assert derived.task_type(step) is None


def test_merge_queue_gives_the_base_if_there_is_no_pull_request():
    queue = {"base_branch": "main", "base_commit": "c0ffee"}
    found = root_attributes(merge_queue=queue, pull_request=None)
    assert found["vcs.ref.base.name"] == "main"
    assert found["vcs.ref.base.type"] == "branch"
    assert found["vcs.ref.base.revision"] == "c0ffee"


@pytest.mark.parametrize("queue", [None, {}, {"base_branch": None, "base_commit": ""}])
def test_base_is_absent_if_the_payload_has_none(queue):
    found = root_attributes(merge_queue=queue, pull_request={})
    assert not [name for name in found if name.startswith(("vcs.ref.base.", "vcs.change."))]

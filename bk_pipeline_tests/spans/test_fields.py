"""The declared fields agree with sample payloads and with the service whose names they use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bk_pipeline.spans.costs import Price, Prices, with_costs
from bk_pipeline.spans.fields import (
    ALL,
    CONVENTIONS,
    DETAIL_FIELDS,
    FIELDS,
    UNAVAILABLE,
    Field,
    FieldType,
)
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.organizations import Origin
from bk_pipeline.spans.table import add_attributes, table_of
from bk_pipeline_tests.builders import make_trace

HERE = Path(__file__).parents[1]
PAYLOADS = sorted(
    path
    for folder in ("samples", "golden")
    for path in (HERE / folder).glob("*.json")
    if not path.stem.endswith(".spans")
)
PATH = re.compile(r"\b((?:build|job)\.[a-z_]+(?:\[\])?(?:\.[a-z_]+)*)")
BUILD, STAGE, GROUP, STEP, JOB = (
    SpanKind.BUILD,
    SpanKind.STAGE,
    SpanKind.GROUP,
    SpanKind.STEP,
    SpanKind.JOB,
)

# What Buildkite's OpenTelemetry notification service puts on which spans, and on the resource.
SERVICE_KEYS: tuple[tuple[str, tuple[str, ...], set[SpanKind]], ...] = (
    (
        "buildkite.build.",
        ("number", "commit", "message", "branch", "source", "graphql_id", "web_url"),
        {BUILD, STAGE, GROUP, STEP, JOB},
    ),
    (
        "buildkite.build.creator.",
        ("id", "email", "name", "graphql_id"),
        {BUILD, STAGE, GROUP, STEP, JOB},
    ),
    ("error.", ("type",), {BUILD, STAGE, GROUP, STEP, JOB}),
    ("buildkite.build.", ("state", "blocked_state"), {BUILD, STAGE}),
    ("buildkite.build.", ("stage",), {STAGE, GROUP, STEP, JOB}),
    ("buildkite.step.", ("id", "key", "label"), {GROUP, STEP, JOB}),
    ("buildkite.step.", ("command",), {STEP, JOB}),
    ("buildkite.step.", ("type", "matrix", "web_url"), {GROUP, STEP}),
    ("buildkite.step.group.", ("label", "key"), {GROUP, STEP}),
    ("buildkite.job.", ("id", "graphql_id", "web_url", "type", "label", "command"), {JOB}),
    ("buildkite.job.", ("exit_status", "passed", "soft_failed", "state", "matrix"), {JOB}),
    ("buildkite.job.", ("runnable_at", "started_at", "finished_at", "wait_time_ms"), {JOB}),
    ("buildkite.job.", ("agent_query_rules", "priority.number", "unblocked_by"), {JOB}),
    ("buildkite.job.", ("retried_in_job_id", "signal_reason"), {JOB}),
    ("buildkite.job.concurrency", (".group", ".limit", "_wait_time_ms"), {JOB}),
    ("buildkite.agent.", ("name", "id", "queue", "meta_data"), {JOB}),
)
SERVICE = {prefix + key: kinds for prefix, keys, kinds in SERVICE_KEYS for key in keys}
RESOURCE_KEYS = {
    "buildkite.organization.": ("slug", "name", "id"),
    "buildkite.pipeline.": ("slug", "name", "id", "repo", "graphql_id", "web_url"),
    "buildkite.cluster.": ("id", "name", "graphql_id"),
}
SERVICE_RESOURCE = [prefix + key for prefix, keys in RESOURCE_KEYS.items() for key in keys]
TYPES = {
    "buildkite.job.exit_status": FieldType.INT,
    "buildkite.job.passed": FieldType.BOOL,
    "buildkite.job.soft_failed": FieldType.BOOL,
    "buildkite.job.wait_time_ms": FieldType.INT,
    "buildkite.job.agent_query_rules": FieldType.STRINGS,
    "buildkite.agent.meta_data": FieldType.STRINGS,
    "buildkite.job.unblocked_by": FieldType.JSON,
    "buildkite.job.matrix": FieldType.JSON,
    "buildkite.build.number": FieldType.INT,
    "buildkite.build.stage": FieldType.INT,
    "buildkite.job.priority.number": FieldType.INT,
    "buildkite.step.matrix": FieldType.BOOL,
}
BY_NAME = {field.name: field for field in FIELDS}


def paths_in(value: Any, path: str) -> Iterator[str]:
    """Yield every path at which `value` is not null."""
    if value is None:
        return
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from paths_in(one, f"{path}.{key}")
    if isinstance(value, list):
        for one in value:
            yield from paths_in(one, f"{path}[]")


@cache
def paths_in_payloads() -> frozenset[str]:
    found: set[str] = set()
    for path in PAYLOADS:
        build = json.loads(path.read_bytes())
        found.update(paths_in(build, "build"))
        for job in build["jobs"]:
            found.update(paths_in(job, "job"))
    return frozenset(found)


def payload_paths(field: Field) -> list[str]:
    """Return the payload paths in a field's source, or for computed values in its meaning."""
    return PATH.findall(field.source) or PATH.findall(field.meaning)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_source_exists_in_a_sample_payload(field):
    missing = [path for path in payload_paths(field) if path not in paths_in_payloads()]
    assert not missing, f"no sample has a value at {missing}"


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_names_its_source(field):
    ours = {
        "build",
        "BK_PIPELINE_COSTS",
        "span.error_type",
        "span.adjusted",
        "span.started",
        "stage.number",
    }
    read_apart = {"organization.id", "organization.name", "cluster.name", "cluster.graphql_id"}
    if field in DETAIL_FIELDS:
        assert set(field.source.split(", ")) <= {"log", "junit", "profile"}
        return
    assert payload_paths(field) or field.source in ours | read_apart


def test_every_field_of_a_payload_has_a_value_on_some_span():
    # A broken job gives no span; the row is there for the day that another state has a reason.
    never = {"buildkite.job.broken_reason"}
    traces = [make_trace(path.read_bytes(), waits=True) for path in PAYLOADS]
    traces[0].origin = Origin("id", "name", "cluster name", "cluster graphql id")
    prices = Prices("USD", (Price("all", 1.0),))
    table = with_costs(table_of(traces), prices)
    empty = {name for name in BY_NAME if table[name].null_count == table.num_rows}
    assert empty == never | {field.name for field in DETAIL_FIELDS}


@pytest.mark.parametrize(("name", "kinds"), SERVICE.items())
def test_service_attributes_have_the_same_kinds_or_are_declared_unavailable(name, kinds):
    ours = BY_NAME[name].kinds if name in BY_NAME else set()
    declared = {kind for one in UNAVAILABLE if one.name == name for kind in one.on.split(", ")}
    assert {str(kind) for kind in kinds - ours} == declared


@pytest.mark.parametrize("name", SERVICE_RESOURCE)
def test_service_resource_attributes_exist_or_are_declared_unavailable(name):
    declared = any(one.name == name and one.on == "resource" for one in UNAVAILABLE)
    assert declared != (name in BY_NAME and BY_NAME[name].resource and BY_NAME[name].kinds == ALL)


def test_only_service_attributes_are_declared_unavailable():
    assert {one.name for one in UNAVAILABLE} <= {*SERVICE, *SERVICE_RESOURCE}
    assert all(one.reason.endswith(".") for one in UNAVAILABLE)


@pytest.mark.parametrize(("name", "type_"), TYPES.items())
def test_values_have_the_services_types(name, type_):
    assert BY_NAME[name].type is type_


def test_names_are_unique_and_meanings_are_sentences():
    assert len(BY_NAME) == len(FIELDS)
    assert all(field.meaning.endswith(".") for field in FIELDS)
    assert all((field.type is FieldType.MAP) == field.name.endswith("*") for field in FIELDS)


def test_units_match_the_suffixes_of_names():
    assert all((field.unit == "ms") == field.name.endswith("_ms") for field in FIELDS)


def test_build_fields_are_on_all_spans_or_on_the_root_only():
    assert {field.kinds for field in FIELDS if field.per_build} == {ALL, frozenset({BUILD})}


def test_conventions_are_the_cicd_and_vcs_fields():
    assert {name for name in BY_NAME if name.startswith(("cicd.", "vcs."))} == CONVENTIONS


def test_no_attribute_is_made_of_env():
    table = table_of([make_trace(path.read_bytes()) for path in PAYLOADS])
    assert "never-exported" not in str(table.to_pylist())


def test_a_map_becomes_one_attribute_per_key():
    into: dict[str, Any] = {}
    add_attributes(BY_NAME["buildkite.build.meta_data.*"], '{"a":"1"}', into=into)
    add_attributes(BY_NAME["buildkite.agent.meta_data"], '["b=2"]', into=into)
    assert into == {"buildkite.build.meta_data.a": "1", "buildkite.agent.meta_data": ["b=2"]}

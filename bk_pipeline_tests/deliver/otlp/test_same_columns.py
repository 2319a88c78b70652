"""Both routes give the same columns: OTLP through Honeycomb's translator, and Honeycomb events."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bk_pipeline.deliver.encoding import TRIMMED
from bk_pipeline.deliver.honeycomb import codec as honeycomb
from bk_pipeline.deliver.honeycomb.shape import Shape
from bk_pipeline.deliver.otlp import codec as otlp
from bk_pipeline.deliver.otlp.shape import body_of
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.privacy import Privacy, hashed
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import table_of
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.text import TRUNCATION_MARK
from bk_pipeline_tests.builders import make_trace
from bk_pipeline_tests.deliver.honeycomb.odd_tables import tables as odd_tables
from bk_pipeline_tests.deliver.otlp import husky
from bk_pipeline_tests.deliver.otlp.exporter import SCHEMA_URL
from bk_pipeline_tests.deliver.tables import payload, table, uuid
from bk_pipeline_tests.spans.timelines import timelines
from bk_pipeline_tests.worlds import span_table

SERVICE = "ci builds"


def otlp_events(one: pa.Table, *, template: str = "", **resource: str) -> list[dict[str, Any]]:
    """Return the events that Honeycomb's translator makes of the spans."""
    common = {"service.name": SERVICE} | resource
    items = otlp.items(SpanRows.from_table(one), common, service_template=template)
    return list(husky.events(ExportTraceServiceRequest.FromString(body_of(items))))


def batch_events(one: pa.Table, *, template: str = "", **resource: str) -> list[dict[str, Any]]:
    """Return our own events of the spans."""
    shape = Shape(SERVICE, resource=resource, service_template=template)
    return [json.loads(item.body) for item in honeycomb.items(SpanRows.from_table(one), shape)]


def by_otlp(one: pa.Table, **options: str) -> Counter:
    return counted(otlp_events(one, **options))


def by_events(one: pa.Table, **options: str) -> Counter:
    return counted(batch_events(one, **options))


def counted(events: Any) -> Counter:
    """Count events, each as its time and its columns with the type of each."""
    return Counter(
        (
            event["time"],
            tuple(
                sorted(
                    (name, type(value).__name__, comparable(value))
                    for name, value in event["data"].items()
                )
            ),
        )
        for event in events
    )


def comparable(value: Any) -> Any:
    """Parse the text of a list, because JSON may be written in several ways."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]\n"):
        return f"list: {json.loads(value)!r}"
    return value


def assert_same(one: pa.Table, **options: str) -> None:
    ours, theirs = by_events(one, **options), by_otlp(one, **options)
    for (at, mine), (_, other) in zip(
        sorted((ours - theirs).keys()), sorted((theirs - ours).keys()), strict=True
    ):
        assert mine == other, at
    assert ours == theirs


@pytest.fixture(scope="module")
def world() -> pa.Table:
    return span_table(seed=3, builds=150)


def trace(build: dict) -> Any:
    return spans_for_build(decode_build(msgspec.json.encode(build)))


def test_sandbox_builds_have_the_same_columns_by_both_routes(world):
    assert len(world) > 1_000
    assert_same(world)


def test_configured_resource_attributes_are_columns_by_both_routes(world):
    configured = {
        "deployment.environment.name": "prod",
        "team": "x" * 70_000,
        # A build's own value takes precedence, and what it lacks is filled in.
        "buildkite.pipeline.slug": "not this",
        "buildkite.pipeline.graphql_id": "this",
    }
    bare = world.set_column(
        world.schema.get_field_index("buildkite.pipeline.graphql_id"),
        world.schema.field("buildkite.pipeline.graphql_id"),
        pa.nulls(len(world), pa.string()).dictionary_encode(),
    )
    assert_same(bare, **configured)
    events = [one["data"] for one in batch_events(bare, **configured)]
    assert {one["deployment.environment.name"] for one in events} == {"prod"}
    assert {one["buildkite.pipeline.graphql_id"] for one in events} == {"this"}
    assert "not this" not in {one["buildkite.pipeline.slug"] for one in events}


def services(one: pa.Table, **options: str) -> set[str]:
    """Return the service names of all events, which are the same by both routes."""
    assert_same(one, **options)
    return {event["data"]["service.name"] for event in batch_events(one, **options)}


def test_each_pipeline_of_the_sandbox_is_a_service_by_both_routes(world):
    assert services(world, template="ci-{pipeline}") == {
        f"ci-{slug}" for slug in world["buildkite.pipeline.slug"].unique().to_pylist()
    }
    events = [one["data"] for one in batch_events(world, template="ci-{pipeline}")]
    assert any(one.get("meta.annotation_type") == "link" for one in events)
    assert events == [
        one["data"] | {"service.name": f"ci-{one['data']['buildkite.pipeline.slug']}"}
        for one in batch_events(world)
    ]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{pipeline}", "web"),
        ("{organization}/{pipeline}", "acme/web"),
        ("{{{pipeline}}}", "{web}"),
        ("{pipeline} {pipeline} 🚀 %s $x", "web web 🚀 %s $x"),
    ],
)
def test_template_is_filled_in_by_both_routes(template, expected):
    assert services(table(payload(1)), template=template) == {expected}


@pytest.mark.parametrize("slug", [None, ""])
def test_pipeline_without_slug_has_the_fixed_name_by_both_routes(slug):
    unnamed = payload(1, pipeline={"id": "p", "slug": slug})

    assert services(table(unnamed, payload(2)), template="ci-{pipeline}") == {SERVICE, "ci-web"}


def test_braces_of_a_slug_are_not_placeholders():
    odd = payload(1, pipeline={"id": "p", "slug": "{organization}{0}%s"})

    assert services(table(odd), template="ci-{pipeline}") == {"ci-{organization}{0}%s"}


def test_long_service_name_is_truncated_by_both_routes():
    long = payload(1, pipeline={"id": "p", "slug": "é" * 40_000})

    (name,) = services(table(long), template="ci-{pipeline}")

    assert name.startswith("ci-é")
    assert name.endswith(TRUNCATION_MARK)
    # Honeycomb's limit for the name of a dataset.
    assert 240 < len(name.encode()) <= 255


@pytest.mark.parametrize(
    ("privacy", "expected"),
    [
        (Privacy(hash=("buildkite.pipeline.slug",)), f"ci-{hashed('hush-hush')}"),
        (Privacy(drop=("buildkite.pipeline.slug",)), SERVICE),
        (Privacy(drop=("buildkite.pipeline.*",)), SERVICE),
        (Privacy(mask="hush"), "ci-[masked]-[masked]"),
    ],
    ids=["hashed", "dropped", "dropped by a glob", "masked"],
)
def test_service_name_shows_no_more_of_a_slug_than_the_privacy_rules(privacy, expected):
    linked = {"id": uuid("build", 9), "number": 9}
    secret = payload(1, pipeline={"id": "p", "slug": "hush-hush"}, rebuilt_from=linked)

    assert services(privacy.apply(table(secret)), template="ci-{pipeline}") == {expected}


def test_service_name_shows_no_organization_that_is_dropped():
    allowed = Privacy(drop=("buildkite.organization.slug",)).apply(table(payload(1)))

    assert services(allowed, template="{organization}-{pipeline}") == {SERVICE}


@pytest.mark.parametrize(
    "meta_data",
    [{f"k-{n}": "x" * 60_000 for n in range(30)}, {f"k-{n}": "v" for n in range(2_500)}],
    ids=["too large", "too many columns"],
)
def test_trimmed_spans_keep_the_service_name_of_their_pipeline(meta_data):
    one = table(payload(1, meta_data=meta_data))
    for events in (batch_events, otlp_events):
        found = [event["data"] for event in events(one, template="ci-{pipeline}")]
        assert any(TRIMMED in data for data in found)
        assert {data["service.name"] for data in found} == {"ci-web"}


@settings(max_examples=15, deadline=None)
@given(one=odd_tables())
def test_odd_values_have_the_same_service_names_by_both_routes(one):
    assert_same(one, template="{organization}-{pipeline}")


def test_sandbox_builds_cover_all_kinds_of_data(world):
    found = {name for _, columns in by_otlp(world) for name, _, _ in columns}

    assert {
        "trace.parent_id",
        "trace.link.trace_id",
        "trace.link.span_id",
        "resource.schema_url",
        "scope.schema_url",
        "error",
        "error.type",
        "buildkite.agent.meta_data",
        "buildkite.agent.meta_data.queue",
        "buildkite.build.jobs.passed",
        "buildkite.job.soft_failed",
        "buildkite.job.matrix",
    } <= found


def test_events_of_links_name_the_schema_and_builds_are_server_spans(world):
    events = [{name: value for name, _, value in columns} for _, columns in by_events(world)]
    links = [one for one in events if one.get("meta.annotation_type") == "link"]

    assert links
    assert {one["resource.schema_url"] for one in events} == {SCHEMA_URL}
    assert {one["scope.schema_url"] for one in events} == {SCHEMA_URL}
    assert {
        (one["name"] == "buildkite.build", one["span.kind"], one["type"])
        for one in events
        if one not in links
    } == {(True, "server", "server"), (False, "internal", "internal")}


@settings(max_examples=30, deadline=None)
@given(one=odd_tables())
def test_odd_values_have_the_same_columns_by_both_routes(one):
    assert_same(one)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(timelines())
def test_generated_builds_have_the_same_columns_by_both_routes(timeline):
    assert_same(table_of([make_trace(timeline.payload())]))


def test_long_strings_and_lists_are_truncated_alike():
    rules = [f"tag-{n}={'é' * 500}" for n in range(100)]
    build = payload(1, message="é" * 40_000, meta_data={"long": "🚀" * 20_000})
    build["jobs"][0]["agent"]["meta_data"] = rules

    one = table(build)

    assert max(len(str(value)) for _, columns in by_otlp(one) for _, _, value in columns) > 16_000
    assert_same(one)


def test_id_with_leading_zeros_is_written_alike():
    assert_same(table(payload(1, id="00000000-0000-0000-8000-000000000001")))

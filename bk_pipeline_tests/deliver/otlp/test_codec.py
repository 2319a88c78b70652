"""The fast OTLP encoder compared with the reference encoder and the official exporter."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.encoding import BULK_MIN_VALUES
from bk_pipeline.deliver.otlp import codec, plain
from bk_pipeline.deliver.otlp.endpoint import LIMITS
from bk_pipeline.deliver.otlp.shape import SPAN, SPAN_BYTES, body_of, sized
from bk_pipeline.deliver.resource import SERVICE_NAME
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.selection import Batcher
from bk_pipeline.spans.fields import FIELDS
from bk_pipeline_tests.deliver.honeycomb.odd_tables import (
    STRINGS,
    large_table,
    with_integers,
    with_peculiar_columns,
)
from bk_pipeline_tests.deliver.honeycomb.odd_tables import tables as odd_tables
from bk_pipeline_tests.deliver.otlp.exporter import exported
from bk_pipeline_tests.deliver.tables import job, joined, payload, table, uuid

MINIMAL = {"service.name": "buildkite"}
# One name for which builds have their own value, and one for which they do not.
RICH = {
    "service.name": "ci “builds”",
    "deployment.environment": "",
    "buildkite.cluster.id": "ours",
}
every_resource = pytest.mark.parametrize("common", [MINIMAL, RICH], ids=["plain", "crowded"])
PER_PIPELINE = "ci “{pipeline}”"
every_template = pytest.mark.parametrize("template", ["", PER_PIPELINE], ids=["fixed", "template"])


def busy_table() -> pa.Table:
    """Builds with links, retries, failures, maps and lists."""
    retried = job(
        1, 9, table(payload(1))["start"][0].as_py(), retry_source={"job_id": uuid("job", 1, 0)}
    )
    failed = payload(1, state="failed", rebuilt_from={"id": uuid("build", 9), "number": 9})
    failed["jobs"].append(retried)
    failed["jobs"][0] |= {"state": "failed", "exit_status": -1, "retried": True}
    other = payload(2, message="🚀 \x00 “é”\n", pipeline={"id": uuid("other"), "slug": "other"})
    return table(failed, other, payload(3))


def encoded(one: pa.Table, common: dict, template: str = "") -> list[Item]:
    return codec.items(SpanRows.from_table(one), common, service_template=template)


def fast(one: pa.Table, common: dict, template: str = "") -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(body_of(encoded(one, common, template)))


@every_resource
@every_template
@settings(max_examples=20, deadline=None)
@given(one=odd_tables())
def test_fast_encoder_equals_the_reference(common, template, one):
    expected = plain.request(plain.raw_rows(one), common, service_template=template)
    assert fast(one, common, template) == expected


@pytest.mark.parametrize("string", STRINGS.values(), ids=STRINGS)
@pytest.mark.parametrize("distinct", [1, 30, 1_000])
def test_large_tables_are_encoded_like_the_reference(distinct, string):
    one = large_table(500, distinct=distinct, string=string)
    assert len(one) > BULK_MIN_VALUES

    assert fast(one, RICH) == plain.request(plain.raw_rows(one), RICH)


def test_long_strings_and_nulls_are_encoded_like_the_reference():
    one = with_peculiar_columns(large_table(500, distinct=30))

    assert fast(one, MINIMAL) == plain.request(plain.raw_rows(one), MINIMAL)


@pytest.mark.parametrize("first", [0, 1, 9])
def test_integers_of_every_size_are_encoded_like_the_reference(first):
    one = with_integers(large_table(500, distinct=30))[first:]
    assert len(one) > BULK_MIN_VALUES

    assert fast(one, MINIMAL) == plain.request(plain.raw_rows(one), MINIMAL)


def test_spans_of_a_build_share_bytes():
    items = encoded(table(*(payload(number, jobs=20) for number in range(20))), MINIMAL)

    assert {len(item.pieces) for item in items} <= set(range(2, 6))
    shared = {id(piece) for item in items for piece in item.pieces[1:]}
    assert len(shared) < len(items) / 3
    assert len({id(item.shared) for item in items}) == 1


def test_span_has_the_bytes_of_the_official_classes():
    one = large_table(60, distinct=100)
    spans = [plain.span(row).SerializeToString() for row in plain.raw_rows(one)]

    items = encoded(one, MINIMAL)

    assert [item.body for item in items] == [sized(SPAN, span) for span in spans]


def test_reference_encoder_and_official_exporter_give_the_same_bytes():
    one = busy_table()
    body = body_of(encoded(one, MINIMAL))

    assert body == plain.request(plain.raw_rows(one), MINIMAL).SerializeToString()
    assert body == exported(one, "buildkite")


@settings(max_examples=12, deadline=None)
@given(one=odd_tables())
def test_slices_of_a_table_give_the_same_spans(one):
    whole = encoded(one, MINIMAL)

    parts = [item for at in range(len(one)) for item in encoded(one.slice(at, 1), MINIMAL)]

    assert joined(parts) == joined(whole)


def test_chunks_with_different_dictionaries_give_the_same_spans():
    one, two = table(payload(1)), table(payload(2))

    together = encoded(pa.concat_tables([one, two]), MINIMAL)

    assert joined(together) == joined(encoded(one, MINIMAL) + encoded(two, MINIMAL))


def test_empty_table_has_no_spans():
    assert encoded(table(payload(1)).slice(0, 0), MINIMAL) == []


def test_table_without_roots_can_be_encoded():
    one = busy_table()
    others = one.filter(one["parent_span_id"].is_valid())

    assert fast(others, MINIMAL) == plain.request(plain.raw_rows(others), MINIMAL)


def test_item_is_a_whole_span_with_its_ids():
    one = busy_table()

    items = encoded(one, MINIMAL)

    assert [item.item_id.hex() for item in items] == one["span_id"].to_pylist()
    assert [item.trace_id.hex() for item in items] == one["trace_id"].to_pylist()
    assert [item.name for item in items] == one["name"].to_pylist()


def test_root_has_no_parent_and_ids_are_bytes():
    (group, *_) = fast(table(payload(1)), MINIMAL).resource_spans
    root, *others = group.scope_spans[0].spans

    assert root.parent_span_id == b""
    assert root.trace_id.hex() == uuid("build", 1).replace("-", "")
    assert root.span_id == root.trace_id[8:]
    assert {len(span.parent_span_id) for span in others} == {8}


def test_build_is_a_server_span_and_all_others_are_internal():
    (group, *_) = fast(table(payload(1)), MINIMAL).resource_spans
    kinds = {span.name: span.kind for span in group.scope_spans[0].spans}

    assert kinds.pop("buildkite.build") == Span.SPAN_KIND_SERVER
    assert len(kinds) > 2
    assert set(kinds.values()) == {Span.SPAN_KIND_INTERNAL}


def test_every_resource_and_scope_names_the_version_of_the_conventions():
    groups = fast(busy_table(), MINIMAL).resource_spans
    urls = [one.schema_url for group in groups for one in (group, *group.scope_spans)]

    assert urls == ["https://opentelemetry.io/schemas/1.44.0"] * 2 * len(groups)


def test_resource_is_shared_by_the_spans_of_one_pipeline_only():
    groups = fast(busy_table(), MINIMAL).resource_spans

    slugs = [
        {pair.key: pair.value.string_value for pair in group.resource.attributes}[
            "buildkite.pipeline.slug"
        ]
        for group in groups
    ]
    assert slugs == ["web", "other"]
    assert {group.scope_spans[0].scope.name for group in groups} == {"bk_pipeline"}


def services(request: ExportTraceServiceRequest) -> list[str]:
    """Return the service name of each resource; each has exactly one."""
    names = [
        [pair.value.string_value for pair in group.resource.attributes if pair.key == SERVICE_NAME]
        for group in request.resource_spans
    ]
    assert {len(one) for one in names} == {1}
    return [one for (one,) in names]


@every_resource
def test_template_gives_each_pipeline_a_resource_with_its_service_name(common):
    assert services(fast(busy_table(), common, PER_PIPELINE)) == ["ci “web”", "ci “other”"]


def test_builds_of_500_pipelines_have_as_many_resources_within_the_limit_of_a_request():
    pipelines = [{"id": uuid(n), "slug": f"p-{n}"} for n in range(500)]
    one = table(*(payload(n, jobs=1, pipeline=pipelines[n % 500]) for n in range(1_000)))
    batcher = Batcher(replace(LIMITS, batch_bytes=100_000))
    batches = [*batcher.add(encoded(one, RICH, PER_PIPELINE)), *batcher.flush()]
    requests = [ExportTraceServiceRequest.FromString(body_of(batch)) for batch in batches]

    assert len(batches) > 5
    assert max(len(body_of(batch)) for batch in batches) <= 100_000
    found = [services(request) for request in requests]
    assert {name for names in found for name in names} == {f"ci “p-{n}”" for n in range(500)}
    assert all(len(set(names)) == len(names) for names in found)
    assert [item for batch in batches for item in batch] == encoded(one, RICH, PER_PIPELINE)


def test_build_attributes_take_precedence_over_the_environment():
    with_cluster = payload(1, cluster_id="theirs")
    groups = fast(table(with_cluster, payload(2)), RICH).resource_spans

    clusters = [
        pair.value.string_value
        for group in groups
        for pair in group.resource.attributes
        if pair.key == "buildkite.cluster.id"
    ]
    assert clusters == ["theirs", "ours"]


def test_each_field_type_has_its_otlp_type():
    (group, *_) = fast(busy_table(), MINIMAL).resource_spans
    found = {
        pair.key: pair.value.WhichOneof("value")
        for span in group.scope_spans[0].spans
        for pair in span.attributes
    }

    expected = {"int": "int_value", "bool": "bool_value", "string list": "array_value"}
    for field in FIELDS:
        if field.name in found:
            assert found[field.name] == expected.get(field.type, "string_value"), field.name
    assert found["buildkite.build.jobs.passed"] == "int_value"
    assert found["buildkite.agent.meta_data.queue"] == "string_value"
    assert "array_value" in found.values()


def test_oversized_span_is_trimmed_and_marked():
    large = {f"key-{n}": "x" * 60_000 for n in range(120)}
    one = table(payload(1, meta_data=large), payload(2))

    root, *others = encoded(one, MINIMAL)

    assert root.trimmed
    assert not any(item.trimmed for item in others)
    assert len(root.body) <= SPAN_BYTES + 10
    (group,) = ExportTraceServiceRequest.FromString(body_of([root])).resource_spans
    (span,) = group.scope_spans[0].spans
    assert span.span_id == root.item_id
    assert {pair.key: pair.value.bool_value for pair in span.attributes}["bk_pipeline.trimmed"]

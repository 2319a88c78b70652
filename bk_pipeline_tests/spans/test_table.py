"""The span table: columns, types and conversion back to plain objects."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from bk_pipeline.spans.fields import CONVENTIONS, FIELDS, IDENTITY
from bk_pipeline.spans.table import SCHEMA, VALUE_LIMIT_BYTES, rows, table_of, truncate
from bk_pipeline_tests.builders import (
    make_agent,
    make_block,
    make_build,
    make_job,
    make_person,
    make_retry,
    make_spans,
    make_trace,
    ns_at,
    uid,
)


def attributes(payload, name="buildkite.job"):
    (span,) = [span for span in make_spans(payload) if span["name"] == name]
    return span["attributes"]


def test_the_table_of_no_traces_is_empty_with_the_same_schema():
    assert table_of([]).schema == SCHEMA
    assert list(rows(table_of([]))) == []


def test_identity_columns_have_the_types_that_are_declared_without_pyarrow():
    types = {name: SCHEMA.field(name).type for name in IDENTITY}
    shown = {name: getattr(type_, "value_type", type_) for name, type_ in types.items()}
    shown["links"] = "list" if pa.types.is_list(types["links"]) else types["links"]
    assert {name: str(one) for name, one in shown.items()} == {
        name: declared for name, (declared, _) in IDENTITY.items()
    }
    assert SCHEMA.names[: len(IDENTITY)] == list(IDENTITY)


def test_columns_are_the_identity_and_then_the_fields():
    identity = ["trace_id", "span_id", "parent_span_id", "name", "start", "end", "status", "links"]
    assert SCHEMA.names == [*identity, *(field.name for field in FIELDS)]


def test_rows_of_a_build_are_adjacent_with_the_root_first():
    traces = [make_trace(make_build(id=uid(f"b{n}"), number=n)) for n in range(3)]
    found = [
        (row["attributes"]["buildkite.build.number"], row["name"]) for row in rows(table_of(traces))
    ]
    names = [span.kind.value for span in traces[0].spans]
    assert found == [(n, name) for n in range(3) for name in names]


def test_only_the_root_has_no_parent():
    spans = make_spans(make_build())
    assert [("parent_span_id" in span) for span in spans] == [False, True, True, True]


def test_times_are_whole_nanoseconds():
    (job,) = [
        span
        for span in make_spans(make_build([make_job(wait_s=2.345)]))
        if "buildkite.job.id" in span["attributes"]
    ]
    assert job["start_unix_nano"] == ns_at(3.345)
    assert table_of([make_trace(make_build())])["start"].type == pa.timestamp("ns", tz="UTC")


def test_a_column_is_null_on_spans_of_other_kinds():
    for span in make_spans(make_build()):
        is_job = span["name"] == "buildkite.job"
        assert ("buildkite.job.state" in span["attributes"]) == is_job
        assert ("buildkite.build.jobs.passed" in span["attributes"]) == (
            span["name"] == "buildkite.build"
        )
        assert span["attributes"]["buildkite.build.number"] == 7


def test_excluded_fields_are_null():
    table = table_of([make_trace(make_build())], without=CONVENTIONS)
    assert table.schema == SCHEMA
    assert all(table[name].null_count == table.num_rows for name in CONVENTIONS)
    assert table["buildkite.build.number"].null_count == 0


def test_fields_with_one_source_keep_their_own_names():
    found = attributes(make_build())
    assert found["cicd.worker.id"] == found["buildkite.agent.id"] == uid("agent linux-1")


@pytest.mark.parametrize("name", ["command", "web_url"])
def test_long_strings_are_truncated_and_marked(name):
    value = attributes(make_build([make_job(**{name: "ü" * 40_000})]))[f"buildkite.job.{name}"]
    assert len(value.encode()) <= VALUE_LIMIT_BYTES
    assert value == truncate("ü" * 40_000)


def test_long_values_of_maps_are_truncated_and_the_map_stays_valid():
    found = attributes(make_build(meta_data={"a": "x" * 70_000, "b": "1"}), "buildkite.build")
    assert found["buildkite.build.meta_data.b"] == "1"
    assert found["buildkite.build.meta_data.a"] == truncate("x" * 70_000)


def test_job_states_are_counted_with_retried_attempts_and_without_waiters():
    first = make_job(state="failed")
    jobs = [first, make_retry(first, made_s=14), {"id": uid("w"), "type": "waiter"}, make_block()]
    found = attributes(make_build(jobs), "buildkite.build")
    counts = {key: one for key, one in found.items() if key.startswith("buildkite.build.jobs.")}
    assert counts == {
        "buildkite.build.jobs.failed": 1,
        "buildkite.build.jobs.passed": 1,
        "buildkite.build.jobs.blocked": 1,
    }


def test_people_have_no_avatars_and_dates():
    found = attributes(make_build([make_job(retried_by=make_person())]))
    assert msgspec.json.decode(found["buildkite.job.retried_by"]) == {
        "id": make_person()["id"],
        "graphql_id": make_person()["graphql_id"],
        "name": "Ines Okafor",
        "email": "ines@acme.example",
    }


def test_who_unblocked_has_the_keys_of_the_notification_service():
    found = attributes(make_build([make_block(unblocked_s=9)]))
    assert msgspec.json.decode(found["buildkite.job.unblocked_by"]) == {
        "uuid": make_person()["id"],
        "graphql_id": make_person()["graphql_id"],
        "name": "Ines Okafor",
    }


@pytest.mark.parametrize(
    ("who", "shown"),
    [("Ines", '"Ines"'), (None, None), ({"name": "I"}, '{"name":"I"}'), ({}, None)],
)
def test_who_unblocked_may_be_a_string_or_have_few_keys(who, shown):
    found = attributes(make_build([make_block(unblocked_s=9, unblocked_by=who)]))
    assert found.get("buildkite.job.unblocked_by") == shown


@pytest.mark.parametrize(
    ("value", "wait_ms"),
    [
        (0, 0),
        (1500, 1500),
        (1499.7, 1500),
        (None, None),
        ("soon", None),
        ({}, None),
        (True, None),
        (2**70, None),
    ],
)
def test_concurrency_wait_is_a_whole_number_or_absent(value, wait_ms):
    found = attributes(make_build([make_job(concurrency_wait_time_ms=value)]))
    assert found.get("buildkite.job.concurrency_wait_time_ms") == wait_ms
    assert found["buildkite.job.state"] == "passed"


def test_job_has_its_log_url_and_its_agents_ip_address():
    found = attributes(make_build([make_job(log_url="https://api.buildkite.com/log")]))
    assert found["buildkite.job.log_url"] == "https://api.buildkite.com/log"
    assert found["buildkite.agent.ip_address"] == "192.0.2.10"


@pytest.mark.parametrize(
    ("rules", "meta_data", "queue"),
    [
        (["queue=arm"], ["queue=default", "queue=arm"], "arm"),
        (["os=linux", "queue=arm"], ["queue=arm"], "arm"),
        (["*"], ["queue=arm", "os=linux"], "arm"),
        ([], ["os=linux"], "default"),
        (["queue=arm"], None, "arm"),
        (["*"], None, None),
    ],
)
def test_the_agents_queue_is_the_one_that_the_job_requested(rules, meta_data, queue):
    job = make_job(agent_query_rules=rules, agent=make_agent(meta_data=meta_data))
    assert attributes(make_build([job])).get("buildkite.agent.queue") == queue


def test_a_repeated_agent_tag_keeps_both_values():
    job = make_job(agent=make_agent(meta_data=["queue=a", "queue=b", "plain", "x=y=z"]))
    found = attributes(make_build([job]))
    assert found["buildkite.agent.meta_data.queue"] == "a,b"
    assert found["buildkite.agent.meta_data.plain"] == ""
    assert found["buildkite.agent.meta_data.x"] == "y=z"


def test_a_job_without_an_agent_has_no_agent_attributes():
    found = attributes(make_build([make_job(run_s=None, state="expired")]))
    assert not [key for key in found if key.startswith(("buildkite.agent.", "cicd.worker."))]


@pytest.mark.parametrize(
    ("url", "web_url", "slug"),
    [
        ("https://api.buildkite.com/v2/organizations/acme/pipelines/x/builds/1", None, "acme"),
        (None, "https://buildkite.com/acme/x/builds/1", "acme"),
        ("http://127.0.0.1:1/v2/organizations/a-b/builds", "", "a-b"),
        ("nonsense", None, None),
        (None, None, None),
    ],
)
def test_the_organization_slug_is_taken_from_the_builds_urls(url, web_url, slug):
    (first, *_) = make_spans(make_build(url=url, web_url=web_url))
    assert first["resource"].get("buildkite.organization.slug") == slug


def test_the_cluster_id_is_that_of_the_build_the_pipeline_or_a_job():
    for payload in (
        make_build(cluster_id="c"),
        make_build(pipeline={"cluster_id": "c"}),
        make_build([make_job(cluster_id="c")]),
    ):
        assert make_spans(payload)[0]["resource"]["buildkite.cluster.id"] == "c"

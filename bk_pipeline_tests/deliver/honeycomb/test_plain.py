"""The columns of the reference encoder, as Honeycomb makes them of spans sent by OTLP."""

from __future__ import annotations

import pytest

from bk_pipeline import __version__
from bk_pipeline.deliver.honeycomb.plain import column_value, link_events, span_event, time_text
from bk_pipeline.deliver.honeycomb.shape import BUILDEVENTS_COLUMNS, Shape, TraceIdStyle
from bk_pipeline.spans.privacy import Privacy, hashed
from bk_pipeline.spans.table import rows
from bk_pipeline.text import TRUNCATION_MARK, VALUE_LIMIT_BYTES
from bk_pipeline_tests.deliver.tables import job, payload, table, uuid

OTEL = Shape("ci builds")
BUILDEVENTS = Shape("ci builds", TraceIdStyle.BUILDEVENTS)
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
BUILD_ID = uuid("build", 1)
TRACE_ID = BUILD_ID.replace("-", "")
FAILED = payload(1, state="failed", rebuilt_from={"id": uuid("build", 9), "number": 9})


def spans(build):
    return {span["name"]: span for span in rows(table(build))}


@pytest.fixture
def root():
    return spans(FAILED)["buildkite.build"]


@pytest.fixture
def job_span():
    return spans(FAILED)["buildkite.job"]


def test_root_has_the_columns_of_an_otlp_root(root):
    event = span_event(root, OTEL)

    assert event["time"] == "2026-11-19T11:00:01.000000000Z"
    assert (
        event["data"].items()
        >= {
            "trace.trace_id": TRACE_ID,
            "trace.span_id": TRACE_ID[16:],
            "name": "buildkite.build",
            "type": "server",
            "span.kind": "server",
            "status_code": 2,
            "error": True,
            "duration_ms": 60_000.0,
            "span.num_events": 0,
            "span.num_links": 1,
            "meta.signal_type": "trace",
            "library.name": "bk_pipeline",
            "library.version": __version__,
            "resource.schema_url": SCHEMA_URL,
            "scope.schema_url": SCHEMA_URL,
            "service.name": "ci builds",
            "buildkite.pipeline.slug": "web",
            "buildkite.build.number": 1,
            "buildkite.build.meta_data.release": "v1",
            "buildkite.build.jobs.passed": 3,
        }.items()
    )
    assert isinstance(event["data"]["duration_ms"], float)


def test_root_has_no_parent_column_and_no_nulls(root):
    data = span_event(root, OTEL)["data"]

    assert "trace.parent_id" not in data
    assert None not in data.values()


def test_only_failed_spans_have_an_error_column(job_span):
    assert "error" not in span_event(job_span, OTEL)["data"]


def test_job_has_its_parent_and_lists_are_json_with_a_newline(job_span):
    data = span_event(job_span, OTEL)["data"]

    assert data["type"] == data["span.kind"] == "internal"
    assert len(data["trace.parent_id"]) == 16
    assert data["buildkite.agent.meta_data"] == '["queue=default"]\n'
    assert data["buildkite.agent.meta_data.queue"] == "default"


def test_link_has_exactly_the_columns_of_an_otlp_link(root):
    (event,) = link_events(root, OTEL)

    linked = uuid("build", 9).replace("-", "")
    link_columns = {
        name: value for name, value in event["data"].items() if "buildkite." not in name
    }
    assert link_columns == {
        "trace.trace_id": TRACE_ID,
        "trace.parent_id": TRACE_ID[16:],
        "parent_name": "buildkite.build",
        "trace.link.trace_id": linked,
        "trace.link.span_id": linked[16:],
        "meta.annotation_type": "link",
        "meta.signal_type": "trace",
        "error": True,
        "library.name": "bk_pipeline",
        "library.version": __version__,
        "resource.schema_url": SCHEMA_URL,
        "scope.schema_url": SCHEMA_URL,
        "service.name": "ci builds",
    }
    assert event["data"]["buildkite.pipeline.slug"] == "web"
    assert event["time"] == span_event(root, OTEL)["time"]


def test_trace_id_with_leading_zeros_is_written_as_by_otlp():
    assert OTEL.trace_text("0" * 16 + "ab" * 8) == "ab" * 8
    assert OTEL.trace_text("0" * 15 + "1" + "ab" * 8) == "0" * 15 + "1" + "ab" * 8


def test_buildevents_style_uses_the_build_uuid_for_trace_and_root(root):
    data = span_event(root, BUILDEVENTS)["data"]

    assert data["trace.trace_id"] == data["trace.span_id"] == BUILD_ID


def test_buildevents_style_children_point_to_the_root():
    made = [span_event(span, BUILDEVENTS)["data"] for span in rows(table(FAILED))]

    ids = {data["trace.span_id"] for data in made}
    parents = {data["trace.parent_id"] for data in made if "trace.parent_id" in data}
    assert BUILD_ID in parents
    assert parents <= ids


def test_buildevents_style_uses_uuids_for_links_to_builds_only():
    retried = job(
        1, 9, table(payload(1))["start"][0].as_py(), retry_source={"job_id": uuid("job", 1, 0)}
    )
    build = payload(1, rebuilt_from={"id": uuid("build", 9), "number": 9})
    build["jobs"].append(retried)

    made = [
        event["data"] for span in rows(table(build)) for event in link_events(span, BUILDEVENTS)
    ]

    to_build, to_job = made
    assert to_build["trace.parent_id"] == BUILD_ID
    assert to_build["trace.link.trace_id"] == to_build["trace.link.span_id"] == uuid("build", 9)
    assert to_job["trace.link.trace_id"] == BUILD_ID
    assert to_job["trace.link.span_id"] == uuid("job", 1, 0).replace("-", "")[16:]


def with_pull_request(**fields):
    request = {"id": 12, "base": "main", "repository": "git@github.com:ann/web.git"}
    pipeline = {"slug": "web", "repository": "git@github.com:acme/web.git"}
    page = "https://buildkite.com/acme/web/builds/1"
    return payload(1, pull_request=request, pipeline=pipeline, web_url=page, **fields)


def test_buildevents_style_has_the_columns_of_buildevents():
    made = {
        name: span_event(span, BUILDEVENTS)["data"]
        for name, span in spans(with_pull_request(state="failed")).items()
    }

    columns = {
        "ci_provider": "Buildkite",
        "branch": "main",
        "build_num": "1",
        "build_url": "https://buildkite.com/acme/web/builds/1",
        "pr_number": "12",
        "pr_branch": "main",
        "repo": "git@github.com:acme/web.git",
        "meta.version": __version__,
        "service_name": "ci builds",
    }
    assert all(data.items() >= columns.items() for data in made.values())
    assert made["buildkite.build"]["pr_repo"] == "git@github.com:ann/web.git"
    assert {name: (data["type"], data["span.kind"]) for name, data in made.items()} == {
        "buildkite.build": ("build", "server"),
        "buildkite.build.stage": ("step", "internal"),
        "buildkite.step": ("step", "internal"),
        "buildkite.job": ("cmd", "internal"),
    }
    assert all(data["command_name"] == data["type"] for data in made.values())
    assert made["buildkite.build"]["status"] == "failure"
    assert made["buildkite.job"]["status"] == "success"


def test_buildevents_style_has_no_column_without_a_value():
    data = span_event(spans(payload(1, state="canceled"))["buildkite.build"], BUILDEVENTS)["data"]

    assert not {"pr_number", "pr_branch", "pr_repo", "repo", "build_url", "status"} & data.keys()


def test_other_style_has_no_columns_of_buildevents():
    for span in rows(table(with_pull_request())):
        assert not BUILDEVENTS_COLUMNS & span_event(span, OTEL)["data"].keys()


def test_links_have_no_columns_of_buildevents():
    linked = with_pull_request(rebuilt_from={"id": uuid("build", 9), "number": 9})
    (event,) = link_events(spans(linked)["buildkite.build"], BUILDEVENTS)

    assert not BUILDEVENTS_COLUMNS & event["data"].keys()


def test_buildevents_columns_follow_the_privacy_settings():
    hidden = ("*.web_url", "*.repo", "buildkite.build.pull_request.*")
    left = Privacy(drop=hidden, hash=("buildkite.build.branch",)).apply(table(with_pull_request()))

    for span in rows(left):
        data = span_event(span, BUILDEVENTS)["data"]
        assert not {"build_url", "repo", "pr_number", "pr_branch", "pr_repo"} & data.keys()
        assert data["branch"] == hashed("main")


def test_columns_of_buildevents_take_precedence_over_resource_attributes():
    others = {"branch": "mine", "team": "web"}
    shapes = [Shape("ci builds", style, others) for style in TraceIdStyle]
    (by_otel, by_buildevents) = [
        span_event(spans(FAILED)["buildkite.build"], shape)["data"] for shape in shapes
    ]

    assert (by_otel["branch"], by_buildevents["branch"]) == ("mine", "main")
    assert by_otel["team"] == by_buildevents["team"] == "web"


def test_buildevents_style_keeps_the_trace_id_of_a_link_that_leads_to_no_build():
    application, build_id = (
        "4bf92f3577b31da6a3ce929d0e0e4736",
        "01908131-7d9f-495e-a17b-80ed31276810",
    )
    links = {}
    for trace in (application, build_id.replace("-", "")):
        env = {"TRACEPARENT": f"00-{trace}-00f067aa0ba902b7-01"}
        (event,) = link_events(spans(payload(1, env=env))["buildkite.build"], BUILDEVENTS)
        links[event["data"]["trace.link.trace_id"]] = event["data"]["trace.link.span_id"]

    assert links == dict.fromkeys([application, build_id], "00f067aa0ba902b7")


def test_buildevents_style_keeps_the_tree_of_a_build_without_uuid():
    made = [span_event(span, BUILDEVENTS)["data"] for span in rows(table(payload(1, id="build-1")))]

    (root,) = [data for data in made if "trace.parent_id" not in data]
    assert root["trace.span_id"] == root["trace.trace_id"]
    assert {data.get("trace.parent_id") for data in made} >= {root["trace.span_id"]}


@pytest.mark.parametrize(
    ("value", "column"),
    [
        ("text", "text"),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (2**63, float(2**63)),
        (0.5, 0.5),
        (None, None),
        (["a", 8, True], '["a",8,true]\n'),
        ([], "[]\n"),
        ({"a": {"b": 1}}, '{"a":{"b":1}}\n'),
    ],
    ids=str,
)
def test_values_become_column_values(value, column):
    assert column_value(value) == column
    assert type(column_value(value)) is type(column)


def test_long_string_is_truncated_with_a_mark_and_long_list_without():
    text, listed = column_value("é" * 40_000), column_value(["é" * 40_000])

    assert text.endswith(TRUNCATION_MARK)
    assert VALUE_LIMIT_BYTES - 2 < len(text.encode()) <= VALUE_LIMIT_BYTES
    assert VALUE_LIMIT_BYTES - 2 < len(listed.encode()) <= VALUE_LIMIT_BYTES
    assert TRUNCATION_MARK not in listed


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_760_000_000_123_456_789, "2025-10-09T08:53:20.123456789Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_times_are_rfc_3339_with_nanoseconds(ns, text):
    assert time_text(ns) == text

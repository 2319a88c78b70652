"""The OpenTelemetry Collector's own decoder sees in our requests what the span table holds.

`main.go` decodes the request bodies; what is expected is computed from the table alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from bk_pipeline import __version__
from bk_pipeline.deliver.metrics.destination import request_body
from bk_pipeline.deliver.metrics.points import data_points, measured_items
from bk_pipeline.deliver.otlp import codec
from bk_pipeline.deliver.otlp.shape import body_of
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.pipeline.active_runs import active_points
from bk_pipeline.spans.table import rows
from bk_pipeline_tests.deliver.honeycomb.odd_tables import tables as odd_tables
from bk_pipeline_tests.programs import missing
from bk_pipeline_tests.worlds import span_table

pytestmark = pytest.mark.interop

COMMON = {"service.name": "ci builds", "deployment.environment.name": "prod"}
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = {
    "scope": "bk_pipeline",
    "scope_version": __version__,
    "schema_url": SCHEMA,
    "scope_schema_url": SCHEMA,
}
# Bits of `flags`: whether the span's parent, or the linked span, is in another service.
IS_LOCAL, IS_REMOTE = 0x100, 0x300
STATUSES = {"unset": "Unset", "ok": "Ok", "error": "Error"}
# The type and unit of each metric.
METRICS = {
    "buildkite.builds.count": ("Sum", "{build}"),
    "buildkite.builds.duration": ("ExponentialHistogram", "ms"),
    "buildkite.jobs.count": ("Sum", "{job}"),
    "buildkite.jobs.duration": ("ExponentialHistogram", "ms"),
    "buildkite.jobs.wait_time": ("ExponentialHistogram", "ms"),
    "cicd.pipeline.run.duration": ("ExponentialHistogram", "s"),
    "cicd.pipeline.run.errors": ("Sum", "{error}"),
    "cicd.system.errors": ("Sum", "{error}"),
}
INT64 = range(-(2**63), 2**63)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory) -> Path:
    """Builds the decoder; Go's build cache makes the second time quick."""
    go = shutil.which("go")
    if go is None:
        missing("go", "golang-go")
    program = tmp_path_factory.mktemp("interop") / "decoder"
    subprocess.run(
        [go, "build", "-mod=readonly", "-o", program, "."], cwd=Path(__file__).parent, check=True
    )
    return program


@pytest.fixture(scope="module")
def world() -> pa.Table:
    return span_table(seed=5, builds=200)


def decoded(program: Path, signal: str, body: bytes, folder: Path) -> list[dict[str, Any]]:
    file = folder / "body"
    file.write_bytes(body)
    done = subprocess.run([program, signal, file], capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def trace_body(table: pa.Table) -> bytes:
    return body_of(codec.items(SpanRows.from_table(table), COMMON))


def typed(value: Any) -> tuple[str, Any]:
    """A value with its OTLP type, as the decoder prints it."""
    if isinstance(value, list):
        return "list", [list(typed(one)) for one in value]
    if isinstance(value, dict):
        return "map", [[key, *typed(one)] for key, one in value.items()]
    if isinstance(value, int) and not isinstance(value, bool):
        return ("int", str(value)) if value in INT64 else ("double", float(value))
    return {bool: "bool", float: "double", str: "string", type(None): "Empty"}[type(value)], value


def pairs(attributes: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    return {name: typed(value) for name, value in attributes.items() if value is not None}


def as_dict(found: list[list[Any]]) -> dict[str, tuple[str, Any]]:
    """Attributes by name; a name that occurs twice is an error."""
    made = {name: (kind, value) for name, kind, value in found}
    assert len(made) == len(found), "an attribute occurs twice"
    return made


def assert_same_spans(seen: list[dict[str, Any]], table: pa.Table) -> None:
    expected = {one["span_id"]: one for one in rows(table)}
    assert len(seen) == len(table) == len(expected)
    for one in seen:
        row = expected.pop(one["span"]["span_id"])
        assert_same_span(one["span"], row)
        resource = as_dict(one["resource"])
        assert resource == pairs(
            COMMON | {k: v for k, v in row["resource"].items() if k not in COMMON}
        )
        assert {name: one[name] for name in SCOPE} == SCOPE
    assert not expected


def assert_same_span(seen: dict[str, Any], row: dict[str, Any]) -> None:
    assert as_dict(seen["attributes"]) == pairs(row["attributes"])
    assert seen | {"attributes": None, "kind": None} == {
        "trace_id": row["trace_id"],
        "span_id": row["span_id"],
        "parent_span_id": row.get("parent_span_id", ""),
        "trace_state": "",
        "flags": IS_LOCAL,
        "name": row["name"],
        "kind": None,
        "start": str(row["start_unix_nano"]),
        "end": str(row["end_unix_nano"]),
        "status": STATUSES[row["status"]],
        "message": "",
        "attributes": None,
        "events": 0,
        "links": [
            {
                "trace_id": link["trace_id"],
                "span_id": link["span_id"],
                "trace_state": "",
                "flags": IS_LOCAL if link["trace_id"] == row["trace_id"] else IS_REMOTE,
                "attributes": [],
                "dropped": 0,
            }
            for link in row["links"] or ()
        ],
        "dropped": 0,
    }
    assert seen["kind"] == ("Server" if row["name"] == "buildkite.build" else "Internal")


def test_spans_of_a_day_are_decoded_as_the_table_has_them(decoder, world, tmp_path):
    seen = decoded(decoder, "traces", trace_body(world), tmp_path)

    assert len(seen) > 1_000
    assert_same_spans(seen, world)
    kinds = Counter(kind for one in seen for _, kind, _ in one["span"]["attributes"])
    assert {"int", "bool", "string", "list"} <= set(kinds)
    assert any(one["span"]["links"] for one in seen)


def test_sampled_spans_carry_the_threshold_of_their_build(decoder, world, tmp_path):
    traces = sorted({bytes.fromhex(one["trace_id"]) for one in rows(world)})
    # Rejected shares of 1/2, 3/4 and 9/10, in units of 2**-56, as hex digits without zeros at the end.
    states = ["ot=th:8", "ot=th:c", "ot=th:e6666666666666"]
    thresholds = dict(zip(traces, [2**55, 3 * 2**54, int("e6666666666666", 16)], strict=False))
    items = codec.items(SpanRows.from_table(world, thresholds), COMMON)
    seen = decoded(decoder, "traces", body_of(items), tmp_path)

    expected = dict(zip((one.hex() for one in traces), states, strict=False))
    for one in (line["span"] for line in seen):
        assert one["trace_state"] == expected.get(one["trace_id"], "")
    by_attribute = codec.items(SpanRows.from_table(world, thresholds), COMMON, rate_attribute=True)
    for one in decoded(decoder, "traces", body_of(by_attribute), tmp_path):
        rate = as_dict(one["span"]["attributes"]).get("sampleRate")
        trace = one["span"]["trace_id"]
        wanted = dict(zip(states, ("2", "4", "10"), strict=True)).get(expected.get(trace, ""))
        assert rate == (wanted and ("int", wanted))


def test_each_pipeline_is_a_resource_with_its_service_name(decoder, world, tmp_path):
    spans = SpanRows.from_table(world)
    items = codec.items(spans, COMMON, service_template="ci-{pipeline}")
    seen = decoded(decoder, "traces", body_of(items), tmp_path)

    slugs = {one["span_id"]: one["resource"]["buildkite.pipeline.slug"] for one in rows(world)}
    assert len(set(slugs.values())) > 1
    assert {one["span"]["span_id"]: as_dict(one["resource"])["service.name"] for one in seen} == {
        span_id: typed(f"ci-{slug}") for span_id, slug in slugs.items()
    }


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=odd_tables())
def test_odd_values_are_decoded_as_the_table_has_them(decoder, tmp_path, table):
    assert_same_spans(decoded(decoder, "traces", trace_body(table), tmp_path), table)


def test_metrics_are_decoded_as_the_table_has_them(decoder, world, tmp_path):
    items = measured_items(SpanRows.from_table(world))
    seen = decoded(decoder, "metrics", request_body(data_points(items), COMMON), tmp_path)

    spans = list(rows(world))
    builds = [one for one in spans if one["name"] == "buildkite.build"]
    jobs = [
        one
        for one in spans
        if one["name"] == "buildkite.job" and one["attributes"]["buildkite.job.type"] != "manual"
    ]
    ran = [one for one in jobs if one["attributes"]["buildkite.job.started"]]
    counts: dict[str, int] = defaultdict(int)
    sums: dict[str, float] = defaultdict(float)
    for one in seen:
        point = one["point"]
        assert as_dict(one["resource"]) == pairs(COMMON)
        assert {name: one[name] for name in SCOPE} == SCOPE
        assert (one["type"], one["unit"]) == METRICS[one["metric"]]
        assert point["temporality"] == "Delta"
        assert int(point["start"]) < int(point["time"])
        if one["type"] == "Sum":
            assert point["monotonic"]
            counts[one["metric"]] += int(point["value"])
        else:
            assert int(point["count"]) == sum(point["buckets"]) + int(point["zero_count"])
            counts[one["metric"]] += int(point["count"])
            sums[one["metric"]] += point["sum"]
    assert counts["buildkite.builds.count"] == counts["buildkite.builds.duration"] == len(builds)
    assert counts["buildkite.jobs.count"] == len(jobs)
    assert counts["buildkite.jobs.duration"] == len(ran)
    assert sums["buildkite.builds.duration"] == total_ms(builds)
    assert sums["buildkite.jobs.duration"] == total_ms(ran)
    assert sums["cicd.pipeline.run.duration"] == pytest.approx(total_ms(builds) / 1_000)
    failed = [
        one["attributes"]["cicd.pipeline.task.run.result"]
        for one in jobs
        if one["status"] == "error"
    ]
    assert counts["cicd.system.errors"] == failed.count("error") > 0
    assert counts["cicd.pipeline.run.errors"] == len(failed) - failed.count("error") > 0
    assert set(counts) == set(METRICS)


def test_active_runs_are_decoded_as_gauges(decoder, tmp_path):
    now = datetime(2024, 2, 15, 15, tzinfo=UTC)
    points = active_points({("Web", "executing"): 3}, ["Web"], "acme", now)

    seen = decoded(decoder, "metrics", request_body(points, COMMON), tmp_path)

    assert [
        (as_dict(one["point"]["attributes"])["cicd.pipeline.run.state"][1], one["point"]["value"])
        for one in seen
    ] == [("pending", "0"), ("executing", "3"), ("finalizing", "0")]
    for one in seen:
        assert {name: one[name] for name in SCOPE} == SCOPE
        assert (one["metric"], one["type"], one["unit"]) == (
            "cicd.pipeline.run.active",
            "Gauge",
            "{run}",
        )
        assert (one["point"]["start"], one["point"]["time"]) == (
            "0",
            f"{int(now.timestamp())}000000000",
        )
        assert as_dict(one["point"]["attributes"])["cicd.pipeline.name"] == ("string", "Web")


def total_ms(spans: list[dict[str, Any]]) -> int:
    return sum((one["end_unix_nano"] - one["start_unix_nano"]) // 1_000_000 for one in spans)

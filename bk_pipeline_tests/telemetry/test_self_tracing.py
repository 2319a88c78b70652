"""Self-tracing: traced runs, as the sandbox's OTLP endpoint receives them."""

from __future__ import annotations

import dagster as dg
import pytest

from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.errors import ConfigError, ServiceUnavailable
from bk_pipeline.self_tracing import self_tracing
from bk_pipeline.settings import Settings
from bk_pipeline.telemetry import leaf_span, span
from bk_pipeline_tests.worlds import stage

RUN_ID = "0190a1b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b"
ON = {"BK_PIPELINE_SELF_TRACING": "1"}


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def self_spans(scene):
    """The spans of the pipeline's own runs, by start time."""
    found = [
        one for one in scene.sandbox.otlp.spans if one.resource["service.name"] == "bk_pipeline"
    ]
    return sorted(found, key=lambda one: one.start_ns)


def named(spans, name):
    return [one for one in spans if one.name == name]


def settings_of(url, **variables):
    return Settings.of(OTEL_EXPORTER_OTLP_ENDPOINT=url, **ON, **variables)


@pytest.fixture
def traced(tmp_path):
    with stage(tmp_path) as scene:
        yield scene


def test_each_dagster_run_is_one_trace_of_assets_and_requests(tmp_path, instance):
    # Not a multiple of a usual page size, which would cost another request.
    with stage(tmp_path, builds_per_day=17, otlp=True, **ON) as scene:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        spans = self_spans(scene)
        token, key = scene.sandbox.buildkite_token, scene.sandbox.honeycomb_key
    [day] = scene.days
    by_id = {one.span_id: one for one in spans}

    assert run.error is None
    # Delivery and statistics are two Dagster runs.
    assert len({one.trace_id for one in spans}) == 2
    roots = [one.name for one in spans if not one.parent_span_id]
    loaders = ["honeycomb_events", "otlp_metrics", "otlp_traces"]
    assets = ["build_stats", *loaders, "raw_builds", "spans"]
    assert sorted(roots) == [f"materialize {asset}" for asset in assets]
    [extraction] = named(spans, "raw_builds of a day")
    assert extraction.attributes["bk_pipeline.day"] == day
    assert extraction.attributes["bk_pipeline.builds_stored"] > 0
    [window] = named(spans, "list window")
    assert window.attributes["bk_pipeline.pages"] == 1
    assert by_id[window.parent_span_id] is extraction
    requests = named(spans, "GET")
    assert by_id[requests[0].parent_span_id] is extraction
    assert requests[0].attributes["url.path"] == "/v2/organizations/acme/builds"
    assert requests[0].attributes["http.response.status_code"] == 200
    batches = named(spans, "deliver batch")
    assert {by_id[one.parent_span_id].name for one in batches} == {
        "honeycomb_events of a day",
        "otlp_metrics of a day",
        "otlp_traces of a day",
    }
    assert {by_id[one.parent_span_id].name for one in named(spans, "POST")} == {"deliver batch"}
    assert not any(secret in repr(spans) for secret in (token, key))


def test_self_tracing_does_not_change_what_is_delivered(tmp_path, instance):
    with stage(tmp_path, otlp=True, **ON) as scene:
        for _ in range(2):
            list(materialize_days(scene.services, scene.days, instance=instance))
        ours = {one.trace_id for one in self_spans(scene)}
        others = [one for one in scene.sandbox.otlp.spans if one.trace_id not in ours]
        assert scene.sandbox.otlp.duplicate_count == 0
        assert len(ours) == 4
        assert {one.resource["service.name"] for one in others} == {"buildkite"}


def test_failed_run_is_traced_with_its_error(tmp_path, instance):
    with stage(tmp_path, otlp=True, BK_PIPELINE_HTTP_DEADLINE_S="0", **ON) as scene:
        scene.sandbox.faults.inject("buildkite", "status", status=503)
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        spans = self_spans(scene)

    assert run.error is not None
    [extraction] = named(spans, "raw_builds of a day")
    assert extraction.status_code == 2
    assert extraction.attributes["error.type"] == "ServiceUnavailable"
    assert "503" in extraction.status_message
    [request] = named(spans, "GET")
    assert (request.status_code, request.attributes["error.type"]) == (2, "503")


@pytest.mark.parametrize("fault", ["unreachable", "refuses", "not_otlp"])
def test_failing_endpoint_does_not_fail_the_run(traced, caplog, fault):
    url = "http://127.0.0.1:9" if fault == "unreachable" else traced.url
    if fault == "refuses":
        traced.sandbox.otlp.require_header("x-key", "secret")
    if fault == "not_otlp":
        traced.sandbox.faults.inject("otlp", "html", count=100)

    with self_tracing(settings_of(f"{url}?key=s3cr3t-0123456789"), run_id=RUN_ID), span("work"):
        pass

    assert "s3cr3t" not in caplog.text
    if fault != "not_otlp":
        assert "1 self-tracing spans were lost" in caplog.text


def test_trace_id_is_the_run_id(traced):
    with self_tracing(settings_of(traced.url), run_id=RUN_ID), span("work"), leaf_span("part"):
        pass

    [work, part] = self_spans(traced)
    assert work.trace_id == part.trace_id == RUN_ID.replace("-", "")
    assert part.parent_span_id == work.span_id


def test_foreign_error_messages_are_not_sent(traced):
    with (
        pytest.raises(ValueError, match="a password"),
        self_tracing(settings_of(traced.url), run_id=RUN_ID),
        span("work"),
    ):
        raise ValueError("a password")
    with (
        pytest.raises(ServiceUnavailable),
        self_tracing(settings_of(traced.url), run_id=RUN_ID),
        span("work"),
    ):
        raise ServiceUnavailable("Unreachable.")

    first, second = self_spans(traced)
    assert (first.attributes["error.type"], first.status_message) == ("ValueError", "")
    assert second.status_message == "Unreachable."


def test_unfinished_generator_keeps_its_parent_span(traced):
    def pages():
        with leaf_span("window"):
            yield 1
            yield 2

    with self_tracing(settings_of(traced.url), run_id=RUN_ID):
        with span("day"):
            unfinished = pages()
            next(unfinished)
        with span("next day"):
            unfinished.close()
            with span("inside"):
                pass

    spans = {one.name: one for one in self_spans(traced)}
    assert spans["window"].parent_span_id == spans["day"].span_id
    assert spans["inside"].parent_span_id == spans["next day"].span_id
    assert spans["window"].status_code == 0


def test_missing_endpoint_is_a_config_error():
    with pytest.raises(ConfigError, match=r"Set OTEL_EXPORTER_OTLP_ENDPOINT, or switch it off"):
        self_tracing(Settings.of(**ON), run_id=RUN_ID)


def test_pause_before_a_retry_is_a_span(tmp_path, instance, clock):
    with stage(tmp_path, otlp=True, clock=clock, **ON) as scene:
        scene.sandbox.faults.inject("buildkite", "status", status=503)
        list(materialize_days(scene.services, scene.days, instance=instance))
        spans = self_spans(scene)

    [extraction] = named(spans, "raw_builds of a day")
    [pause] = named(spans, "pause before retry")
    assert pause.parent_span_id == extraction.span_id
    statuses = [one.attributes["http.response.status_code"] for one in named(spans, "GET")]
    assert statuses[:2] == [503, 200]

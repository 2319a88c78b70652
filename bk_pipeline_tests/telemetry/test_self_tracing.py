"""Runs that are traced, at the sandbox's OTLP endpoint."""

from __future__ import annotations

import dagster as dg
import pytest

from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.errors import ConfigError, ServiceUnavailable
from bk_pipeline.self_tracing import self_tracing
from bk_pipeline.settings import Settings
from bk_pipeline.telemetry import leaf, span
from bk_pipeline_tests.worlds import stage

RUN_ID = "0190a1b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b"
ON = {"BK_PIPELINE_SELF_TRACING": "1"}


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def own(scene):
    """The spans of the pipeline itself, by when they began."""
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


def test_a_run_is_one_trace_from_its_assets_down_to_its_requests(tmp_path, instance):
    # Of no size that a page is usually capped at, which would cost another request.
    with stage(tmp_path, builds_per_day=17, otlp=True, **ON) as scene:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        spans = own(scene)
        token, key = scene.sandbox.buildkite_token, scene.sandbox.honeycomb_key
    [day] = scene.days
    by_id = {one.span_id: one for one in spans}

    assert run.error is None
    # One for the delivery, one for the statistics: each Dagster run is a trace.
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
    asked = named(spans, "GET")
    assert by_id[asked[0].parent_span_id] is extraction
    assert asked[0].attributes["url.path"] == "/v2/organizations/acme/builds"
    assert asked[0].attributes["http.response.status_code"] == 200
    batches = named(spans, "deliver batch")
    assert {by_id[one.parent_span_id].name for one in batches} == {
        "honeycomb_events of a day",
        "otlp_metrics of a day",
        "otlp_traces of a day",
    }
    assert {by_id[one.parent_span_id].name for one in named(spans, "POST")} == {"deliver batch"}
    assert not any(secret in repr(spans) for secret in (token, key))


def test_what_a_run_delivers_is_the_same_and_sent_once(tmp_path, instance):
    with stage(tmp_path, otlp=True, **ON) as scene:
        for _ in range(2):
            list(materialize_days(scene.services, scene.days, instance=instance))
        ours = {one.trace_id for one in own(scene)}
        others = [one for one in scene.sandbox.otlp.spans if one.trace_id not in ours]
        assert scene.sandbox.otlp.duplicate_count == 0
        assert len(ours) == 4
        assert {one.resource["service.name"] for one in others} == {"buildkite"}


def test_a_run_that_fails_is_told_to_its_end(tmp_path, instance):
    with stage(tmp_path, otlp=True, BK_PIPELINE_HTTP_DEADLINE_S="0", **ON) as scene:
        scene.sandbox.faults.inject("buildkite", "status", status=503)
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        spans = own(scene)

    assert run.error is not None
    [extraction] = named(spans, "raw_builds of a day")
    assert extraction.status_code == 2
    assert extraction.attributes["error.type"] == "ServiceUnavailable"
    assert "503" in extraction.status_message
    [asked] = named(spans, "GET")
    assert (asked.status_code, asked.attributes["error.type"]) == (2, "503")


@pytest.mark.parametrize("trouble", ["away", "refuses", "no_otlp"])
def test_an_endpoint_in_trouble_fails_no_run(traced, caplog, trouble):
    url = "http://127.0.0.1:9" if trouble == "away" else traced.url
    if trouble == "refuses":
        traced.sandbox.otlp.require_header("x-key", "wanted")
    if trouble == "no_otlp":
        traced.sandbox.faults.inject("otlp", "html", count=100)

    with self_tracing(settings_of(f"{url}?key=s3cr3t-0123456789"), run_id=RUN_ID), span("work"):
        pass

    assert "s3cr3t" not in caplog.text
    if trouble != "no_otlp":
        assert "1 spans of self-tracing are lost" in caplog.text


def test_the_traces_id_is_the_runs(traced):
    with self_tracing(settings_of(traced.url), run_id=RUN_ID), span("work"), leaf("part"):
        pass

    [work, part] = own(traced)
    assert work.trace_id == part.trace_id == RUN_ID.replace("-", "")
    assert part.parent_span_id == work.span_id


def test_other_errors_than_ours_are_told_by_their_class_alone(traced):
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
        raise ServiceUnavailable("Away.")

    first, second = own(traced)
    assert (first.attributes["error.type"], first.status_message) == ("ValueError", "")
    assert second.status_message == "Away."


def test_a_generator_that_is_left_halfway_disturbs_nothing(traced):
    def pages():
        with leaf("window"):
            yield 1
            yield 2

    with self_tracing(settings_of(traced.url), run_id=RUN_ID):
        with span("day"):
            left = pages()
            next(left)
        with span("next day"):
            left.close()
            with span("inside"):
                pass

    spans = {one.name: one for one in own(traced)}
    assert spans["window"].parent_span_id == spans["day"].span_id
    assert spans["inside"].parent_span_id == spans["next day"].span_id
    assert spans["window"].status_code == 0


def test_switched_on_without_an_endpoint_it_says_what_is_missing():
    with pytest.raises(ConfigError, match=r"Set OTEL_EXPORTER_OTLP_ENDPOINT, or switch it off"):
        self_tracing(Settings.of(**ON), run_id=RUN_ID)


def test_a_pause_before_a_repetition_is_told(tmp_path, instance, clock):
    with stage(tmp_path, otlp=True, clock=clock, **ON) as scene:
        scene.sandbox.faults.inject("buildkite", "status", status=503)
        list(materialize_days(scene.services, scene.days, instance=instance))
        spans = own(scene)

    [extraction] = named(spans, "raw_builds of a day")
    [pause] = named(spans, "pause before retry")
    assert pause.parent_span_id == extraction.span_id
    asked = [one.attributes["http.response.status_code"] for one in named(spans, "GET")]
    assert asked[:2] == [503, 200]

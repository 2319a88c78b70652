"""The destinations that settings configure."""

from __future__ import annotations

import json

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.deliver.otlp.shape import body_of
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings
from bk_pipeline_tests.deliver.tables import payload, table

TEMPLATE = {"BK_PIPELINE_SPANS_SERVICE_NAME": "ci-{pipeline}"}
KEY = {"HONEYCOMB_API_KEY": "hcaik_" + "a" * 58}
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
TEMPO = {"BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.2:4318"}
EU = {
    "BK_PIPELINE_EU_HONEYCOMB_API_KEY": "hcbik_" + "b" * 58,
    "BK_PIPELINE_EU_HONEYCOMB_API_ENDPOINT": "http://127.0.0.3",
}


def assets(**variables: str) -> list[str]:
    return [one.asset for one in destinations(Settings.of(**variables))]


def test_every_configured_kind_is_a_destination():
    assert assets() == []
    assert assets(**KEY) == ["honeycomb_events"]
    assert assets(**ENDPOINT) == ["otlp_traces", "otlp_metrics"]
    assert assets(**KEY, **ENDPOINT) == ["honeycomb_events", "otlp_traces", "otlp_metrics"]


def test_signal_without_endpoint_or_otlp_exporter_is_no_destination():
    traces = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}
    metrics = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4318/v1/metrics"}
    assert assets(**traces) == ["otlp_traces"]
    assert assets(**metrics) == ["otlp_metrics"]
    assert assets(**ENDPOINT, OTEL_METRICS_EXPORTER="none") == ["otlp_traces"]
    assert assets(**ENDPOINT, OTEL_TRACES_EXPORTER="none") == ["otlp_metrics"]
    assert assets(**ENDPOINT, OTEL_METRICS_EXPORTER="console,otlp") == [
        "otlp_traces",
        "otlp_metrics",
    ]


def test_named_destinations_have_their_own_variables_and_assets():
    names = assets(
        **KEY, **EU, **TEMPO, BK_PIPELINE_DESTINATIONS="honeycomb,honeycomb:eu,otlp:tempo"
    )
    assert names == ["honeycomb_events", "honeycomb_events_eu", "otlp_traces_tempo"]
    assert assets(**TEMPO, BK_PIPELINE_DESTINATIONS="otlp_metrics:tempo") == ["otlp_metrics_tempo"]


def test_kind_that_is_not_listed_is_no_destination():
    assert assets(**KEY, **ENDPOINT, BK_PIPELINE_DESTINATIONS="otlp") == ["otlp_traces"]


def test_named_destination_inherits_neither_key_nor_endpoint():
    with pytest.raises(
        ConfigError,
        match="names honeycomb:eu, but BK_PIPELINE_EU_HONEYCOMB_API_KEY is not set",
    ):
        assets(**KEY, BK_PIPELINE_DESTINATIONS="honeycomb:eu")
    with pytest.raises(
        ConfigError,
        match="names otlp:x, but BK_PIPELINE_X_OTEL_EXPORTER_OTLP_ENDPOINT is not set",
    ):
        assets(**ENDPOINT, BK_PIPELINE_DESTINATIONS="otlp:x")


def test_each_destination_has_its_own_ledger_name():
    chosen = destinations(
        Settings.of(**ENDPOINT, **TEMPO, BK_PIPELINE_DESTINATIONS="otlp otlp:tempo")
    )
    names = [one.open(SystemClock()).name for one in chosen]
    assert names == ["otlp:127.0.0.1:4318/v1/traces", "otlp:127.0.0.2:4318/v1/traces"]


def test_destinations_at_the_same_url_need_an_account():
    same = {
        **ENDPOINT,
        "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "BK_PIPELINE_DESTINATIONS": "otlp,otlp:tempo",
    }
    with pytest.raises(
        ConfigError, match=r"names otlp and otlp:tempo, .* Set BK_PIPELINE_TEMPO_OTLP_ACCOUNT"
    ):
        assets(**same)

    chosen = destinations(Settings.of(**same, BK_PIPELINE_TEMPO_OTLP_ACCOUNT="team-b"))

    names = [one.open(SystemClock()).name for one in chosen]
    assert names == ["otlp:127.0.0.1:4318/v1/traces", "otlp:127.0.0.1:4318/v1/traces#team-b"]


def service_names(destination: str, **variables: str) -> set[str]:
    """Return the service names of a build of the pipeline `web` at a destination."""
    chosen = {one.asset: one for one in destinations(Settings.of(**variables))}
    items = chosen[destination].open(SystemClock()).encode(SpanRows.from_table(table(payload(1))))
    if destination.startswith("honeycomb"):
        return {json.loads(item.body)["data"]["service.name"] for item in items}
    request = ExportTraceServiceRequest.FromString(body_of(items))
    pairs = [pair for one in request.resource_spans for pair in one.resource.attributes]
    return {pair.value.string_value for pair in pairs if pair.key == "service.name"}


@pytest.mark.parametrize("asset", ["honeycomb_events", "otlp_traces"])
@pytest.mark.parametrize(
    "fixed",
    [
        {},
        {"OTEL_SERVICE_NAME": "fixed"},
        {"HONEYCOMB_SERVICE_NAME": "fixed"},
        {"OTEL_RESOURCE_ATTRIBUTES": "service.name=fixed,team=web"},
        {"HONEYCOMB_DATASET": "fixed"},
    ],
    ids=lambda one: "".join(one) or "none",
)
def test_template_takes_precedence_over_a_fixed_service_name(asset, fixed):
    names = service_names(asset, **KEY, **ENDPOINT, **fixed, **TEMPLATE)
    assert names == {"ci-web"}


def test_named_destination_has_its_own_template_or_service_name():
    both = {
        **TEMPO,
        **EU,
        "BK_PIPELINE_DESTINATIONS": "otlp:tempo,honeycomb:eu",
        **TEMPLATE,
    }
    tempo, eu = "otlp_traces_tempo", "honeycomb_events_eu"
    assert service_names(tempo, **both) == service_names(eu, **both) == {"ci-web"}
    own = {"BK_PIPELINE_TEMPO_SPANS_SERVICE_NAME": "tempo-{pipeline}"}
    assert service_names(tempo, **both, **own) == {"tempo-web"}
    assert service_names(eu, **both, **own) == {"ci-web"}
    for variable, value in (
        ("OTEL_SERVICE_NAME", "tempo"),
        ("HONEYCOMB_SERVICE_NAME", "tempo"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=x, service.name = tempo"),
    ):
        fixed = {f"BK_PIPELINE_TEMPO_{variable}": value}
        assert service_names(tempo, **both, **fixed) == {"tempo"}
        assert service_names(tempo, **both, **fixed, **own) == {"tempo-web"}
        assert service_names(eu, **both, **fixed) == {"ci-web"}
    unrelated = {"BK_PIPELINE_TEMPO_OTEL_RESOURCE_ATTRIBUTES": "my.service.name=x"}
    assert service_names(tempo, **both, **unrelated) == {"ci-web"}


def test_malformed_template_of_a_named_destination_is_an_error_with_its_variable():
    with pytest.raises(
        ConfigError, match=r"^BK_PIPELINE_TEMPO_SPANS_SERVICE_NAME is malformed: give a template"
    ):
        assets(
            **TEMPO,
            BK_PIPELINE_DESTINATIONS="otlp:tempo",
            BK_PIPELINE_TEMPO_SPANS_SERVICE_NAME="{slug}",
        )


def test_error_names_the_prefixed_variable():
    wrong = {**TEMPO, "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}
    with pytest.raises(
        ConfigError, match=r"^BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_TIMEOUT is not a whole number"
    ):
        assets(**wrong, BK_PIPELINE_DESTINATIONS="otlp:tempo")


@pytest.mark.parametrize("entry", ["kafka", "otlp:", "otlp:Big", "otlp:a:b", "HONEYCOMB"])
def test_unknown_entry_is_rejected_with_the_known_kinds(entry):
    with pytest.raises(
        ConfigError, match="BK_PIPELINE_DESTINATIONS is malformed: expected honeycomb"
    ):
        assets(**KEY, BK_PIPELINE_DESTINATIONS=entry)


def test_env_file_and_environment_are_both_read(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318\n")
    both = ["otlp_traces", "otlp_metrics"]
    assert [one.asset for one in destinations(Settings.load())] == both
    monkeypatch.setenv("HONEYCOMB_API_KEY", KEY["HONEYCOMB_API_KEY"])
    assert len(destinations(Settings.load())) == 3

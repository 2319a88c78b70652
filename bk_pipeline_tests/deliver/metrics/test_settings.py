"""The exporter's variables for metrics."""

from __future__ import annotations

import pytest

from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS, Compression
from bk_pipeline.errors import ConfigError


def read(**variables):
    environment = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    return OtlpSettings.from_environment(environment, signal=METRICS)


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"ENDPOINT": "http://h:4318"}, "http://h:4318/v1/metrics"),
        ({"ENDPOINT": "https://h/otlp/"}, "https://h/otlp/v1/metrics"),
        ({"METRICS_ENDPOINT": "http://h:4318/mine"}, "http://h:4318/mine"),
        ({"ENDPOINT": "http://a", "METRICS_ENDPOINT": "http://b/c"}, "http://b/c"),
    ],
)
def test_metrics_use_their_own_or_the_general_endpoint(variables, url):
    assert read(**variables).url == url


def test_traces_endpoint_is_not_used_for_metrics():
    assert read(TRACES_ENDPOINT="http://h:4318/v1/traces") is None


def test_metrics_variables_take_precedence_over_general_ones():
    found = read(
        ENDPOINT="http://h",
        HEADERS="a=1",
        METRICS_HEADERS="b=2",
        TRACES_HEADERS="c=3",
        TIMEOUT="20000",
        METRICS_TIMEOUT="5000",
        METRICS_COMPRESSION="gzip",
    )

    assert found.headers == {"b": "2"}
    assert found.timeouts.total_s == 5.0
    assert found.compression is Compression.GZIP
    assert found.headers_variable == "OTEL_EXPORTER_OTLP_METRICS_HEADERS"


@pytest.mark.parametrize("value", ["", "delta", "Delta", "lowmemory"])
def test_delta_temporality_is_accepted(value):
    assert read(ENDPOINT="http://h", METRICS_TEMPORALITY_PREFERENCE=value) is not None


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("METRICS_TEMPORALITY_PREFERENCE", "cumulative", "running totals.*Set it to delta"),
        (
            "METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "explicit_bucket_histogram",
            "Set it to base2_exponential_bucket_histogram",
        ),
        ("METRICS_PROTOCOL", "http/json", "Every receiver of http/json takes http/protobuf too"),
        ("METRICS_TIMEOUT", "10", "Give 10000 for 10 seconds"),
    ],
)
def test_unsupported_metrics_setting_is_rejected_with_the_variable(variable, value, message):
    with pytest.raises(ConfigError, match=f"OTEL_EXPORTER_OTLP_{variable}.*{message}"):
        read(ENDPOINT="http://h", **{variable: value})


def test_metrics_variables_do_not_affect_traces():
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
    }

    assert OtlpSettings.from_environment(environment) is not None

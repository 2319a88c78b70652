"""The settings of an OTLP endpoint from environment variables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS, TRACES, UNSUPPORTED, Compression
from bk_pipeline.errors import ConfigError
from bk_pipeline.http.network import Timeouts
from bk_pipeline.settings import Settings

ENDPOINT = "http://collector:4318"


def read(**variables):
    """Read settings; `TRACES_X` and `X` are exporter variables, `OTEL_X` is used as it is."""
    environment = {
        name if name.startswith(("OTEL_", "BK_")) else f"OTEL_EXPORTER_OTLP_{name}": value
        for name, value in variables.items()
    }
    return OtlpSettings.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT} | environment)


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, {"OTEL_EXPORTER_OTLP_HEADERS": "a=b"}],
    ids=str,
)
def test_no_destination_without_an_endpoint(environment):
    assert OtlpSettings.from_environment(environment) is None


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("http://collector:4318/mine", "http://collector:4318/mine/v1/traces"),
        ("http://collector:4318/mine//", "http://collector:4318/mine/v1/traces"),
        ("https://h/otlp?key=k", "https://h/otlp/v1/traces?key=k"),
    ],
)
def test_traces_path_is_appended_to_a_general_endpoint(endpoint, url):
    assert read(ENDPOINT=endpoint).url == url


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
        ("http://collector:4318/mine/", "http://collector:4318/mine/"),
        ("http://collector:4318", "http://collector:4318/"),
    ],
)
def test_traces_endpoint_is_used_unchanged(endpoint, url):
    found = read(TRACES_ENDPOINT=endpoint)

    assert found.url == url
    assert found.endpoint_variable == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4318",
        "localhost",
        "ftp://h/",
        "http://",
        "http://h:port",
        "http://ä",
        "http://h /",
    ],
)
def test_malformed_url_is_rejected(endpoint):
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_ENDPOINT is malformed"):
        read(ENDPOINT=endpoint)


def test_password_in_the_url_is_rejected_and_not_shown():
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        read(ENDPOINT="https://me:s3cret@h")

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "attribute", "general", "special", "expected"),
    [
        ("HEADERS", "headers", "a=1,b=2", "c=3", {"c": "3"}),
        ("TIMEOUT", "timeouts", "20000", "5000", Timeouts(5.0, 5.0, 5.0)),
        ("COMPRESSION", "compression", "none", "gzip", Compression.GZIP),
    ],
)
def test_traces_variables_take_precedence_over_general_ones(
    option, attribute, general, special, expected
):
    both = {option: general, f"TRACES_{option}": special}
    empty = {option: special, f"TRACES_{option}": ""}

    assert getattr(read(**both), attribute) == expected
    assert getattr(read(**empty), attribute) == expected


def test_defaults_are_ten_seconds_and_no_compression():
    found = read()

    assert found.timeouts == Timeouts(10.0, 10.0, 10.0)
    assert found.compression is Compression.NONE
    assert found == OtlpSettings(url=f"{ENDPOINT}/v1/traces")


def test_timeout_is_in_milliseconds_and_zero_is_very_long():
    assert read(TIMEOUT="30000").timeouts == Timeouts(10.0, 30.0, 30.0)
    assert read(TIMEOUT="0").timeouts.total_s >= 3_600


@pytest.mark.parametrize("value", ["10", "1", "99"])
def test_timeout_meant_in_seconds_is_rejected_with_the_right_value(value):
    with pytest.raises(ConfigError, match=f"OTLP_TIMEOUT is {value}.*millisecond.*{value}000 for"):
        read(TIMEOUT=value)


@pytest.mark.parametrize("value", ["2.5", "-1", "ten", "1e4", "\u0661"])
def test_timeout_that_is_not_a_whole_number_is_rejected(value):
    with pytest.raises(ConfigError, match="OTLP_TRACES_TIMEOUT is not a whole number"):
        read(TRACES_TIMEOUT=value)


@pytest.mark.parametrize("value", ["deflate", "zstd", "true"])
def test_compression_other_than_gzip_is_rejected(value):
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_COMPRESSION.*gzip or none"):
        read(COMPRESSION=value)


@pytest.mark.parametrize("value", ["http/json", "HTTP", "thrift"])
def test_protocol_other_than_protobuf_is_rejected(value):
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL.*http/protobuf"):
        read(TRACES_PROTOCOL=value, PROTOCOL="http/protobuf")


def test_values_are_case_insensitive():
    assert read(COMPRESSION="GZIP", PROTOCOL="HTTP/protobuf").compression is Compression.GZIP


def test_certificates_are_files(pair, tmp_path):
    certificate, key = pair
    both = tmp_path / "both.pem"
    both.write_text(Path(certificate).read_text() + Path(key).read_text())

    found = read(CERTIFICATE=certificate, CLIENT_CERTIFICATE=certificate, CLIENT_KEY=key)

    assert found.ca_file == certificate
    assert found.client_cert == pair
    assert read(CLIENT_CERTIFICATE=str(both)).client_cert == (str(both), str(both))


def test_files_without_a_certificate_are_rejected(pair):
    certificate, key = pair

    with pytest.raises(ConfigError, match=r"OTLP_CERTIFICATE is not a file of PEM cert"):
        read(CERTIFICATE=key)
    with pytest.raises(ConfigError, match=r"CLIENT_CERTIFICATE and .*CLIENT_KEY are no"):
        read(CLIENT_CERTIFICATE=certificate, CLIENT_KEY=certificate)


@pytest.mark.parametrize("option", ["CERTIFICATE", "TRACES_CLIENT_KEY", "CLIENT_CERTIFICATE"])
def test_missing_certificate_file_is_named(option, tmp_path):
    with pytest.raises(
        ConfigError, match=f"OTEL_EXPORTER_OTLP_{option} is not the path of an existing file"
    ):
        read(**{option: str(tmp_path / "none.pem")})


def test_key_without_a_certificate_is_rejected(tmp_path):
    (tmp_path / "key.pem").touch()

    with pytest.raises(ConfigError, match="CLIENT_KEY is set without a certificate"):
        read(CLIENT_KEY=str(tmp_path / "key.pem"))


@pytest.mark.parametrize(
    ("service", "attributes", "resource"),
    [
        ("", "", {"service.name": "buildkite"}),
        ("ci", "", {"service.name": "ci"}),
        ("", "a=b,service.name=env", {"service.name": "env", "a": "b"}),
        ("ci", "service.name=env,a=b", {"service.name": "ci", "a": "b"}),
        ("", "service.name=", {"service.name": "buildkite"}),
    ],
)
def test_service_name_takes_precedence_over_attributes_and_default(service, attributes, resource):
    found = read(OTEL_SERVICE_NAME=service, OTEL_RESOURCE_ATTRIBUTES=attributes).resource

    assert found == resource
    assert next(iter(found)) == "service.name"


@pytest.mark.parametrize("word", ["two words", "a#b", "line\nbreak"])
def test_account_is_a_single_word(word):
    assert read(BK_PIPELINE_OTLP_ACCOUNT="team-a").name.endswith("#team-a")
    with pytest.raises(ConfigError, match="BK_PIPELINE_OTLP_ACCOUNT"):
        read(BK_PIPELINE_OTLP_ACCOUNT=word)


def test_error_names_the_variable_as_users_set_it():
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}
    prefix = "BK_PIPELINE_TEMPO_"

    found = OtlpSettings.from_environment(environment, shown_prefix=prefix)

    assert found.url == f"{ENDPOINT}/v1/traces"
    assert found.endpoint_variable == f"{prefix}OTEL_EXPORTER_OTLP_ENDPOINT"
    assert found.headers_variable == f"{prefix}OTEL_EXPORTER_OTLP_HEADERS"
    with pytest.raises(ConfigError, match=f"{prefix}OTEL_EXPORTER_OTLP_TIMEOUT"):
        OtlpSettings.from_environment(
            environment | {"OTEL_EXPORTER_OTLP_TIMEOUT": "x"}, shown_prefix=prefix
        )


def test_repr_shows_no_secret():
    found = read(HEADERS="x-key=s3cret", ENDPOINT="https://h/otlp?key=s3cret2")

    destination = Otlp(found, clock=SystemClock())
    shown = [repr(found), str(found), found.name, found.place, repr(destination), destination.name]
    assert not [one for one in shown if "s3cret" in one]


def test_settings_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().url = "http://elsewhere"


@pytest.mark.parametrize("variable", UNSUPPORTED)
def test_unsupported_variable_is_rejected_by_name(variable):
    with pytest.raises(ConfigError, match=f"^X_{variable} is not supported: ") as caught:
        OtlpSettings.from_environment(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, variable: "97"}, shown_prefix="X_"
        )
    assert "97" not in str(caught.value)
    assert read(**{variable: "  "}) == read()
    assert OtlpSettings.from_environment({variable: "97"}) is None


@pytest.mark.parametrize("sampler", ["always_on", "parentbased_always_on", "Always_On"])
def test_sampler_that_keeps_everything_is_accepted(sampler):
    assert read(OTEL_TRACES_SAMPLER=sampler) == read()


@pytest.mark.parametrize(("value", "off"), [("true", True), ("TRUE", True), ("false", False)])
def test_disabled_sdk_sends_nothing_and_is_reported(monkeypatch, value, off):
    assert (read(OTEL_SDK_DISABLED=value) is None) is off
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)
    settings = Settings.load()
    assert len(destinations(settings)) == (0 if off else 2)
    assert [one.startswith("OTEL_SDK_DISABLED is true") for one in settings.warnings] == [
        True
    ] * off
    monkeypatch.setenv("BK_PIPELINE_DESTINATIONS", "otlp:tempo")
    monkeypatch.setenv("BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)
    if off:
        with pytest.raises(ConfigError, match="OTEL_SDK_DISABLED switches it off"):
            destinations(Settings.load())
    else:
        assert len(destinations(Settings.load())) == 1


def test_disabled_sdk_must_be_true_or_false():
    with pytest.raises(ConfigError, match="OTEL_SDK_DISABLED is malformed: expected true or false"):
        read(OTEL_SDK_DISABLED="1")


# The environment variables of OpenTelemetry's specification ("Environment Variable
# Specification", "OpenTelemetry Protocol Exporter", "Metrics Exporters"), each with a value that
# makes a difference where the variable is honored.
SPECIFIED = {
    "OTEL_SDK_DISABLED": "true",
    "OTEL_SERVICE_NAME": "ci",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod",
    "OTEL_ENTITIES": "service{service.name=ci}",
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_TRACES_SAMPLER": "traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.5",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "100",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "100",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "10",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "10",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "1",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "1",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100",
    "OTEL_BSP_SCHEDULE_DELAY": "1",
    "OTEL_BSP_EXPORT_TIMEOUT": "1",
    "OTEL_BSP_MAX_QUEUE_SIZE": "1",
    "OTEL_BLRP_SCHEDULE_DELAY": "1",
    "OTEL_BLRP_EXPORT_TIMEOUT": "1",
    "OTEL_BLRP_MAX_QUEUE_SIZE": "1",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "1",
    "OTEL_METRIC_EXPORT_INTERVAL": "1",
    "OTEL_METRIC_EXPORT_TIMEOUT": "1",
    "OTEL_METRICS_EXEMPLAR_FILTER": "always_on",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://elsewhere:4318",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-key=abc",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "20000",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "no file",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "no file",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": "no file",
    "OTEL_EXPORTER_OTLP_INSECURE": "true",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit_bucket_histogram",
    "OTEL_EXPORTER_PROMETHEUS_HOST": "localhost",
    "OTEL_EXPORTER_PROMETHEUS_PORT": "1",
    "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "http://elsewhere",
    "OTEL_EXPORTER_ZIPKIN_TIMEOUT": "1",
    "OTEL_PROPAGATORS": "b3",
    "OTEL_LOG_LEVEL": "debug",
    "OTEL_CONFIG_FILE": "otel.yaml",
    "OTEL_EXPERIMENTAL_CONFIG_FILE": "otel.yaml",
}


def documented_variables() -> dict[str, str]:
    """What docs/backends.md says of each variable."""
    page = (Path(__file__).parents[3] / "docs" / "backends.md").read_text().splitlines()
    rows = [row.split(" | ") for row in page if row.startswith("| `OTEL_")]
    return {row[0].strip("| `"): row[1] for row in rows if "=" not in row[0]}


def effect_of(variable: str, value: str) -> str:
    """What the variable does to the settings of either signal."""
    plain = {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}
    effects = set()
    for signal in (TRACES, METRICS):
        try:
            found = OtlpSettings.from_environment(plain | {variable: value}, signal=signal)
        except ConfigError as exc:
            unsupported = str(exc).startswith(f"{variable} is not supported")
            effects.add("refused" if unsupported else "honored")
        else:
            same = found == OtlpSettings.from_environment(plain, signal=signal)
            effects.add("no effect" if same else "honored")
    return max(effects, key=("no effect", "honored", "refused").index)


def test_every_variable_of_the_specification_does_what_the_documentation_says():
    documented = documented_variables()
    assert documented.keys() == SPECIFIED.keys()
    assert {name: effect_of(name, value) for name, value in SPECIFIED.items()} == documented

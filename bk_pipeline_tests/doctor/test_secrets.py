"""A secret that was typed into any variable, well-formed or not, is in nothing that is told."""

from __future__ import annotations

import os
import random
import string
import traceback
from pathlib import Path

import pytest

from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.errors import PipelineError
from bk_pipeline.settings import ALIASES, Settings
from bk_pipeline_tests.doctor.conftest import checkup

# Variables that take a secret; into all others one can only get by mistake, and as what it is.
TAKE_SECRETS = (
    "BUILDKITE_API_TOKEN",
    "HONEYCOMB_API_KEY",
    "HONEYCOMB_CONFIGURATION_KEY",
    "BK_PIPELINE_LEDGER_URL",
    "BK_PIPELINE_SPANS_MASK",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_RESOURCE_ATTRIBUTES",
    "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_HEADERS",
    "HTTPS_PROXY",
    "http_proxy",
    "ALL_PROXY",
)
OTHERS = sorted(
    {
        *ALIASES,
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "OTEL_SERVICE_NAME",
        "OTEL_TRACES_EXPORTER",
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_SAMPLER",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT",
        "BK_PIPELINE_TEMPO_OTLP_ACCOUNT",
        "BK_PIPELINE_TEMPO_NONSENSE",
        "BK_PIPELINE_NONSENSE",
        "NO_PROXY",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR",
        "DAGSTER_HOME",
    }
    - set(TAKE_SECRETS)
)
FORMS = (
    "{}",
    '"{}"',
    "'{}",
    "{}=",
    "={}",
    "{}==",
    "a=1,{}",
    "{},{}",
    "k={}",
    "k={};x",
    "{}=k;",
    "x y={}",
    "k={}%FF",
    "http://u:{}@127.0.0.1:1",
    "https://{}@127.0.0.1:1",
    "http://127.0.0.1:1/{}",
    "http://127.0.0.1:1/x?key={}",
    "http://{}:x",
    "http://{}:1",
    "{}://127.0.0.1:1",
    "postgresql://u:{}@127.0.0.1:1/d",
    "postgresql://u:{}@127.0.0.1:x/d",
    "postgresql://127.0.0.1:1/d?password={}",
    "postgresql://127.0.0.1:1/d?sslmode={}",
    "mysql://u:{}@h/d",
    "{}\n{}",
    "{}\udcff",
    "(?P<{}>",
    "(?P={})",
    "s3://{}:x@b/p",
    "otlp:{}",
    "honeycomb,{}:{}",
    "{} x",
    "/none/{}/x",
    "1{}",
)
BASE = {
    "BUILDKITE_API_TOKEN": "bkua_1",
    "BUILDKITE_ORGANIZATION_SLUG": "acme",
    "BUILDKITE_API_URL": "http://127.0.0.1:1",
    "HONEYCOMB_API_ENDPOINT": "http://127.0.0.1:1",
    "HONEYCOMB_API_KEY": "key",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1/tempo",
    "BK_PIPELINE_DESTINATIONS": "honeycomb,otlp,otlp_metrics,otlp:tempo",
    "BK_PIPELINE_LEDGER_URL": "sqlite:///ledger.sqlite",
}


def a_secret(name, form):
    """As it is issued where it belongs, without anything that gives it away; else a token."""
    chance = random.Random(f"{name} {form!r}")  # the same one each time
    letters = "".join(chance.choices(string.ascii_letters + string.digits, k=32))
    return f"Zq{letters}" if name in TAKE_SECRETS else f"bkua_{letters}"


def all_told():
    """What each way of reading the variables says: errors with their causes, findings, reprs."""
    ways = (
        lambda: repr(Settings.load()),
        lambda: "\n".join(Settings.load().warnings),
        lambda: repr([one.open(None) for one in destinations(Settings.load())]),
        lambda: repr([one.open(None).name for one in destinations(Settings.load())[1:]]),
        lambda: repr(OtlpSettings.from_environment(dict(Settings.load().environment))),
        lambda: repr(OtlpSettings.from_environment(os.environ)),
    )
    failed = False
    for way in ways:
        try:
            yield way()
        except PipelineError as exc:
            failed = True
            yield "".join(traceback.format_exception(exc, limit=0))
    if not failed:  # else it says the same
        yield repr(checkup(days=1))


@pytest.mark.parametrize("name", [*TAKE_SECRETS, *OTHERS])
def test_secret_in_a_variable_is_never_printed(monkeypatch, caplog, name):
    for variable, value in BASE.items():
        monkeypatch.setenv(variable, value)
    for form in FORMS:
        secret = a_secret(name, form)
        monkeypatch.setenv(name, form.replace("{}", secret))
        told = "\n".join([*all_told(), caplog.text])
        # Of a glob, a header or a key, a part would do.
        assert secret[-20:].lower() not in told.lower(), form


@pytest.mark.parametrize("form", FORMS[:12], ids=repr)
def test_secret_in_the_env_file_is_never_printed(form):
    secret = a_secret("BUILDKITE_API_TOKEN", form)
    written = form.replace("{}", secret)
    for line in (f"BUILDKITE_API_TOKEN={written}", f"BUILDKITE_API_TOKEN {written}", written):
        Path(".env").write_text(f"{line}\n")
        assert secret not in "\n".join(all_told())

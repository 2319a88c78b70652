"""Proxies and CA bundles, exported or in `.env`, for every service that is called."""

from __future__ import annotations

import os
import ssl
import traceback
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.environment import CA_BUNDLES
from bk_pipeline.errors import ConfigError, PipelineError
from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.http.network import Network
from bk_pipeline.settings import Settings
from bk_pipeline_tests.http.scripted import scripted_server

FAR = "http://service.example.com"
CREDENTIALS = {
    "BUILDKITE_API_TOKEN": "bkua_1",
    "BUILDKITE_ORGANIZATION_SLUG": "acme",
    "HONEYCOMB_API_KEY": "key",
    "HONEYCOMB_CONFIGURATION_KEY": "key",
    "BK_PIPELINE_DESTINATIONS": "honeycomb,otlp,otlp_metrics,otlp:tempo",
    "BK_PIPELINE_HTTP_DEADLINE_S": "0",
}


def variables(url):
    """Settings with `url` as the address of all services."""
    names = (
        "BUILDKITE_API_URL",
        "HONEYCOMB_API_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    )
    return {**CREDENTIALS, **dict.fromkeys(names, url)}


def write_env(**lines):
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))


def call_all(clock):
    """Call each service with the settings of `.env`. By name: the error, or None."""
    settings = Settings.load()
    client = BuildkiteClient.from_settings(settings, clock=clock)
    markers = MarkerClient.from_settings(settings, clock=clock)
    opened = [one.open(clock) for one in destinations(settings)]
    calls = {
        "buildkite": client.access_token,
        "markers": lambda: markers.list_markers("ci"),
        "honeycomb": opened[0].describe,
        **{f"otlp {n}": lambda one=one: one.send([]) for n, one in enumerate(opened[1:], start=1)},
    }
    found = {}
    with closing(client):
        for name, call in calls.items():
            try:
                call()
                found[name] = None
            except PipelineError as exc:
                found[name] = exc
    for one in opened:
        one.close()
    return found


@contextmanager
def tls_server(pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    with scripted_server() as server:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        yield server


SERVICES = ["buildkite", "markers", "honeycomb", "otlp 1", "otlp 2", "otlp 3"]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
def test_proxy_in_the_env_file_is_used_by_every_service(clock, name):
    with scripted_server() as proxy:
        write_env(**variables(FAR), **{name: proxy.url})
        assert list(call_all(clock)) == SERVICES
        assert [one.path.startswith(FAR) for one in proxy.requests] == [True] * len(SERVICES)


def test_host_in_no_proxy_is_reached_directly(clock):
    with scripted_server() as proxy:
        write_env(**variables("http://none.invalid"), HTTP_PROXY=proxy.url, NO_PROXY=".invalid")
        assert all(isinstance(one, PipelineError) for one in call_all(clock).values())
        assert proxy.requests == []


@pytest.mark.parametrize("exported", ["HTTP_PROXY", "http_proxy"])
def test_exported_proxy_takes_precedence_in_either_case(clock, monkeypatch, exported):
    with scripted_server() as proxy, scripted_server() as other:
        write_env(**variables(FAR), http_proxy=other.url, HTTP_PROXY=other.url)
        monkeypatch.setenv(exported, proxy.url)
        call_all(clock)
        assert (len(proxy.requests), len(other.requests)) == (len(SERVICES), 0)
        monkeypatch.setenv(exported, "")  # like ${HTTP_PROXY:-} in a Compose file
        call_all(clock)
        assert len(other.requests) == len(SERVICES)


@pytest.mark.parametrize("name", CA_BUNDLES[:3])
@pytest.mark.parametrize("exported", [True, False], ids=["exported", "in the file"])
def test_private_ca_is_trusted_by_every_service(*, clock, pair, monkeypatch, name, exported):
    with tls_server(pair) as server:
        address = variables(server.url.replace("http:", "https:"))
        write_env(**address)
        without = call_all(clock)
        assert {type(one).__name__ for one in without.values()} == {"FatalError"}
        assert all("cannot be verified" in str(one) for one in without.values())
        assert server.requests == []
        if exported:
            monkeypatch.setenv(name, pair[0])
        else:
            write_env(**address, **{name: pair[0]})
        call_all(clock)
        assert len(server.requests) == len(SERVICES)


@pytest.mark.parametrize("name", CA_BUNDLES)
def test_missing_ca_bundle_is_an_error_with_its_variable(clock, name):
    write_env(**variables(FAR), **{name: "none.pem"})
    with pytest.raises(ConfigError, match=f"^{name} is not the path of a file"):
        call_all(clock)


def test_environment_of_the_process_is_not_modified(clock, pair, monkeypatch):
    monkeypatch.setenv("LEFT", "alone")
    with scripted_server() as proxy:
        write_env(**variables(FAR), HTTP_PROXY=proxy.url, REQUESTS_CA_BUNDLE=pair[0])
        before = dict(os.environ)
        call_all(clock)
        assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("entry", "host", "direct"),
    [
        ("*", "api.buildkite.com", True),
        ("buildkite.com", "api.buildkite.com", True),
        (".buildkite.com", "api.buildkite.com", True),
        ("*.buildkite.com", "api.buildkite.com", True),
        ("API.BUILDKITE.COM", "api.buildkite.com", True),
        ("api.buildkite.com:443", "api.buildkite.com", True),
        ("api.buildkite.com:8443", "api.buildkite.com", False),
        ("kite.com", "api.buildkite.com", False),
        ("example.com, buildkite.com", "api.buildkite.com", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("fd00::/8", "fd00::1", True),
        ("", "api.buildkite.com", False),
        (",", "api.buildkite.com", False),
    ],
)
def test_no_proxy_is_matched_like_curl_and_requests(entry, host, direct):
    network = Network.of({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": entry})
    assert (network.proxy_for("https", host, 443) is None) is direct


def test_loopback_uses_no_proxy_and_each_scheme_has_its_own():
    network = Network.of({"HTTPS_PROXY": "http://s3cret:s3cret@p", "all_proxy": "http://all"})
    assert network.proxy_for("https", "localhost", 443) is None
    assert network.proxy_for("http", "127.0.0.2", 80) is None
    assert network.proxy_for("https", "a.b", 443) == "http://s3cret:s3cret@p"
    assert network.proxy_for("http", "a.b", 80) == "http://all"
    assert "s3cret" not in repr(network)


def test_proxy_password_appears_in_no_error(clock):
    write_env(**variables(FAR), HTTP_PROXY="http://me:s3cret@127.0.0.1:1")
    shown = [traceback.format_exception(exc) for exc in call_all(clock).values()]
    assert len(shown) == len(SERVICES)
    assert "s3cret" not in str(shown)

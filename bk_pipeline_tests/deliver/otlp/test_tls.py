"""TLS: the server's certificate is verified with our bundle, and the client sends its own."""

from __future__ import annotations

import ssl
from contextlib import contextmanager

import pytest

from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.errors import FatalError
from bk_pipeline_tests.deliver.tables import span_count, tables
from bk_pipeline_tests.http.scripted import Answer, scripted_server


@contextmanager
def tls_server(certificate, key):
    """A server that requires the same certificate from its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with scripted_server() as server:
        server.otherwise = Answer(200, b"", {"Content-Type": "application/x-protobuf"})
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        yield server


def environment(server, **variables):
    endpoint = server.url.replace("http:", "https:")
    return {f"OTEL_EXPORTER_OTLP_{n}": v for n, v in variables.items()} | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint
    }


def test_server_and_client_certificates_are_verified(pair, send, clock):
    certificate, key = pair
    with tls_server(certificate, key) as server:
        settings = OtlpSettings.from_environment(
            environment(
                server, CERTIFICATE=certificate, CLIENT_CERTIFICATE=certificate, CLIENT_KEY=key
            )
        )
        destination = Otlp(settings, clock=clock)

        delivery = send(tables(1), destination=destination)
        destination.close()

    assert delivery.accepted == span_count(tables(1))


def test_untrusted_server_certificate_is_rejected(pair, send, clock):
    certificate, key = pair
    with tls_server(certificate, key) as server:
        destination = Otlp(OtlpSettings.from_environment(environment(server)), clock=clock)

        with pytest.raises(FatalError, match=r"cannot be verified.*OTEL_EXPORTER_OTLP_CERT"):
            send(tables(1), destination=destination)
        destination.close()

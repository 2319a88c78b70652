"""Fixtures for all tests: a clean environment, loopback sockets only, and a fake clock."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from bk_pipeline.environment import NETWORK
from bk_pipeline_tests.programs import missing

LOOPBACK = ("127.", "::1", "localhost")
OURS = ("BUILDKITE_", "HONEYCOMB_", "BK_PIPELINE_", "OTEL_", "DAGSTER_")


class FakeClock:
    """A clock that only moves when it is slept on; records the sleeps in seconds."""

    def __init__(self, start: datetime | None = None) -> None:
        self.moment = start or datetime(2026, 11, 20, 12, tzinfo=UTC)
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """Remove the settings of the developer's shell, and run in an empty directory."""
    for name in list(os.environ):
        if name.startswith(OURS) or name in NETWORK:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Fail a test that connects to another machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"a test tried to connect to {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def self_signed(certificate, key, name):
    """Write a certificate for `name`, such as `IP:127.0.0.1`, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl", "openssl")
    request = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=self "
        f"-addext subjectAltName={name}"
    )
    command = [openssl, *request.split(), "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def pair(tmp_path):
    """A self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    self_signed(certificate, key, "IP:127.0.0.1")
    return str(certificate), str(key)

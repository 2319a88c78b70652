"""One served sandbox for a module's tests, and a certificate of our own."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.programs import missing


@pytest.fixture(scope="module")
def served():
    sandbox = Sandbox(World(days=0))
    with running(sandbox) as url:
        yield sandbox, url


@pytest.fixture
def sandbox(served):
    sandbox, _ = served
    sandbox.faults.clear()
    sandbox.otlp.reset()
    return sandbox


@pytest.fixture
def url(served):
    return served[1]


@pytest.fixture
def pair(tmp_path):
    """A certificate of loopback's, signed by itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl", "openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=self "
        "-addext subjectAltName=IP:127.0.0.1"
    )
    command = [openssl, *request.split(), "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return str(certificate), str(key)

"""Starting and stopping the sandbox server, and what it imports."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

import bk_pipeline.sandbox
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World

SERVE = """
from bk_pipeline.sandbox.server import Sandbox, serve
from bk_pipeline.sandbox.world import World
serve(Sandbox(World(days=0)), "127.0.0.1", 0, lambda url: print(url, flush=True))
print("stopped")
"""
PACKAGE = Path(bk_pipeline.sandbox.__file__).parent


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_signal_stops_the_server_and_serve_returns(number):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parents[1])},
    )
    url = process.stdout.readline().strip()
    assert "stand-in" in requests.get(url, timeout=10).text
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("stopped\n", "", 0)


def test_port_is_released_after_running():
    sandbox = Sandbox(World())
    with running(sandbox) as url:
        port = int(url.rpartition(":")[2])
    with running(sandbox, port=port) as again:
        assert again == url
        assert requests.get(again, timeout=10).status_code == 200


def test_port_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"), running(Sandbox(World()), port=port):
            pass


def test_exception_inside_the_context_stops_the_server():
    with pytest.raises(KeyError), running(Sandbox(World())) as url:
        raise KeyError
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)


def test_sandbox_imports_nothing_from_the_rest_of_the_package():
    """A stand-in that shares the clients' code would share their mistakes."""
    libraries = {"google", "msgspec", "opentelemetry", "starlette", "uvicorn", "zstandard"}
    allowed = {*libraries, *sys.stdlib_module_names}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module]
            for name in names:
                is_sandbox = name.startswith("bk_pipeline.sandbox.")
                assert is_sandbox or name.partition(".")[0] in allowed, f"{path.name}: {name}"

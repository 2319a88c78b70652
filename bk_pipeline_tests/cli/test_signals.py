from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

from bk_pipeline import clock
from bk_pipeline.app import App
from bk_pipeline.cli.demo import environment
from bk_pipeline.clock import SystemClock
from bk_pipeline.defs import runs
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.settings import Settings
from bk_pipeline_tests.cli.program import run, started, wait_until
from bk_pipeline_tests.ledger.cluster import fresh_schema
from bk_pipeline_tests.worlds import recent_world

READY = {"BUILDKITE_API_TOKEN": "bkua_" + "0123456789" * 4, "BUILDKITE_ORGANIZATION_SLUG": "acme"}
# A process that does not react takes a minute or never ends. The margin is for a loaded machine.
IN_TIME_S = 20
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}

TRICKLED = {
    "silent": b"",
    "status line": b"HTTP/1.1 200 OK",
    "headers": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Padding: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n[",
    "gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n\x1f\x8b\x08",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\n",
}
DRIP = {"chunks": b"1\r\n[\r\n", "interim answers": b"HTTP/1.1 100 Continue\r\n\r\n", "silent": b""}


@contextmanager
def trickling(kind: str):
    """Run a server that begins a response and then sends a byte at a time forever."""
    ended, connected = threading.Event(), threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            connected.set()
            try:
                connection.sendall(TRICKLED[kind])
                while not ended.wait(0.1):
                    connection.sendall(DRIP.get(kind, b"x"))
            except OSError:
                return

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", connected
        finally:
            ended.set()


def stopped(process, number) -> tuple[str, str]:
    """Send the signal; return the output after checking the time and the exit status."""
    process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < IN_TIME_S
    assert process.returncode == STATUS[number], err
    assert "Traceback" not in err
    return out, err


@pytest.mark.parametrize("kind", TRICKLED)
def test_signal_ends_a_request_to_an_unresponsive_server(tmp_path, kind):
    with (
        trickling(kind) as (place, connected),
        started("doctor", cwd=tmp_path, **READY, BUILDKITE_API_URL=f"http://{place}") as process,
    ):
        assert connected.wait(120)
        _, err = stopped(process, signal.SIGINT)
    assert "stopped by SIGINT" in err


def test_signal_ends_a_hanging_tls_handshake(tmp_path):
    with (
        trickling("silent") as (place, connected),
        started(
            "trace", "web#1", "--fetch", cwd=tmp_path, **READY, BUILDKITE_API_URL=f"https://{place}"
        ) as process,
    ):
        assert connected.wait(120)
        stopped(process, signal.SIGTERM)


def test_signal_does_not_wait_for_a_dns_lookup(tmp_path):
    looked_up = tmp_path / "looked-up"
    # A thread in getaddrinfo cannot be interrupted, like one in a long sleep.
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, socket, time\n"
        "def hang(*_, **__):\n"
        f"    pathlib.Path({str(looked_up)!r}).touch()\n"
        "    time.sleep(600)\n"
        "socket.getaddrinfo = hang\n"
    )
    settings = {**READY, "BUILDKITE_API_URL": "http://far.test", "PYTHONPATH": str(tmp_path)}
    with started("doctor", cwd=tmp_path, **settings) as process:
        wait_until(looked_up.exists)
        stopped(process, signal.SIGINT)


@pytest.mark.parametrize("number", STATUS, ids=lambda one: one.name)
def test_signal_during_startup_prints_no_traceback(tmp_path, number):
    with started("demo", cwd=tmp_path) as process:
        status = Path(f"/proc/{process.pid}/status")
        if not status.exists():
            pytest.skip("needs Linux's /proc")

        def handler_is_installed() -> bool:
            caught = next(one for one in status.read_text().splitlines() if "SigCgt" in one)
            return bool(int(caught.split()[1], 16) & 1 << signal.SIGTERM - 1)

        wait_until(handler_is_installed)
        stopped(process, number)


@pytest.mark.parametrize("number", STATUS, ids=lambda one: one.name)
def test_sandbox_exits_with_the_status_of_the_signal(tmp_path, number):
    with started("sandbox", "--port", "0", "--days", "1", cwd=tmp_path) as process:
        assert process.stdout.readline().startswith("export")
        stopped(process, number)


def test_unanswered_batch_is_in_doubt_after_a_signal(tmp_path):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=12))
    first, _ = sandbox.world.first_and_last_day()
    day = ("backfill", "--from", first.isoformat(), "--to", first.isoformat())
    sandbox.faults.inject("honeycomb", "hang", processed=True, path="/1/batch/*", count=9)
    with running(sandbox) as url:
        settings = environment(sandbox, url)
        with started(*day, cwd=tmp_path, **settings) as process:
            wait_until(lambda: sandbox.honeycomb.event_count > 0)
            # The second signal must interrupt neither the cleanup nor the summary.
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            out, err = stopped(process, signal.SIGTERM)
        sent = sandbox.honeycomb.event_count
        assert "0 of 1 day: " in out
        assert "Stopped at" in err
        with Ledger.open(tmp_path / ".bk_pipeline/ledger.sqlite", clock=SystemClock()) as ledger:
            [name] = [one for one in destinations(ledger) if one.startswith("honeycomb:")]
            doubts = ledger.in_doubt(name, first.isoformat())
        assert sum(map(len, doubts.values())) == sent
        sandbox.faults.clear()
        assert run(*day, cwd=tmp_path, **settings).returncode == 0


class Proxy:
    """A TCP proxy that can stop forwarding data without closing its connections."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.silent = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._ends += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while content := near.recv(65_536):
                while self.silent.is_set():
                    time.sleep(0.1)
                far.sendall(content)
            far.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.silent.clear()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize("number", STATUS, ids=lambda one: one.name)
def test_unresponsive_database_delays_neither_exit_nor_counts(tmp_path, number):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=12))
    first, _ = sandbox.world.first_and_last_day()
    day = ("backfill", "--from", first.isoformat(), "--to", first.isoformat())
    with fresh_schema() as url, running(sandbox) as api, ExitStack() as after:
        address = make_url(url)
        proxy = Proxy(address.host, address.port or 5432)
        after.callback(proxy.close)
        through = address.set(host="127.0.0.1", port=proxy.port)
        ledger = {"BK_PIPELINE_LEDGER_URL": through.render_as_string(hide_password=False)}
        # The database stops responding between a batch and the response to it.
        sandbox.faults.inject("honeycomb", "slow", path="/1/batch/*", seconds=3)
        with started(*day, cwd=tmp_path, **environment(sandbox, api), **ledger) as process:
            wait_until(lambda: not sandbox.faults._pending["honeycomb"])
            proxy.silent.set()
            wait_until(lambda: sandbox.honeycomb.event_count > 0)
            time.sleep(1)
            out, err = stopped(process, number)
    assert f"honeycomb_events: {sandbox.honeycomb.event_count:,} accepted" in out
    assert f"stopped by {number.name} during an operation" in err


def destinations(ledger) -> list[str]:
    with ledger._database.read() as connection:
        rows = connection.exec_driver_sql("SELECT name FROM bk_pipeline_destinations")
        return [name for (name,) in rows]


def test_signal_swallowed_by_dagster_stops_before_the_next_day(monkeypatch):
    stop = clock.Stop()
    monkeypatch.setattr(clock, "PROCESS", stop)
    stop.request()
    with pytest.raises(KeyboardInterrupt):
        SystemClock().sleep(60)
    monkeypatch.setattr(runs, "assets_of", lambda *_: [])
    app = App(Settings.of())
    with pytest.raises(KeyboardInterrupt):
        next(runs.materialize_days(app, ["2026-11-01"], instance=None))


LOST_INTERRUPTION = """
import os, signal
from bk_pipeline.cli.signals import stoppable
from bk_pipeline.clock import SystemClock

class Collected:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1_000):  # the handler runs here, and Python drops its exception
            pass

# A test run in the background may have been started with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with stoppable():
    Collected()
    SystemClock().sleep(60)
"""


@pytest.mark.parametrize("number", STATUS, ids=lambda one: one.name)
def test_signal_during_garbage_collection_stops_without_a_traceback(number):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LOST_INTERRUPTION.format(name=number.name)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == STATUS[number]
    assert done.stderr == f"bk-pipeline: stopped by {number.name}.\n"
    assert time.monotonic() - began < IN_TIME_S


INTERRUPTED_TWICE = """
import signal
from bk_pipeline.cli.signals import stoppable

signal.signal(signal.SIGINT, signal.default_int_handler)
with stoppable():
    try:
        signal.raise_signal(signal.{first})
        raise SystemExit("not interrupted")
    finally:
        signal.raise_signal(signal.{second})
        print("summary")
"""


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT")])
def test_second_signal_does_not_interrupt_the_cleanup(first, second):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_TWICE.format(first=first, second=second)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (STATUS[signal.Signals[first]], "summary\n")
    assert done.stderr == f"bk-pipeline: stopped by {first}.\n"

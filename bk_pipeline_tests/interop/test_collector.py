"""The Collector configurations of `examples/collector` work, in a Collector of their release.

`make collector` builds the Collector and runs these tests.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest

from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.destination import ACCEPTED
from bk_pipeline.deliver.metrics.destination import OtlpMetrics
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.selection import Batcher
from bk_pipeline.errors import TokenRefused
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.table import rows
from bk_pipeline_tests.worlds import span_table

pytestmark = pytest.mark.collector

PROGRAM = os.environ.get("BK_PIPELINE_TEST_COLLECTOR", "")
EXAMPLES = Path(__file__).parents[2] / "examples" / "collector"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
SECRETS = {
    "COLLECTOR_TOKEN": "t0ken",
    "COLLECTOR_USER": "ci",
    "COLLECTOR_PASSWORD": "passw0rd",
    "COLLECTOR_KEY": "k3y",
    "PROMETHEUS_URL": "http://127.0.0.1:9",
    "BACKEND_URL": "http://127.0.0.1:9",
}
BASIC = base64.b64encode(b"ci:passw0rd").decode().replace("=", "%3D")
# The header that each configuration wants, as a pair of OTEL_EXPORTER_OTLP_HEADERS.
HEADERS = {
    "bearer-token": "Authorization=Bearer%20t0ken",
    "basic-authentication": f"Authorization=Basic%20{BASIC}",
    "custom-header": "x-ci-key=k3y",
}
PATIENCE_S = 60


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return span_table(seed=7, builds=60)


@pytest.fixture
def backend() -> Iterator[tuple[Sandbox, str]]:
    sandbox = Sandbox(World(days=0))
    with running(sandbox) as url:
        yield sandbox, url


@contextmanager
def collector(name: str, folder: Path, *overrides: str) -> Iterator[str]:
    """Runs a Collector with the configuration `name`; yields its endpoint."""
    port = free_port()
    overrides = (
        listening("http", port),
        "service::telemetry::metrics::level: none",
        *overrides,
    )
    arguments = [f"--config={EXAMPLES / name}.yaml", *(f"--config=yaml:{one}" for one in overrides)]
    with (folder / "collector.log").open("wb") as log, ExitStack() as stack:
        process = subprocess.Popen(
            [PROGRAM, *arguments], env=os.environ | SECRETS, stdout=log, stderr=log
        )
        stack.callback(end, process)
        wait_for(port, process, folder / "collector.log")
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop the Collector, which first sends what it holds."""
    process.terminate()
    process.wait(PATIENCE_S)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    pytest.fail(f"The Collector did not listen within {PATIENCE_S} s:\n{log.read_text()}")


def listening(protocol: str, port: int) -> str:
    """An override that makes the receiver listen there."""
    return f"receivers::otlp::protocols::{protocol}::endpoint: 127.0.0.1:{port}"


def send(
    table: pa.Table, endpoint: str, headers: str = "", *, metrics: bool = False, **variables: str
) -> None:
    """Send all spans, or their metrics, in batches."""
    variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_HEADERS": headers}
    kind = OtlpMetrics if metrics else Otlp
    settings = (
        OtlpSettings.from_environment(variables, signal=METRICS)
        if metrics
        else OtlpSettings.from_environment(variables)
    )
    assert settings is not None
    destination = kind(settings, clock=SystemClock(), retry_policy=RetryPolicy(deadline_s=30))
    with closing(destination):
        batcher = Batcher(destination.limits)
        items = destination.encode(SpanRows.from_table(table))
        for batch in [*batcher.add(items), *batcher.flush()]:
            result = destination.send(batch)
            assert set(result.outcomes) == {ACCEPTED}


@pytest.mark.parametrize("name", NAMES)
def test_configuration_is_valid(name):
    done = subprocess.run(
        [PROGRAM, "validate", f"--config={EXAMPLES / name}.yaml"],
        env=os.environ | SECRETS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", HEADERS)
def test_spans_pass_with_the_right_header_only(name, table, tmp_path):
    with collector(name, tmp_path) as endpoint:
        send(table, endpoint, HEADERS[name])
        send(table, endpoint, HEADERS[name], metrics=True)
        for wrong in ("", HEADERS[name] + "x"):
            with pytest.raises(TokenRefused):
                send(table, endpoint, wrong)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_spans_and_metrics_pass_by_grpc(table, backend, tmp_path, compression):
    sandbox, url = backend
    port = free_port()
    overrides = (listening("grpc", port), *to(url, "traces"), *to(url, "metrics"))
    variables = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
    }
    with collector("bearer-token", tmp_path, *overrides):
        for metrics in (False, True):
            send(table, f"http://127.0.0.1:{port}", metrics=metrics, **variables)
    assert sandbox.otlp.span_count == len(table)
    assert sandbox.otlp.duplicate_count == 0
    builds = [one for one in rows(table) if one["name"] == "buildkite.build"]
    assert sandbox.otlp.metrics.totals["buildkite.builds.count"] == len(builds)


def test_spans_become_metrics(table, tmp_path):
    with collector("signal-to-metrics", tmp_path) as endpoint:
        send(table, endpoint)
    totals: Counter[str] = Counter()
    metric = ""
    for line in (tmp_path / "collector.log").read_text().splitlines():
        if found := re.search(r"-> Name: (\S+)", line):
            metric = found[1]
        elif found := re.fullmatch(r"\s*(?:Value|Count): (\d+)", line):
            totals[metric] += int(found[1])
    builds = [one for one in rows(table) if one["name"] == "buildkite.build"]
    waits = [one for one in rows(table) if "buildkite.job.wait_time_ms" in one["attributes"]]
    assert totals["ci.builds"] == totals["ci.builds.duration"] == len(builds)
    assert totals["ci.jobs.wait_time"] == len(
        [one for one in waits if one["name"] == "buildkite.job"]
    )


def test_deltas_become_running_totals(table, backend, tmp_path):
    sandbox, url = backend
    with collector("delta-to-cumulative", tmp_path, *to(url, "metrics")) as endpoint:
        send(table, endpoint, metrics=True)
    last: dict[tuple[str, ...], int] = defaultdict(int)
    for point in sandbox.otlp.metrics.points:
        assert point.temporality == "cumulative"
        last[point.series] = max(last[point.series], point.count)
    counted: Counter[str] = Counter()
    for (metric, *_), count in last.items():
        counted[metric] += count
    builds = [one for one in rows(table) if one["name"] == "buildkite.build"]
    assert counted["buildkite.builds.count"] == len(builds)


def test_failed_builds_are_kept_and_builds_stay_whole(table, backend, tmp_path):
    sandbox, url = backend
    quick = "processors::tail_sampling::decision_wait: 1s"
    with collector("tail-sampling", tmp_path, *to(url, "traces"), quick) as endpoint:
        send(table, endpoint)
        sent: dict[str, int] = Counter(one["trace_id"] for one in rows(table))
        failed = {one["trace_id"] for one in rows(table) if one["status"] == "error"}
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and not failed <= kept(sandbox).keys():
            time.sleep(0.2)
    assert failed <= kept(sandbox).keys() < sent.keys()
    assert {trace: sent[trace] for trace in kept(sandbox)} == kept(sandbox)


def kept(sandbox: Sandbox) -> Counter[str]:
    """How many spans of each trace reached the backend."""
    return Counter(one.trace_id for one in list(sandbox.otlp.spans))


def to(url: str, signal: str) -> tuple[str, ...]:
    """Overrides that send to `url` instead of to the example's exporter."""
    return (
        f"exporters::otlp_http::endpoint: {url}",
        f"service::pipelines::{signal}::exporters: [otlp_http]",
    )

"""Values that privacy settings remove are in no request, file, event log or terminal output.

A build whose values are all unique passes through the whole pipeline; then all output is searched
for the values. Only the raw store may contain them.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import zstandard
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.spans.fields import FIELDS, NUMERIC
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline_tests.spans.full_build import FULL, job_of
from bk_pipeline_tests.worlds import last_thursday, recent_world

DAY = last_thursday().isoformat()
# Contains the creation time, so that the build can be found at Buildkite.
CREATED = f"{int(datetime.fromisoformat(f'{DAY}T10:00:00+00:00').timestamp() * 1000):012x}"
BUILD_ID = f"{CREATED[:8]}-{CREATED[8:]}-7222-8333-444455556666"
# The ids of builds that are only reported as unusable.
BAD_IDS = ("quarantined-build-id", "unreadable-build-id")
# Files that may contain the values.
EXEMPT_FILES = ("raw/", "markers.toml", "builds.json")
# Values that identify nothing.
COMMON = {"command", "group", "failed", "unblocked", "manual", "script", "github", "branch", "True"}
NAMES = [field.name for field in FIELDS]
# Fields that are copies are not searched for, because their originals may be kept.
ORIGINALS = [one for one in NAMES if one.startswith("buildkite.")]
# Job ids that other spans have under another name.
OF_OTHER_SPANS = {"buildkite.job.retried_in_job_id", "buildkite.job.retry_source.job_id"}
HALVES = [[one for one in ORIGINALS[n::2] if one not in OF_OTHER_SPANS] for n in (0, 1)]
# Each of these shows values without privacy settings.
ROUTES = {
    *("honeycomb", "markers", "otlp traces", "otlp metrics"),
    *("files of spans", "files of stats", "files of dagster"),
    *("bk-pipeline trace", "bk-pipeline spans", "bk-pipeline markers", "bk-pipeline quarantined"),
}


def full_build(**more: object) -> dict[str, Any]:
    """Return `FULL` on `DAY`, with a job whose label contains a matrix value."""
    made: dict[str, Any] = json.loads(json.dumps(FULL).replace("2026-11-20", DAY))
    made["id"] = BUILD_ID
    made["meta_data"] |= {"meta-data-key": "meta-data-value"}
    made["jobs"][0] |= {
        "name": "on {{matrix.os}} of it",
        "matrix": {"os": "matrix-os-value"},
        "step": {"id": "matrix-step-id"},
    }
    return made | more


BUILD = full_build()
BAD_BUILDS = [
    full_build(id=BAD_IDS[0], number=418264540, jobs=[job_of("j1") | {"exit_status": "zero"}]),
    full_build(id=BAD_IDS[1], number=2**70),
]


def values_of() -> dict[str, set[str]]:
    """Return the identifying values of each field that are in the payload."""
    table = Privacy().apply(table_of([spans_for_build(decode_build(json.dumps(BUILD).encode()))]))
    payload, found = json.dumps(BUILD), defaultdict(set)
    for span in rows(table):
        for name, value in {**span["attributes"], **span["resource"]}.items():
            field = name if name in NAMES else f"{name.rpartition('.')[0]}.*"
            found[field] |= {one for one in leaves(value) if len(one) > 3 and one in payload}
    found["buildkite.build.id"] |= {*BAD_IDS}
    found["buildkite.build.meta_data.*"].add("meta-data-key")
    return {name: found[name] - COMMON for name in NAMES if found[name] - COMMON}


def leaves(value: object) -> Iterator[str]:
    if isinstance(value, str) and value[:1] in {"{", "["}:
        value = json.loads(value)
    if isinstance(value, dict):
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, list):
        yield from (one.partition("=")[2] or one for one in value)
    elif not isinstance(value, bool):
        yield str(value)


class Recorder:
    """Wraps an ASGI application and records the text of each request."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.texts: dict[str, list[str]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = bytearray()

        async def recorded() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        try:
            await self._app(scope, recorded, send)
        finally:
            path, headers = scope["path"], dict(scope["headers"])
            shown = {key: one for key, one in headers.items() if b"auth" not in key}
            head = f"{path}?{scope['query_string'].decode()} {shown}"
            self.texts[route_of(path)].append(head + text_of(path, headers, bytes(body)))


def route_of(path: str) -> str:
    return next(
        name
        for start, name in (
            ("/v2/", "buildkite"),
            ("/v1/traces", "otlp traces"),
            ("/v1/metrics", "otlp metrics"),
            ("/1/markers/", "markers"),
            ("/1/marker_settings/", "markers"),
            ("/", "honeycomb"),
        )
        if path.startswith(start)
    )


def text_of(path: str, headers: dict[bytes, bytes], body: bytes) -> str:
    """Return a request's body as text, decompressed and decoded."""
    encoding = headers.get(b"content-encoding", b"")
    if encoding == b"gzip":
        body = gzip.decompress(body)
    elif encoding == b"zstd":
        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    if path.startswith("/v1/"):
        kind = ExportTraceServiceRequest if "traces" in path else ExportMetricsServiceRequest
        return str(kind.FromString(body))
    if b"msgpack" in headers.get(b"content-type", b""):
        return json.dumps(msgspec.msgpack.decode(body), default=str)
    return body.decode()


RULES = """
[[rule]]
id = "{kind}"
on = "{kind}"
type = "{kind}"
at = "finish"
message = "{message}"
url = "{{buildkite.{kind}.web_url}}"
dataset = "__all__"
"""


def rules() -> str:
    """Return a rule for builds and one for jobs, whose messages contain all possible fields."""
    return "".join(
        RULES.format(
            kind=kind.name.lower(),
            message=" ".join(
                f"{{{field.name.replace('*', 'release')}}}"
                for field in FIELDS
                if kind in field.kinds
            ),
        )
        for kind in (SpanKind.BUILD, SpanKind.JOB)
    )


def routes(call: Any, folder: Path, **privacy: str) -> dict[str, str]:
    """Run all commands on the build; return the text of each route."""
    folder.mkdir()
    sandbox = Sandbox(recent_world(days=1, builds_per_day=0))
    recorder = Recorder(sandbox.app)
    sandbox.app = recorder  # type: ignore[assignment]
    for build in (BUILD, *BAD_BUILDS):
        sandbox.world.add_build(build)
    (folder / "markers.toml").write_text(rules())
    (folder / "builds.json").write_text(json.dumps([BUILD, *BAD_BUILDS]))
    found: dict[str, str] = {}
    with running(sandbox) as url:
        settings = environment(sandbox, url) | {
            "BK_PIPELINE_DATA_DIR": str(folder / "data"),
            "DAGSTER_HOME": str(folder / "dagster"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "BK_PIPELINE_MARKERS": str(folder / "markers.toml"),
            "BK_PIPELINE_SPANS_WAITS": "true",
            **privacy,
        }
        for arguments in (
            ("backfill", "--from", DAY, "--to", DAY),
            ("backfill", "--from", DAY, "--to", DAY, "--full-refresh"),
            ("trace", BUILD["id"], "--all"),
            ("trace", f"pipeslug#{BUILD['number']}", "--fetch", "--all"),
            ("spans", str(folder / "builds.json")),
            ("spans", str(folder / "builds.json"), "--format", "table"),
            ("quarantined",),
            ("ledger",),
            ("markers", "list"),
            ("doctor",),
        ):
            done = call(*arguments, **settings)
            assert done.returncode == 0 or arguments[0] in {"spans", "doctor"}, done.stderr
            command = f"bk-pipeline {arguments[0]}"
            found[command] = found.get(command, "") + done.stdout + done.stderr
    found |= {name: "\n".join(texts) for name, texts in recorder.texts.items()}
    del found["buildkite"]
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(one in name for one in EXEMPT_FILES):
            kind = next(one for one in ("stats", "spans", "dagster", "data") if one in name)
            found[f"files of {kind}"] = found.get(f"files of {kind}", "") + content(path)
    return found


def content(path: Path) -> str:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return json.dumps(table.to_pylist(), default=str) + str(pq.read_metadata(path).metadata)
    return path.read_bytes().decode("latin-1")


def leaks(found: dict[str, str], names: list[str]) -> list[tuple[str, str, str]]:
    """Return field, route and value of each value of these fields that is on a route."""
    values = values_of()
    return [
        (name, route, value)
        for name in names
        for value in values.get(name, ())
        for route, text in found.items()
        if value in text
    ]


def test_every_route_shows_values_without_privacy_settings(call, tmp_path):
    """Else what is proved below would be proved of nothing."""
    open_ = leaks(routes(call, tmp_path / "all"), NAMES)
    assert {name for name, _, _ in open_} == set(values_of())
    assert len(values_of()) > len(NAMES) / 2
    assert {route for _, route, _ in open_} >= ROUTES


@pytest.mark.parametrize(
    ("way", "names"),
    [("DROP", NAMES), ("DROP", HALVES[0]), ("DROP", HALVES[1]), ("HASH", NAMES)],
    ids=["all dropped", "one half", "the other half", "all hashed"],
)
def test_dropped_or_hashed_values_are_on_no_route(call, tmp_path, way, names):
    setting = {f"BK_PIPELINE_SPANS_{way}": ",".join(names)}
    found = leaks(routes(call, tmp_path / "all", **setting), names)
    # A hash takes the place of a value, and its key stays.
    assert [one for one in found if way == "DROP" or one[2] != "meta-data-key"] == []


def test_masked_values_are_on_no_route(call, tmp_path):
    texts = [field.name for field in FIELDS if field.type not in NUMERIC]
    values = {one for name in texts for one in values_of().get(name, ())}
    pattern = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    found = routes(call, tmp_path / "all", BK_PIPELINE_SPANS_MASK=pattern)
    assert leaks(found, texts) == []

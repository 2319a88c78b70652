"""`bk-pipeline spans`: API answers in files to spans, without any network."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from bk_pipeline.cli.build_files import Payload, builds_in
from bk_pipeline.cli.output import Console, echo
from bk_pipeline.display import json_line
from bk_pipeline.errors import FatalError, RecordError
from bk_pipeline.private_files import make_file
from bk_pipeline.settings import Settings
from bk_pipeline.spans.model import Trace
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.units import NS_PER_S

FORMATS = ("ndjson", "table", "parquet")


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="ndjson",
    show_default=True,
    help="ndjson: an object a span. table: for people. parquet: the columns of docs/spans.md.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here, whole or not at all. Default: standard output.",
)
def spans(files: Sequence[str], format_: str, output: Path | None) -> None:
    """Turn answers of Buildkite's builds API into spans, without any network.

    A FILE holds one build object or an array of them, as GET
    /v2/organizations/{org}/builds gives them, or several of either, as jq -c makes them; - is
    standard input. It may be gzipped, and in UTF-8 or UTF-16. Builds that have not finished
    give no spans. The privacy settings (BK_PIPELINE_SPANS_*) apply; no other does.

    \b
      curl -H "Authorization: Bearer $TOKEN" \\
        "https://api.buildkite.com/v2/organizations/acme/builds?include_retried_jobs=true" \\
        | bk-pipeline spans --format table -
    """
    traces: list[Trace] = []
    unfinished = 0
    for file in files:
        for trace in _traces(file):
            if trace is None:
                unfinished += 1
            else:
                traces.append(trace)
    privacy = Privacy.from_settings(Settings.load())
    content = RENDERERS[format_](privacy.apply(table_of(traces)))
    if unfinished:
        echo(f"{unfinished} of the builds have not finished: no spans of them yet.", err=True)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        temporary = output.with_name(f".{output.name}.tmp")
        make_file(temporary)
        temporary.write_bytes(content)
        temporary.replace(output)
    except OSError as exc:
        raise FatalError(f"Cannot write {output}: {exc.strerror}.") from exc


def _traces(file: str) -> list[Trace | None]:
    """The traces in `file`, None for each unfinished build.

    Raises:
        FatalError: The file cannot be read or is no build answer; names it and the path of
            the wrong value.
    """
    named = "standard input" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise FatalError(f"Cannot read {file}: {exc.strerror}.") from exc
    try:
        return [_trace(build) for build in builds_in(content)]
    except RecordError as exc:
        raise FatalError(f"{named} is no build answer: {exc.reason}.") from exc


def _trace(build: Payload) -> Trace | None:
    try:
        return spans_for_build(decode_build(build.content))
    except RecordError as exc:
        if not build.path:
            raise
        # Of what is wrong with the build itself, no path is given.
        reason = exc.reason if "`$" in exc.reason else f"{exc.reason} - at `$`"
        raise RecordError(reason.replace("`$", f"`${build.path}")) from exc


def _ndjson(table: pa.Table) -> bytes:
    out = io.BytesIO()
    for span in rows(table):
        out.write(json_line(msgspec.json.encode(span).decode()).encode() + b"\n")
    return out.getvalue()


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _people(table: pa.Table) -> bytes:
    shown = Table("trace", "span", "status", "seconds", "what", box=None, header_style="bold")
    for span in rows(table):
        attributes = span["attributes"]
        label = attributes.get("buildkite.step.label") or attributes.get("buildkite.step.group.key")
        number = attributes.get("buildkite.build.number", "?")
        seconds = (span["end_unix_nano"] - span["start_unix_nano"]) / NS_PER_S
        slug = span["resource"].get("buildkite.pipeline.slug", "")
        shown.add_row(
            Text(f"{slug}#{number}"),
            span["name"],
            span["status"],
            f"{seconds:,.3f}",
            Text(" ".join((label or "").split())),
        )
    out = io.StringIO()
    console = Console(file=out, width=None if sys.stdout.isatty() else 160)
    console.print(shown)
    return out.getvalue().encode()


RENDERERS = {"ndjson": _ndjson, "table": _people, "parquet": _parquet}

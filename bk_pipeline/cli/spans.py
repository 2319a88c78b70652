"""`bk-pipeline spans`: API answers in files to spans, without any network."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

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
from bk_pipeline.text import mended, one_line
from bk_pipeline.tokens import without_tokens
from bk_pipeline.units import NS_PER_S

_GZIP = b"\x1f\x8b"
_SPACE = re.compile(r"\s*")
_LONGEST_MESSAGE = 200
# What a build has and an error object has not; both may have a message.
_OF_BUILDS = ("number", "jobs", "created_at", "pipeline")


class Payload(NamedTuple):
    """A build's JSON, and its path in the file: "" for one that stands alone."""

    content: bytes
    path: str


def builds_in(content: bytes) -> Iterator[Payload]:
    """The builds in a file: an object, an array, `{"builds": [...]}`, or several of these.

    Raises:
        RecordError: It is something else. Of an error of Buildkite's it has the message.
    """
    text = _text(content)
    values = [text] if _is_one(text) else list(_values(text))
    for number, value in enumerate(values):
        at = f"[{number}]" if len(values) > 1 else ""
        if value[:1] == "[":
            elements = msgspec.json.decode(value, type=list[msgspec.Raw])
            yield from (Payload(bytes(one), f"{at}[{n}]") for n, one in enumerate(elements))
            continue
        fields = _object(value)
        if isinstance(fields.get("builds"), list) and "id" not in fields:
            parts = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
            elements = msgspec.json.decode(parts["builds"], type=list[msgspec.Raw])
            for n, one in enumerate(elements):
                yield Payload(bytes(one), f"{at}.builds[{n}]")
            continue
        _refuse_error(fields)
        yield Payload(value.encode(), at)


def _text(content: bytes) -> str:
    """The file's text, unpacked and decoded: PowerShell writes UTF-16, or a byte order mark."""
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise RecordError("it is gzipped, and truncated or damaged") from None
    # What no string can hold is repaired as in an answer that came over the network.
    text = mended(content.decode(json.detect_encoding(content), errors="replace").encode()).decode()
    text = text.removeprefix("\ufeff").strip()
    if not text:
        raise RecordError("it is empty: the request failed, or its answer was truncated")
    return text


def _is_one(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _values(text: str) -> Iterator[str]:
    """The JSON values in `text`, one after the other: mostly one, a line each from `jq -c`.

    Raises:
        RecordError: One is malformed.
    """
    decoder = json.JSONDecoder()
    start = 0
    while start < len(text):
        try:
            _, end = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            raise RecordError(_malformed(text, start)) from None
        yield text[start:end]
        found = _SPACE.match(text, end)
        start = found.end() if found else end


def _malformed(text: str, start: int) -> str:
    """What is wrong with the value that begins at `start`; never what is in it."""
    if text.startswith("HTTP/"):
        return "it begins with the answer's headers: leave out curl's -i"
    try:
        msgspec.json.decode(text[start:])
    except msgspec.DecodeError as exc:
        return str(exc)
    return "JSON is malformed"


def _object(value: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.ValidationError, msgspec.DecodeError) as exc:
        raise RecordError(str(exc)) from None


def _refuse_error(fields: dict[str, Any]) -> None:
    """Raises what Buildkite said, if the object is one of its errors and no build."""
    message = fields.get("message") or fields.get("error")
    if not isinstance(message, str) or any(name in fields for name in _OF_BUILDS):
        return
    line = one_line(without_tokens(message), _LONGEST_MESSAGE)
    raise RecordError(f'it is an error of Buildkite\'s, "{line.rstrip(".")}"')


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

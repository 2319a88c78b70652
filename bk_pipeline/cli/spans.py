"""`bk-pipeline spans`: convert API responses in files to spans, without network access.

`bk-pipeline quarantined`: list the builds of the store that could not be converted.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from bk_pipeline.app import App
from bk_pipeline.buildkite.elements import id_in, split_elements, split_values
from bk_pipeline.cli.output import Console, atomic_file, echo, line_of
from bk_pipeline.display import escape_json_line
from bk_pipeline.errors import FatalError, RecordError
from bk_pipeline.settings import Settings
from bk_pipeline.spans.costs import with_costs
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.records import never_runs
from bk_pipeline.spans.table import rows, table_and_errors, traces_of
from bk_pipeline.text import counted, one_line
from bk_pipeline.tokens import redact_tokens
from bk_pipeline.units import NS_PER_S

_GZIP = b"\x1f\x8b"
_BLANK = b" \t\r\n\0"
_LONGEST_MESSAGE = 200
# What a build has and an error object has not; both may have a message.
_OF_BUILDS = ("number", "jobs", "created_at", "pipeline")
_WRAPPED = re.compile(rb'\{(?:(?!"id")[^\[\]{}])*?"builds"\s*:\s*(?=\[)')
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Payload(NamedTuple):
    """A build's JSON, and its path in the file; the path is empty for a single build."""

    content: bytes
    path: str


def builds_in(content: bytes) -> Iterator[Payload | RecordError]:
    """Yield the builds in a file: an object, an array, `{"builds": [...]}`, or several of these.

    The bytes of each build are unchanged, even if it cannot be read. An error is yielded for a list
    that was truncated between two builds.

    Raises:
        RecordError: The file contains something else. For an error response of Buildkite, the
            error contains its message.
    """
    values = split_values(_body(content))
    for number, value in enumerate(values):
        yield from _builds_in_value(value, f"[{number}]" if len(values) > 1 else "")


def _builds_in_value(value: bytes, at: str) -> Iterator[Payload | RecordError]:
    listed = value
    if value[:1] == b"{":
        wrapped = _wrapped(value)
        if wrapped is None:
            _refuse_error(value)
            yield Payload(value, at)
            return
        listed, at = wrapped, f"{at}.builds"
    split = split_elements(listed)
    if split is None:
        raise RecordError(_malformed(value))
    for number, element in enumerate(split.elements):
        yield Payload(element, f"{at}[{number}]")
    if not split.closed and all(map(_is_json, split.elements[-1:])):
        yield RecordError(f"the list ends amid its builds: it was truncated - at `${at}`")


def _body(content: bytes) -> bytes:
    """Return the content decompressed and in UTF-8. PowerShell writes UTF-16 or a byte order mark."""
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise RecordError("it is gzipped, and truncated or damaged") from None
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        content = content.decode(encoding, errors="replace").encode()
    content = content.removeprefix(b"\xef\xbb\xbf").strip(_BLANK)
    if not content:
        raise RecordError("it is empty: the request failed, or its answer was truncated")
    return content


def _wrapped(value: bytes) -> bytes | None:
    """Return the array of an object that wraps a list of builds; None for another object."""
    try:
        parts = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except _UNREADABLE:
        found = _WRAPPED.match(value)
        return split_values(value[found.end() :])[0] if found else None
    array = bytes(parts.get("builds", b""))
    return array if array[:1] == b"[" and "id" not in parts else None


def _is_json(element: bytes) -> bool:
    try:
        msgspec.json.decode(element, type=msgspec.Raw)
    except _UNREADABLE:
        return False
    return True


def _malformed(value: bytes) -> str:
    """Return why the value is neither an object nor an array, without quoting it."""
    if value.startswith(b"HTTP/"):
        return "it begins with the answer's headers: leave out curl's -i"
    try:
        msgspec.json.decode(value, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        return str(exc)
    return "JSON is malformed"


def _refuse_error(value: bytes) -> None:
    """Raise a RecordError with Buildkite's message if the object is an error response."""
    try:
        fields = msgspec.json.decode(value, type=dict[str, Any])
    except _UNREADABLE:
        return
    message = fields.get("message") or fields.get("error")
    if not isinstance(message, str) or any(name in fields for name in _OF_BUILDS):
        return
    line = one_line(redact_tokens(message), _LONGEST_MESSAGE)
    raise RecordError(f'it is an error of Buildkite\'s, "{line.rstrip(".")}"')


def spans(files: Sequence[str], format_: str, output: Path | None) -> None:
    """Convert responses of Buildkite's builds API to spans, without network access."""
    app = App(Settings.load())
    privacy, prices = app.privacy(), app.prices()
    found = _Found()
    tables = [_table(file, found, privacy) for file in files]
    priced = [with_costs(table, prices) for table in tables]
    content = RENDERERS[format_](privacy.apply(pa.concat_tables(priced)))
    _print_counts(found)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        with atomic_file(output) as file:
            file.write(content)
    if found.bad:
        raise SystemExit(FatalError.exit_status)


@dataclass(slots=True)
class _Found:
    """How many builds were found, and how many of them have no spans."""

    builds: int = 0
    unfinished: int = 0
    skipped: int = 0
    bad: int = 0


def _table(file: str, found: _Found, privacy: Privacy) -> pa.Table:
    """Return the spans in `file`; count its builds in `found`, and print unreadable ones.

    Raises:
        FatalError: The file cannot be read, or contains no builds.
    """
    named = "standard input" if file == "-" else file
    traces = []
    builds = _builds(file, named)
    errors = [one for one in builds if isinstance(one, RecordError)]
    payloads = [one for one in builds if isinstance(one, Payload)]
    for payload, trace in zip(payloads, traces_of(one.content for one in payloads), strict=True):
        if isinstance(trace, RecordError):
            errors.append(_with_path(trace, payload))
        elif trace is not None:
            traces.append(trace)
        elif never_runs(payload.content):
            found.skipped += 1
        else:
            found.unfinished += 1
    table, unfit = table_and_errors(traces)
    for error in (*errors, *unfit):
        echo(f"{named}: {privacy.describe(error)}.", err=True)
    found.builds += len(payloads)
    found.bad += len(errors) + len(unfit)
    return table


def _builds(file: str, named: str) -> list[Payload | RecordError]:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise FatalError(f"Cannot read {file}: {exc.strerror}.") from exc
    try:
        return list(builds_in(content))
    except RecordError as exc:
        raise FatalError(f"{named} is no build answer: {exc.reason}.") from exc


def _with_path(error: RecordError, payload: Payload) -> RecordError:
    """Return the error with the build's id, if known, and the path in the whole file."""
    # Errors about the build as a whole have no path.
    reason = error.reason if "`$" in error.reason else f"{error.reason} - at `$`"
    return RecordError(
        reason.replace("`$", f"`${payload.path}"),
        record_id=error.record_id or id_in(payload.content),
    )


def _print_counts(found: _Found) -> None:
    """Print how many of the builds have no spans, by reason."""
    whole = counted(found.builds, "build")
    for count, why in (
        (found.unfinished, "not finished: no spans of them yet"),
        (found.skipped, "skipped or not run: they never have spans"),
        (found.bad, "not readable: see above"),
    ):
        if count:
            echo(f"{count:,} of {whole}: {why}.", err=True)


def _ndjson(table: pa.Table) -> bytes:
    out = io.BytesIO()
    for span in rows(table):
        out.write(escape_json_line(msgspec.json.encode(span).decode()).encode() + b"\n")
    return out.getvalue()


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _text_table(table: pa.Table) -> bytes:
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


RENDERERS = {"ndjson": _ndjson, "table": _text_table, "parquet": _parquet}


def quarantined() -> None:
    """List quarantined builds: those that could not be converted to spans."""
    # Imported here because `spans FILE` does without the store.
    from bk_pipeline.pipeline import quarantined_builds  # noqa: PLC0415

    app = App(Settings.load())
    for day in app.raw().days():
        for one in quarantined_builds(day, spans=app.spans()):
            line_of((day, one.build_id or "?", one.reason))

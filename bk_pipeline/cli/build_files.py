"""Builds out of a file, in whatever form a shell has left Buildkite's answers there."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from bk_pipeline.errors import RecordError
from bk_pipeline.text import mended
from bk_pipeline.tokens import without_tokens

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
    line = " ".join("".join(c if c.isprintable() else " " for c in without_tokens(message)).split())
    if len(line) > _LONGEST_MESSAGE:
        line = line[:_LONGEST_MESSAGE].rstrip() + "…"
    raise RecordError(f'it is an error of Buildkite\'s, "{line.rstrip(".")}"')

"""Answers: JSON bodies, gzip for whoever asks, and refusals on their way to becoming answers."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import zstandard
from starlette.requests import Request
from starlette.responses import Response

# Below this, compressing costs more than it saves.
_GZIP_FROM_BYTES = 1_000


class Refusal(Exception):
    """The request is answered with `status` and `message`, worded as the service words it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def json_reply(
    request: Request, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as JSON, gzipped if the request's Accept-Encoding says so and it is worth it."""
    body, encoding = encoded(request, content)
    return Response(body, status, {**encoding, **(headers or {})}, media_type="application/json")


def encoded(request: Request, content: Any) -> tuple[bytes, dict[str, str]]:
    """The body of `json_reply`, and the headers that say how it is compressed."""
    body = msgspec.json.encode(content)
    if len(body) >= _GZIP_FROM_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        return body, {"Vary": "Accept-Encoding", "Content-Encoding": "gzip"}
    return body, {"Vary": "Accept-Encoding"}


MAX_BODY_BYTES = 5_000_000
MAX_EVENT_BYTES = 1_000_000
MAX_EVENT_COLUMNS = 2_000

TOO_LARGE = "Request body is too large."
EMPTY = "Request body should not be empty."
MALFORMED = "Request body is malformed and cannot be read."
TOO_MANY_COLUMNS = "Event has too many columns."

_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|z|[+-]\d\d:\d\d)", re.ASCII
)
_UNIX = re.compile(r"\d{10,19}", re.ASCII)
_batch = msgspec.json.Decoder(list[msgspec.Raw])


def plain_body(body: bytes, encoding: str) -> bytes:
    """`body` decompressed, never to more than the largest body allowed.

    Raises:
        Refusal: It is too large, does not decompress, or is compressed in an unknown way.
    """
    try:
        if encoding == "gzip":
            unzip = zlib.decompressobj(wbits=31)
            body = unzip.decompress(body, MAX_BODY_BYTES + 1)
            if len(body) <= MAX_BODY_BYTES and not unzip.eof:
                raise Refusal(400, MALFORMED)
        elif encoding == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(body) as reader:
                body = reader.read(MAX_BODY_BYTES + 1)
        elif encoding:
            raise Refusal(400, MALFORMED)
    except (zlib.error, zstandard.ZstdError) as exc:
        raise Refusal(400, MALFORMED) from exc
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(400, TOO_LARGE)
    return body


def batch_elements(body: bytes) -> list[msgspec.Raw]:
    """The elements of a batch, unread, so that each can be measured.

    Raises:
        Refusal: The body is blank or no JSON array; NaN and Infinity are no JSON.
    """
    if not body.strip():
        raise Refusal(400, EMPTY)
    try:
        return _batch.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Refusal(400, MALFORMED) from exc


def event_element(body: bytes, time: str | None, rate: str | None) -> msgspec.Raw:
    """A single event, whose time and rate came in headers, as an element of a batch."""
    if not body.strip():
        raise Refusal(400, EMPTY)
    element: dict[str, object] = {"data": msgspec.Raw(body)}
    if time is not None:
        element["time"] = time
    if rate is not None:
        element["samplerate"] = int(rate) if rate.isdecimal() else rate
    return msgspec.Raw(msgspec.json.encode(element))


def time_ns(text: str) -> int | None:
    """Nanoseconds since 1970 for an RFC 3339 time; None if `text` is none."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{zone.upper()}")
    except ValueError:
        return None
    seconds = int((whole - _EPOCH).total_seconds())
    return seconds * _NS + (int(fraction.ljust(9, "0")) if fraction else 0)


def epoch_ns(text: str) -> int | None:
    """Nanoseconds for Unix time in digits: ten are seconds, further ones a fraction of them."""
    if not _UNIX.fullmatch(text):
        return None
    return int(text[:10]) * _NS + int(text[10:].ljust(9, "0"))

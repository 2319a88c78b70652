"""Request and response bodies: JSON responses, error responses, and Honeycomb's event bodies."""

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

# Below this size, compressing costs more than it saves.
_GZIP_FROM_BYTES = 1_000

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
_batch_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class ApiError(Exception):
    """An error response: its HTTP status, and the message in the service's own wording."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def json_response(
    request: Request, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON response, gzipped if the request accepts gzip and the body is large enough."""
    body, encoding = encode_json(request, content)
    return Response(body, status, {**encoding, **(headers or {})}, media_type="application/json")


def encode_json(request: Request, content: Any) -> tuple[bytes, dict[str, str]]:
    """The body of a JSON response to `request`, and the headers that describe its compression."""
    body = msgspec.json.encode(content)
    if len(body) >= _GZIP_FROM_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        return body, {"Vary": "Accept-Encoding", "Content-Encoding": "gzip"}
    return body, {"Vary": "Accept-Encoding"}


def decompressed_body(body: bytes, encoding: str) -> bytes:
    """The body of a request to Honeycomb, decompressed.

    At most `MAX_BODY_BYTES` + 1 bytes are decompressed.

    Args:
        body: The body as received.
        encoding: The request's `Content-Encoding`: "gzip", "zstd" or empty.

    Raises:
        ApiError: The body is too large, does not decompress, or has another encoding.
    """
    try:
        if encoding == "gzip":
            unzip = zlib.decompressobj(wbits=31)
            body = unzip.decompress(body, MAX_BODY_BYTES + 1)
            if len(body) <= MAX_BODY_BYTES and not unzip.eof:
                raise ApiError(400, MALFORMED)
        elif encoding == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(body) as reader:
                body = reader.read(MAX_BODY_BYTES + 1)
        elif encoding:
            raise ApiError(400, MALFORMED)
    except (zlib.error, zstandard.ZstdError) as exc:
        raise ApiError(400, MALFORMED) from exc
    if len(body) > MAX_BODY_BYTES:
        raise ApiError(400, TOO_LARGE)
    return body


def batch_elements(body: bytes) -> list[msgspec.Raw]:
    """The elements of a batch as undecoded JSON, so that the size of each can be checked.

    Raises:
        ApiError: The body is blank or not a JSON array. NaN and Infinity are not valid JSON.
    """
    if not body.strip():
        raise ApiError(400, EMPTY)
    try:
        return _batch_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ApiError(400, MALFORMED) from exc


def event_element(body: bytes, time: str | None, rate: str | None) -> msgspec.Raw:
    """A single event in the form of a batch element.

    Args:
        body: The event's data as JSON.
        time: The `X-Honeycomb-Event-Time` header.
        rate: The `X-Honeycomb-Samplerate` header.

    Raises:
        ApiError: The body is blank.
    """
    if not body.strip():
        raise ApiError(400, EMPTY)
    element: dict[str, object] = {"data": msgspec.Raw(body)}
    if time is not None:
        element["time"] = time
    if rate is not None:
        element["samplerate"] = int(rate) if rate.isdecimal() else rate
    return msgspec.Raw(msgspec.json.encode(element))


def parse_rfc3339_ns(text: str) -> int | None:
    """Nanoseconds since 1970 for an RFC 3339 time, or None if `text` is not one."""
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


def parse_unix_time_ns(text: str) -> int | None:
    """Nanoseconds since 1970 for a Unix time in digits, or None if `text` is not one.

    The first ten digits are seconds, any further ones a decimal fraction.
    """
    if not _UNIX.fullmatch(text):
        return None
    return int(text[:10]) * _NS + int(text[10:].ljust(9, "0"))

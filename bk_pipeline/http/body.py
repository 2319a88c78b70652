"""Read and decompress a response body up to a size limit, and detect truncation.

urllib3 accepts a gzip stream that ends early and puts no limit on its decompressed size. So
this module decompresses in small chunks, and a missing end of stream is an error.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Any

import requests

from bk_pipeline.errors import AnswerTooLarge, PipelineError, ServiceUnavailable, UnexpectedAnswer

CHUNK_BYTES = 1 << 16
GZIP = 16 + zlib.MAX_WBITS
BODYLESS_STATUSES = (204, 205, 304)
SUCCESSES = range(200, 300)
# Several times the largest response that any of the services documents.
MAX_BODY_BYTES = 64 * 1024 * 1024
# Only the message of an error response is used.
MAX_ERROR_BODY_BYTES = 256 * 1024


def read_body(
    answer: requests.Response,
    *,
    request: str,
    max_bytes: int | None = None,
) -> bytes:
    """The whole body, decompressed.

    The body of an error response (not 2xx) is truncated at the limit: its status is enough.

    Args:
        answer: The response, not read yet.
        request: Method and address, for messages.
        max_bytes: Limit of the decompressed size; None: `MAX_BODY_BYTES`.

    Raises:
        ServiceUnavailable: The body is corrupt or truncated.
        UnexpectedAnswer: The encoding was not requested, or `max_bytes` is None and the body
            exceeds `MAX_BODY_BYTES`.
        AnswerTooLarge: The body exceeds `max_bytes`. No more than that is kept in memory.
        urllib3.exceptions.HTTPError: The connection broke, or the body is shorter than its
            Content-Length.
    """
    if answer.status_code not in SUCCESSES:
        return _refusal_body(answer, request=request)
    body = _body(answer, request=request, max_bytes=max_bytes or MAX_BODY_BYTES)
    try:
        _fill(body, answer)
    except _TooLarge as exc:
        if max_bytes is None:
            raise UnexpectedAnswer(
                f"{request}: the answer is larger than {MAX_BODY_BYTES:,} bytes, decompressed; this "
                "service should not send that much. Check for a proxy or gateway in between."
            ) from exc
        raise AnswerTooLarge(f"{request}: the answer is larger than {max_bytes:,} bytes.") from exc
    if not body.received and not _may_be_empty(answer):
        raise ServiceUnavailable(f"{request}: the connection broke within the answer's headers.")
    return body.whole()


def _refusal_body(answer: requests.Response, *, request: str) -> bytes:
    try:
        body = _body(answer, request=request, max_bytes=MAX_ERROR_BODY_BYTES)
    except UnexpectedAnswer:
        return b""
    with suppress(_TooLarge, PipelineError):
        _fill(body, answer)
    return body.so_far()


def _fill(body: _Plain, answer: requests.Response) -> None:
    raw: Any = answer.raw
    # read1 returns what is available; read() would wait for a full chunk from a slow server.
    while chunk := raw.read1(CHUNK_BYTES, decode_content=False):
        body.add(chunk)


def _may_be_empty(answer: requests.Response) -> bool:
    """Whether an empty body is legitimate.

    http.client accepts headers that end early. Such a response states no body length.
    """
    return (
        answer.request.method == "HEAD"
        or answer.status_code in BODYLESS_STATUSES
        or "Content-Length" in answer.headers
        or "Transfer-Encoding" in answer.headers
    )


class _TooLarge(Exception):
    """The body exceeds its limit."""


class _Plain:
    """Collects an uncompressed body."""

    def __init__(self, max_bytes: int) -> None:
        self.received = False
        self._most_bytes = max_bytes
        self._kept = bytearray()

    def add(self, chunk: bytes) -> None:
        self.received = True
        self._keep(chunk)

    def so_far(self) -> bytes:
        return bytes(self._kept)

    def whole(self) -> bytes:
        return self.so_far()

    def _keep(self, piece: bytes) -> None:
        room = self._most_bytes - len(self._kept)
        self._kept += piece[:room]
        if len(piece) > room:
            raise _TooLarge


class _Gzipped(_Plain):
    """Decompresses a gzip body of one or more members while it is received."""

    def __init__(self, max_bytes: int, request: str) -> None:
        super().__init__(max_bytes)
        self._request = request
        self._member = zlib.decompressobj(wbits=GZIP)

    def add(self, chunk: bytes) -> None:
        self.received = True
        try:
            self._decompress(chunk)
        except zlib.error as exc:
            raise self._broken() from exc

    def whole(self) -> bytes:
        if self.received and not self._member.eof:
            raise self._broken()
        return super().whole()

    def _decompress(self, chunk: bytes) -> None:
        """Decompress in pieces, because a chunk of 64 KiB can expand to 64 MiB."""
        more = True
        while chunk or more:
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=GZIP)
            piece = self._member.decompress(chunk, CHUNK_BYTES)
            self._keep(piece)
            if self._member.eof:
                # A member may be followed by zero padding.
                chunk, more = self._member.unused_data.lstrip(b"\0"), False
            else:
                chunk, more = self._member.unconsumed_tail, len(piece) == CHUNK_BYTES

    def _broken(self) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"{self._request}: the answer's compressed body is broken or cut short."
        )


def _body(answer: requests.Response, *, request: str, max_bytes: int) -> _Plain:
    match answer.headers.get("Content-Encoding", "").strip().lower():
        case "" | "identity":
            return _Plain(max_bytes)
        case "gzip" | "x-gzip":
            return _Gzipped(max_bytes, request)
        case _:
            raise UnexpectedAnswer(
                f"{request}: the answer has a content encoding other than gzip, the only one "
                "requested. Check for a proxy or gateway in between."
            )

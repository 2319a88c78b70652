"""Reading an answer's body to its true end, and never more of it than a bound.

urllib3 takes a gzip stream that stops in the middle for a short one, and decompresses whatever
comes; so the decompressing is done here, in small pieces, where a missing end is an error.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Any

import requests

from bk_pipeline.errors import AnswerTooLarge, PipelineError, ServiceUnavailable, UnexpectedAnswer

CHUNK_BYTES = 1 << 16
GZIP = 16 + zlib.MAX_WBITS
EMPTY_BY_NATURE = (204, 205, 304)
SUCCESSES = range(200, 300)
# Several times the largest answer that any service here documents.
MOST_BYTES = 64 * 1024 * 1024
# Of a refusal only the message is of use.
MOST_REFUSAL_BYTES = 256 * 1024


def read_body(
    answer: requests.Response,
    *,
    request: str,
    most_bytes: int | None = None,
) -> bytes:
    """The whole body, decompressed.

    The body of a refusal (no 2xx) is cut instead of being an error: its status says it all.

    Raises:
        ServiceUnavailable: It came broken.
        UnexpectedAnswer: It is compressed in a way that nobody asked for, or larger than any
            answer that is documented.
        AnswerTooLarge: It is larger than `most_bytes`; no more than that was held.
        urllib3.exceptions.HTTPError: The connection broke, or less came than was announced.
    """
    if answer.status_code not in SUCCESSES:
        return _refusal_body(answer, request=request)
    body = _body(answer, request=request, most_bytes=most_bytes or MOST_BYTES)
    try:
        _fill(body, answer)
    except _Full as exc:
        if most_bytes is None:
            raise UnexpectedAnswer(
                f"{request}: the answer is larger than {MOST_BYTES:,} bytes, decompressed, as no "
                "answer of this service should be. Check what stands between us and it."
            ) from exc
        raise AnswerTooLarge(f"{request}: the answer is larger than {most_bytes:,} bytes.") from exc
    if not body.received and not _may_be_empty(answer):
        raise ServiceUnavailable(f"{request}: the connection broke inside the answer's headers.")
    return body.whole()


def _refusal_body(answer: requests.Response, *, request: str) -> bytes:
    try:
        body = _body(answer, request=request, most_bytes=MOST_REFUSAL_BYTES)
    except UnexpectedAnswer:
        return b""
    with suppress(_Full, PipelineError):
        _fill(body, answer)
    return body.so_far()


def _fill(body: _Plain, answer: requests.Response) -> None:
    raw: Any = answer.raw
    # read1: whatever is there. read() would wait for a full chunk from a server that drips.
    while chunk := raw.read1(CHUNK_BYTES, decode_content=False):
        body.add(chunk)


def _may_be_empty(answer: requests.Response) -> bool:
    """Whether an empty body is one that was meant so.

    http.client takes headers that stop in the middle for complete ones. What gives it away
    is that nothing says how long the body is.
    """
    return (
        answer.request.method == "HEAD"
        or answer.status_code in EMPTY_BY_NATURE
        or "Content-Length" in answer.headers
        or "Transfer-Encoding" in answer.headers
    )


class _Full(Exception):
    """The body is larger than it may be."""


class _Plain:
    """A body that comes as it is."""

    def __init__(self, most_bytes: int) -> None:
        self.received = False
        self._most_bytes = most_bytes
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
            raise _Full


class _Gzipped(_Plain):
    """A body that is decompressed as it comes; it may be of several gzip members."""

    def __init__(self, most_bytes: int, request: str) -> None:
        super().__init__(most_bytes)
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
        """In pieces: a chunk of 64 KiB may stand for 64 MiB."""
        more = True
        while chunk or more:
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=GZIP)
            piece = self._member.decompress(chunk, CHUNK_BYTES)
            self._keep(piece)
            if self._member.eof:
                # Zeros may fill up what follows a member.
                chunk, more = self._member.unused_data.lstrip(b"\0"), False
            else:
                chunk, more = self._member.unconsumed_tail, len(piece) == CHUNK_BYTES

    def _broken(self) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"{self._request}: the answer's compressed body is broken or cut short."
        )


def _body(answer: requests.Response, *, request: str, most_bytes: int) -> _Plain:
    match answer.headers.get("Content-Encoding", "").strip().lower():
        case "" | "identity":
            return _Plain(most_bytes)
        case "gzip" | "x-gzip":
            return _Gzipped(most_bytes, request)
        case _:
            raise UnexpectedAnswer(
                f"{request}: the answer is compressed otherwise than with gzip, the only way "
                "asked for. Check what stands between us and the service."
            )

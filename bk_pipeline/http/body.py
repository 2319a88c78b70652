"""Reading an answer's body to its true end.

urllib3 takes a gzip stream that stops in the middle for a short one, so the
decompressing is done here, where a missing end is an error.
"""

from __future__ import annotations

import zlib
from typing import Any

import requests

from bk_pipeline.clock import Clock
from bk_pipeline.errors import AnswerTooLarge, ServiceUnavailable, UnexpectedAnswer

CHUNK_BYTES = 1 << 16
GZIP = 16 + zlib.MAX_WBITS
EMPTY_BY_NATURE = (204, 205, 304)


def read_body(
    answer: requests.Response,
    *,
    request: str,
    clock: Clock,
    until: float,
    most_bytes: int | None = None,
) -> bytes:
    """The whole body, decompressed. `until` is a moment of `clock.monotonic()`.

    Raises:
        ServiceUnavailable: It came too slowly, or broken.
        UnexpectedAnswer: It is compressed in a way that nobody asked for.
        AnswerTooLarge: It is larger than `most_bytes`; no more than that was held.
        urllib3.exceptions.HTTPError: The connection broke, or less came than was announced.
    """
    raw: Any = answer.raw
    body = _body(answer.headers.get("Content-Encoding", ""), request=request)
    # read1: whatever is there. read() would wait for a full chunk from a server that drips.
    while chunk := raw.read1(CHUNK_BYTES, decode_content=False):
        body.add(chunk)
        if most_bytes is not None and body.size > most_bytes:
            raise AnswerTooLarge(f"{request}: the answer is larger than {most_bytes:,} bytes.")
        if clock.monotonic() > until:
            raise ServiceUnavailable(f"{request}: the answer came too slowly and was dropped.")
    if not body.received and not _may_be_empty(answer):
        raise ServiceUnavailable(f"{request}: the connection broke inside the answer's headers.")
    return body.whole()


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


class _Plain:
    """A body that comes as it is."""

    def __init__(self) -> None:
        self.received = False
        self.size = 0
        self._pieces: list[bytes] = []

    def add(self, chunk: bytes) -> None:
        self.received = True
        self._keep(chunk)

    def whole(self) -> bytes:
        return b"".join(self._pieces)

    def _keep(self, piece: bytes) -> None:
        self.size += len(piece)
        self._pieces.append(piece)


class _Gzipped(_Plain):
    """A body that is decompressed as it comes; it may be of several gzip members."""

    def __init__(self, request: str) -> None:
        super().__init__()
        self._request = request
        self._member = zlib.decompressobj(wbits=GZIP)

    def add(self, chunk: bytes) -> None:
        self.received = True
        try:
            while chunk:
                if self._member.eof:
                    self._member = zlib.decompressobj(wbits=GZIP)
                self._keep(self._member.decompress(chunk))
                # Zeros may fill up what follows a member.
                chunk = self._member.unused_data.lstrip(b"\0")
        except zlib.error as exc:
            raise self._broken() from exc

    def whole(self) -> bytes:
        if self.received and not self._member.eof:
            raise self._broken()
        return super().whole()

    def _broken(self) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"{self._request}: the answer's compressed body is broken or cut short."
        )


def _body(encoding: str, *, request: str) -> _Plain:
    match encoding.strip().lower():
        case "" | "identity":
            return _Plain()
        case "gzip" | "x-gzip":
            return _Gzipped(request)
        case _:
            raise UnexpectedAnswer(
                f"{request}: the answer is compressed otherwise than with gzip, the only way "
                "asked for. Check what stands between us and the service."
            )

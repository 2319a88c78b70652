"""Reading an answer's body to its true end.

urllib3 takes a gzip stream that stops in the middle for a short one, so the
decompressing is done here, where a missing end is an error.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import requests

from bk_pipeline.clock import Clock
from bk_pipeline.errors import ServiceUnavailable, UnexpectedAnswer

CHUNK_BYTES = 1 << 16
EMPTY_BY_NATURE = (204, 205, 304)


def read_body(answer: requests.Response, *, request: str, clock: Clock, until: float) -> bytes:
    """The whole body, decompressed. `until` is a moment of `clock.monotonic()`.

    Raises:
        ServiceUnavailable: It came too slowly, or broken.
        UnexpectedAnswer: It is compressed in a way that nobody asked for.
        urllib3.exceptions.HTTPError: The connection broke, or less came than was announced.
    """
    raw: Any = answer.raw
    chunks = []
    # read1: whatever is there. read() would wait for a full chunk from a server that drips.
    while chunk := raw.read1(CHUNK_BYTES, decode_content=False):
        chunks.append(chunk)
        if clock.monotonic() > until:
            raise ServiceUnavailable(f"{request}: the answer came too slowly and was dropped.")
    if not chunks and not _may_be_empty(answer):
        raise ServiceUnavailable(f"{request}: the connection broke inside the answer's headers.")
    return _decompressed(
        b"".join(chunks), answer.headers.get("Content-Encoding", ""), request=request
    )


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


def _decompressed(body: bytes, encoding: str, *, request: str) -> bytes:
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            try:
                return gzip.decompress(body)
            except (EOFError, OSError, zlib.error) as exc:
                raise ServiceUnavailable(
                    f"{request}: the answer's compressed body is broken or cut short."
                ) from exc
        case _:
            raise UnexpectedAnswer(
                f"{request}: the answer is compressed otherwise than with gzip, the only way "
                "asked for. Check what stands between us and the service."
            )

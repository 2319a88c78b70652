"""Answers: JSON bodies, gzip for whoever asks, and refusals on their way to becoming answers."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import Any

import msgspec
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

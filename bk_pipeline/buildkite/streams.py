"""Read a large body piece by piece, and go on where it was cut.

A cut body is requested again from the position that was reached, where the server allows that,
or else from its start, and what is known already is skipped. Memory does not grow with the body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

from bk_pipeline.buildkite.api import Api
from bk_pipeline.errors import AnswerTooLarge, PipelineError, ServiceUnavailable, UnexpectedAnswer

# How often one body may break off; each time the rest is requested again.
MAX_CUTS = 5
PARTIAL_CONTENT = 206

_CONTENT_RANGE = re.compile(r"\s*bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\s*", re.ASCII)
_LENGTH = re.compile(r"\s*(\d{1,18})\s*", re.ASCII)


class OpenBody(NamedTuple):
    """A body that is being received: its pieces, and the position of the first one's first byte."""

    chunks: Iterator[bytes]
    position: int = 0


# Requests a body, best from the given position on.
OpenAt = Callable[[int], AbstractContextManager[OpenBody]]


class ResumingBody:
    """The pieces of one body, whatever number of responses that takes.

    Args:
        open_at: Requests the body; called again after each cut.
        api: Retries requests that failed.
        name: What is read, for messages.
        max_bytes: Limit of the body's size, decompressed.
        on_bytes: Called with the size of each piece that arrives, also of skipped ones.
    """

    def __init__(
        self,
        open_at: OpenAt,
        *,
        api: Api,
        name: str,
        max_bytes: int,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._open_at = open_at
        self._api = api
        self._name = name
        self._max_bytes = max_bytes
        self._on_bytes = on_bytes
        self._response = ExitStack()
        self._body: OpenBody | None = None
        self._received = 0
        self._cuts = 0

    def open(self) -> None:
        """Request the body, with retries.

        Raises:
            RetryableError: No response before the deadline.
            FatalError: By status.
        """
        self._api.retry(self._open)

    def close(self) -> None:
        """Close the connection if the body has not been read to its end."""
        self._body = None
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        """The body's pieces, each once.

        Raises:
            RetryableError: It broke off too often, or could not be requested again.
            AnswerTooLarge: It exceeds `max_bytes`.
            UnexpectedAnswer: It is shorter than what was received of it before.
        """
        while True:
            piece = self._api.retry(self._next)
            if isinstance(piece, PipelineError):
                raise piece
            if piece is None:
                return
            if piece:
                self._received += len(piece)
                if self._received > self._max_bytes:
                    raise AnswerTooLarge(f"{self._name} is larger than {self._max_bytes:,} bytes.")
                yield piece

    def _open(self) -> OpenBody:
        if self._body is None:
            body = self._response.enter_context(self._open_at(self._received))
            if body.position > self._received:
                self._response.close()
                raise ServiceUnavailable(
                    f"{self._name}: the answer begins at byte {body.position:,}, and "
                    f"{self._received:,} have been read."
                )
            self._body = body
        return self._body

    def _next(self) -> bytes | PipelineError | None:
        """The next new piece, perhaps empty; None at the end, or the error that ends it."""
        body = self._open()
        try:
            piece = next(body.chunks, None)
        except ServiceUnavailable as exc:
            self.close()
            self._cuts += 1
            if self._cuts <= MAX_CUTS:
                raise
            exc.args = (f"{exc} {self._name} broke off {self._cuts} times.", *exc.args[1:])
            return exc
        if piece is None:
            self.close()
            if body.position < self._received:
                return UnexpectedAnswer(
                    f"{self._name}: {self._received:,} bytes were read, and now it has only "
                    f"{body.position:,}. It was changed meanwhile; read it again."
                )
            return None
        self._on_bytes(len(piece))
        known = self._received - body.position
        self._body = body._replace(position=body.position + len(piece))
        return piece[known:]


def content_range(headers: Mapping[str, str]) -> tuple[int, int | None] | None:
    """The first position and the whole size in a `Content-Range`; None if it is malformed.

    Source: RFC 9110, section 14.4. The size may be unknown.
    """
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or int(found[1]) > int(found[2]):
        return None
    return int(found[1]), None if found[3] == "*" else int(found[3])


def plain_length(headers: Mapping[str, str]) -> int | None:
    """The `Content-Length` of a body that is not compressed; None if there is none."""
    if headers.get("Content-Encoding", "").strip().lower() not in {"", "identity"}:
        return None
    found = _LENGTH.fullmatch(headers.get("Content-Length", ""))
    return int(found[1]) if found else None

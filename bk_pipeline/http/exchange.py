"""Run one request under one deadline that covers everything from DNS to the body's last byte.

Socket timeouts cannot do that: each received byte restarts them, DNS lookups have none, and a
signal interrupts neither a lookup nor a TLS handshake. So each request runs in its own thread.
The caller waits until the deadline and can give up at any moment; it then shuts the
connection down, which ends the thread. A thread that hangs in a lookup is left behind: it is
a daemon thread, and sends nothing when the lookup returns.

`read_body` decompresses in small chunks up to a size limit, and a missing end of stream is an
error: urllib3 accepts a gzip stream that ends early and does not limit its decompressed size.

A body that is too large to be held is streamed: `Stream` hands its pieces over while they arrive,
few at a time, so that memory does not grow with the body.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import cache
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread, local
from typing import Any, Generic, TypeVar

import requests
from requests.adapters import HTTPAdapter

from bk_pipeline.clock import Clock, grace_period_over
from bk_pipeline.errors import AnswerTooLarge, PipelineError, ServiceUnavailable, UnexpectedAnswer

T = TypeVar("T")
# Interval at which the deadline and stop requests are checked.
POLL_S = 0.1
# Pieces of a streamed body that wait for the caller; each has at most `CHUNK_BYTES`.
QUEUED_PIECES = 16

_thread = local()


class RequestAbandoned(Exception):
    """The request was abandoned before it completed.

    Attributes:
        sent: Whether part of it may have reached the service.
        stopped: Whether the program is stopping; otherwise the deadline has passed.
    """

    def __init__(self, *, sent: bool, stopped: bool) -> None:
        super().__init__()
        self.sent = sent
        self.stopped = stopped


class Exchange(Generic[T]):
    """Runs `call`, which makes one request over connections of a `WatchedAdapter`."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._done = Event()
        self._lock = Lock()
        self._connection: Any = None
        self._connected = False
        self._abandoned = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    def run(self, *, clock: Clock, until: float) -> T:
        """Return or raise what the call does.

        Args:
            clock: Its monotonic time is compared with `until`.
            until: The deadline, in seconds of `clock.monotonic()`.

        Raises:
            RequestAbandoned: The deadline passed, or the program is stopping.
        """
        if grace_period_over():
            raise RequestAbandoned(sent=False, stopped=True)
        Thread(target=self._work, name="bk-http", daemon=True).start()
        try:
            while not self._done.wait(POLL_S):
                self._check(late=clock.monotonic() > until)
        except BaseException:
            self._abandon()
            raise
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result.pop()

    def use_connection(self, connection: Any, *, connected: bool) -> None:
        """Record the connection that the request uses. Called from the request's thread.

        Raises:
            ConnectionAbortedError: The request was abandoned; nothing more may be sent.
        """
        with self._lock:
            if self._abandoned:
                raise ConnectionAbortedError
            self._connection, self._connected = connection, connected

    def _work(self) -> None:
        _thread.exchange = self
        try:
            self._result.append(self._call())
        except BaseException as exc:  # noqa: BLE001  # raised in the caller's thread
            self._error = exc
        finally:
            _thread.exchange = None
            self._done.set()

    def _check(self, *, late: bool) -> None:
        stopped = grace_period_over()
        if late or stopped:
            raise RequestAbandoned(sent=self._abandon(), stopped=stopped)

    def _abandon(self) -> bool:
        """Shut the connection down. Returns whether something may have been sent."""
        with self._lock:
            self._abandoned = True
            sock: Any = getattr(self._connection, "sock", None)
            # SSLSocket's own shutdown would discard the TLS state that the other thread uses.
            with suppress(OSError, TypeError):
                socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)
            return self._connected


class _End:
    """What a `Stream`'s call left: the exception that ended it, or None."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Stream(Exchange[None], Generic[T]):
    """Runs `call`, which hands items to the caller while it runs.

    Args:
        call: Called with a function that takes one item, and waits while `QUEUED_PIECES` of
            them have not been fetched. That function raises if the stream is abandoned.
    """

    def __init__(self, call: Callable[[Callable[[T], None]], None]) -> None:
        super().__init__(lambda: self._feed(call))
        self._items: Queue[T | _End] = Queue(QUEUED_PIECES)

    def items(self, *, clock: Clock, allowed_s: Callable[[], float]) -> Generator[T, None, None]:
        """The items, each as soon as the call has handed it over; raises what the call raises.

        Closing the iterator before its end shuts the connection down.

        Args:
            clock: Measures the time spent waiting for items; the caller's own time is its own.
            allowed_s: How long the caller may have waited in total, asked for each item.

        Raises:
            RequestAbandoned: That time is over, or the program is stopping.
        """
        if grace_period_over():
            raise RequestAbandoned(sent=False, stopped=True)
        Thread(target=self._work, name="bk-http", daemon=True).start()
        waited_s, ended = 0.0, False
        try:
            while True:
                began = clock.monotonic()
                item = self._next(clock, until=began + allowed_s() - waited_s)
                waited_s += clock.monotonic() - began
                if isinstance(item, _End):
                    ended = True
                    if item.error is not None:
                        raise item.error
                    return
                yield item
        finally:
            if not ended:
                self._abandon()

    def _next(self, clock: Clock, *, until: float) -> T | _End:
        while True:
            try:
                return self._items.get(timeout=POLL_S)
            except Empty:
                self._check(late=clock.monotonic() > until)

    def _feed(self, call: Callable[[Callable[[T], None]], None]) -> None:
        end = _End()
        try:
            call(self._put)
        except BaseException as exc:  # noqa: BLE001  # raised in the caller's thread
            end = _End(exc)
        self._put(end)

    def _put(self, item: T | _End) -> None:
        while True:
            with self._lock:
                if self._abandoned:
                    raise ConnectionAbortedError
            with suppress(Full):
                self._items.put(item, timeout=POLL_S)
                return


class WatchedAdapter(HTTPAdapter):
    """An adapter whose connections register with the current thread's `Exchange`."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of requests' own adapter, with connections that register themselves."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _watched(pool.ConnectionCls)
        return pool


class _WatchedConnection:
    """Mixin for connection classes: registers each connection before it is used."""

    sock: Any

    def connect(self) -> None:
        _note(self, connected=False)
        super().connect()  # type: ignore[misc]  # of the connection class
        _note(self, connected=True)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _note(self, connected=self.sock is not None)
        super().request(*args, **kwargs)  # type: ignore[misc]  # of the connection class


def _note(connection: Any, *, connected: bool) -> None:
    exchange: Exchange[Any] | None = getattr(_thread, "exchange", None)
    if exchange is not None:
        exchange.use_connection(connection, connected=connected)


@cache
def _watched(kind: type[Any]) -> type[Any]:
    return (
        kind
        if issubclass(kind, _WatchedConnection)
        else type(kind.__name__, (_WatchedConnection, kind), {})
    )


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


def iter_body(answer: requests.Response, *, request: str) -> Iterator[bytes]:
    """The pieces of a successful response's body, decompressed; their number is not limited.

    Args:
        answer: The response, not read yet; not one to HEAD.
        request: Method and address, for messages.

    Raises:
        ServiceUnavailable: The body is corrupt or truncated.
        UnexpectedAnswer: The encoding was not requested.
        urllib3.exceptions.HTTPError: The connection broke, or the body is shorter than its
            Content-Length.
    """
    body = _body(answer, request=request, max_bytes=0)
    for chunk in _chunks(answer):
        yield from body.pieces(chunk)
    if not body.received and not _may_be_empty(answer):
        raise ServiceUnavailable(f"{request}: the connection broke within the answer's headers.")
    body.finish()


def _fill(body: _Plain, answer: requests.Response) -> None:
    for chunk in _chunks(answer):
        body.add(chunk)


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    raw: Any = answer.raw
    # read1 returns what is available; read() would wait for a full chunk from a slow server.
    while chunk := raw.read1(CHUNK_BYTES, decode_content=False):
        yield chunk


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
    """Passes an uncompressed body on, or collects it."""

    def __init__(self, max_bytes: int) -> None:
        self.received = False
        self._most_bytes = max_bytes
        self._kept = bytearray()

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """The content in `chunk`, in pieces of at most `CHUNK_BYTES`."""
        self.received = True
        yield chunk

    def finish(self) -> None:
        """Check that the body is complete."""

    def add(self, chunk: bytes) -> None:
        for piece in self.pieces(chunk):
            room = self._most_bytes - len(self._kept)
            self._kept += piece[:room]
            if len(piece) > room:
                raise _TooLarge

    def so_far(self) -> bytes:
        return bytes(self._kept)

    def whole(self) -> bytes:
        self.finish()
        return self.so_far()


class _Gzipped(_Plain):
    """Decompresses a gzip body of one or more members while it is received."""

    def __init__(self, max_bytes: int, request: str) -> None:
        super().__init__(max_bytes)
        self._request = request
        self._member = zlib.decompressobj(wbits=GZIP)

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Decompress in pieces, because a chunk of 64 KiB can expand to 64 MiB."""
        self.received = True
        more = True
        while chunk or more:
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=GZIP)
            try:
                piece = self._member.decompress(chunk, CHUNK_BYTES)
            except zlib.error as exc:
                raise self._broken() from exc
            if piece:
                yield piece
            if self._member.eof:
                # A member may be followed by zero padding.
                chunk, more = self._member.unused_data.lstrip(b"\0"), False
            else:
                chunk, more = self._member.unconsumed_tail, len(piece) == CHUNK_BYTES

    def finish(self) -> None:
        if self.received and not self._member.eof:
            raise self._broken()

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

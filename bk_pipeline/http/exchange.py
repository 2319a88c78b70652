"""Run one request under one deadline that covers everything from DNS to the body's last byte.

Socket timeouts cannot do that: each received byte restarts them, DNS lookups have none, and a
signal interrupts neither a lookup nor a TLS handshake. So each request runs in its own thread.
The caller waits until the deadline and can give up at any moment; it then shuts the
connection down, which ends the thread. A thread that hangs in a lookup is left behind: it is
a daemon thread, and sends nothing when the lookup returns.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from threading import Event, Lock, Thread, local
from typing import Any, Generic, TypeVar

from requests.adapters import HTTPAdapter

from bk_pipeline import stopping
from bk_pipeline.clock import Clock

T = TypeVar("T")
# Interval at which the deadline and stop requests are checked.
POLL_S = 0.1

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
        if stopping.grace_period_over():
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
        stopped = stopping.grace_period_over()
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

"""One request within one deadline, from the lookup of the name to the body's last byte.

No timeout of a socket does that: each byte that arrives starts it anew, a name's lookup has
none, and neither it nor a TLS handshake is interrupted by a signal. So a request is made in a
thread of its own, whose caller waits for it as long as it may take and can leave at any moment.
Then the connection is shut, which ends the thread; one that hangs in a lookup is left behind
(it is a daemon, and sends nothing once it comes back).
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
# How soon a deadline or a stop is noticed.
POLL_S = 0.1

_here = local()


class OutOfTime(Exception):
    """The request was given up.

    Attributes:
        sent: Something of it may have reached the service.
        stopped: Because the program stops, and not because of the deadline.
    """

    def __init__(self, *, sent: bool, stopped: bool) -> None:
        super().__init__()
        self.sent = sent
        self.stopped = stopped


class Exchange(Generic[T]):
    """One request: `call`, which uses connections of a `WatchedAdapter`."""

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
        """What the call returns or raises, if it does before `until` on `clock`.

        Raises:
            OutOfTime: It did not.
        """
        if stopping.grace_period_over():
            raise OutOfTime(sent=False, stopped=True)
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

    def note(self, connection: Any, *, connected: bool) -> None:
        """The request uses this connection.

        Raises:
            ConnectionAbortedError: It was given up: nothing must be sent any more.
        """
        with self._lock:
            if self._abandoned:
                raise ConnectionAbortedError
            self._connection, self._connected = connection, connected

    def _work(self) -> None:
        _here.exchange = self
        try:
            self._result.append(self._call())
        except BaseException as exc:  # noqa: BLE001  # it is the caller's
            self._error = exc
        finally:
            _here.exchange = None
            self._done.set()

    def _check(self, *, late: bool) -> None:
        stopped = stopping.grace_period_over()
        if late or stopped:
            raise OutOfTime(sent=self._abandon(), stopped=stopped)

    def _abandon(self) -> bool:
        """Shut the connection; whether something may have been sent."""
        with self._lock:
            self._abandoned = True
            sock: Any = getattr(self._connection, "sock", None)
            # The plain method: SSLSocket's own would take the TLS state from the other thread.
            with suppress(OSError, TypeError):
                socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)
            return self._connected


class WatchedAdapter(HTTPAdapter):
    """Its connections tell the thread's exchange of themselves."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _watched(pool.ConnectionCls)
        return pool


class _Watched:
    """What a class of connections does besides."""

    sock: Any

    def connect(self) -> None:
        _note(self, connected=False)
        super().connect()  # type: ignore[misc]  # the other base's
        _note(self, connected=True)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _note(self, connected=self.sock is not None)
        super().request(*args, **kwargs)  # type: ignore[misc]  # the other base's


def _note(connection: Any, *, connected: bool) -> None:
    exchange: Exchange[Any] | None = getattr(_here, "exchange", None)
    if exchange is not None:
        exchange.note(connection, connected=connected)


@cache
def _watched(kind: type[Any]) -> type[Any]:
    return kind if issubclass(kind, _Watched) else type(kind.__name__, (_Watched, kind), {})

"""uvicorn, taught to hand the connection to the application, so that it can be broken.

An ASGI application cannot close a connection without answering; a stand-in
that plays broken servers must.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

# Where an application finds its connection in the scope.
TRANSPORT = "sandbox.transport"

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class BreakableProtocol(H11Protocol):
    """HTTP/1.1 whose requests carry their transport in the scope."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        inner: Any = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, TRANSPORT: self.transport}, receive, send)

        self.app = app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # asyncio does this by itself only for sockets that were made with an explicit protocol
        # number. Without it, every second write waits 40 ms for the client's delayed ACK.
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)


def reset(transport: asyncio.Transport) -> None:
    """Ends the connection at once, and with an RST, as a crashing server's kernel would."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


class SandboxServer(uvicorn.Server):
    """A server for a thread or for the foreground; silent, and quick to stop.

    Args:
        app: The application.
        on_start: Called when requests are answered.
        on_stop: Called before the server waits for open requests to end.
    """

    def __init__(
        self, app: ASGIApp, on_start: Callable[[], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BreakableProtocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,  # the sandbox has a clock of its own
                # Longer than clients pause, so that no test meets a connection closed for idleness.
                timeout_keep_alive=120,
                timeout_graceful_shutdown=2,
            )
        )
        self._on_start = on_start
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the server and nothing else.

        uvicorn's own version raises the signal again afterwards, which would
        end the caller too.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.should_exit = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

"""Carries out injected faults on whole requests, between the connection and the application.

An ASGI application cannot close a connection without a response. The sandbox
has to, to imitate servers that fail; so its uvicorn server gives the
application access to its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import msgspec
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from bk_pipeline.sandbox.faults import Fault, Faults
from bk_pipeline.sandbox.otlp import PROTOBUF, status_body

# The key of the connection in an ASGI scope.
TRANSPORT_KEY = "sandbox.transport"

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class BreakableProtocol(H11Protocol):
    """HTTP/1.1 protocol that puts the connection into the scope of each request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        inner: Any = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, TRANSPORT_KEY: self.transport}, receive, send)

        self.app = app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set TCP_NODELAY on a new connection."""
        # asyncio sets it only for sockets created with an explicit protocol number. Without it,
        # every second write waits 40 ms for the client's delayed ACK.
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)


def reset_connection(transport: asyncio.Transport) -> None:
    """Close the connection with an RST, as the kernel does when a server crashes."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


class SandboxServer(uvicorn.Server):
    """A server for a thread or the foreground that logs nothing and stops quickly.

    Args:
        app: The application.
        on_start: Called when the server accepts requests.
        on_stop: Called before the server waits for open requests to finish.
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
                date_header=False,  # the sandbox sends its own clock's time
                # Longer than clients pause, so that no test meets an idle connection closed.
                timeout_keep_alive=120,
                timeout_graceful_shutdown=2,
            )
        )
        self._on_start = on_start
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests, then call `on_start`."""
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Call `on_stop`, then close the server."""
        self._on_stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop the server, and only the server, on SIGINT and SIGTERM.

        uvicorn's own version raises the signal again afterwards, which would
        end the calling program too.
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


_HTML = b"<!doctype html><title>Sign in</title><h1>Sign in to the corporate network</h1>"
_HONEYCOMB_MESSAGES = {
    403: "Event dropped due to administrative throttling",
    429: "Request dropped due to rate limiting.",
}


class Service(Protocol):
    """The part of a service that is needed here: it records the requests that arrive."""

    def record_request(self, method: str, path: str, query: str) -> None:
        """Record a request, whether or not a fault prevents its processing."""


class FaultInjector:
    """ASGI middleware that applies injected faults to requests.

    Args:
        app: The application that handles requests without a fault.
        faults: The pending faults.
        services: The services by name.
        prefixes: Path prefixes, each with the name of its service.
    """

    def __init__(
        self,
        app: ASGIApp,
        faults: Faults,
        services: Mapping[str, Service],
        prefixes: Mapping[str, str],
    ) -> None:
        self._app = app
        self._faults = faults
        self._services = services
        self._prefixes = prefixes
        self._waiting: set[asyncio.Transport] = set()
        self._stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request: carry out its fault, or pass it to the application."""
        path = scope["path"]
        service = next((s for p, s in self._prefixes.items() if path.startswith(p)), None)
        if service is None:
            await self._app(scope, receive, send)
            return
        query = scope["query_string"].decode()
        self._services[service].record_request(scope["method"], path, query)
        fault = self._faults.take(service, path)
        if fault is None:
            await self._app(scope, receive, send)
            return
        exchange = await _read_request(scope, receive, send)
        if exchange is None:
            return
        await self._inject(fault, exchange, service)

    def resume(self) -> None:
        """Allow connections to wait again, because the server has started."""
        self._stopping = False

    def release(self) -> None:
        """Reset the connections that wait, now and until `resume`, so that the server can stop."""
        self._stopping = True
        for transport in list(self._waiting):
            reset_connection(transport)

    async def _inject(self, fault: Fault, exchange: Exchange, service: str) -> None:
        match fault.kind:
            case "status":
                await exchange.respond(*_status_response(fault, service))
            case "html":
                headers = {"content-type": "text/html; charset=utf-8"}
                await exchange.respond(200, headers, _HTML)
            case "reset":
                await exchange.reset()
            case "reset_after":
                await exchange.process(self._app)
                await exchange.reset()
            case "cut_body" | "cut_json" as kind:
                start, body = await exchange.process(self._app)
                await exchange.send_half(start, body, full_length=kind == "cut_body")
            case "hang":
                if fault.details["processed"]:
                    await exchange.process(self._app)
                await self._wait(exchange, None)
            case "slow_body":
                start, body = await exchange.process(self._app)
                await exchange.send_slowly(start, body, **fault.details)
            case "slow":
                await self._delay(exchange, fault.details["seconds"])

    async def _delay(self, exchange: Exchange, seconds: float) -> None:
        """Process the request as usual after a delay."""
        if await self._wait(exchange, seconds):
            await self._app(exchange.scope, exchange.replay, exchange.send)

    async def _wait(self, exchange: Exchange, timeout_s: float | None) -> bool:
        """Wait for the client to disconnect. Returns whether it is still there after the timeout.

        Without a timeout (None) it waits until the client disconnects.
        """
        self._waiting.add(exchange.transport)
        if self._stopping:
            reset_connection(exchange.transport)
        try:
            await asyncio.wait_for(exchange.disconnected(), timeout_s)
        except TimeoutError:
            return True
        finally:
            self._waiting.discard(exchange.transport)
        return False


@dataclass
class Exchange:
    """One request with its complete body, and the means to respond or to break the connection."""

    scope: Scope
    body: bytes
    receive: Receive
    send: Send
    replayed: bool = False

    @property
    def transport(self) -> asyncio.Transport:
        """The connection."""
        transport: asyncio.Transport = self.scope[TRANSPORT_KEY]
        return transport

    async def replay(self) -> Message:
        """An ASGI `receive` that delivers the request's body to the application once more."""
        if self.replayed:
            return await self.receive()
        self.replayed = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def process(self, app: ASGIApp) -> tuple[Message, bytes]:
        """Let `app` process the request. Returns the start message and the body, unsent."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await app(self.scope, self.replay, keep)
        return sent[0], b"".join(message.get("body", b"") for message in sent[1:])

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a complete response."""
        head = {"content-length": str(len(body)), **headers}
        raw = [(name.lower().encode(), str(value).encode()) for name, value in head.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def send_half(self, start: Message, body: bytes, *, full_length: bool) -> None:
        """Send the headers and half of the body.

        Args:
            start: The application's start message.
            body: The application's whole body.
            full_length: Announce the length of the whole body and close the connection after
                half of it. Otherwise half of the body is sent as a complete JSON response.
        """
        if not full_length:
            half = body[: max(len(body) // 2, 1)]
            await self.respond(start["status"], {"content-type": "application/json"}, half)
            return
        others = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        length = str(max(len(body), 1)).encode()
        await self.send({**start, "headers": [*others, (b"content-length", length)]})
        half = body[: len(body) // 2]
        await self.send({"type": "http.response.body", "body": half, "more_body": True})
        # Unlike a reset, a close delivers what has been written.
        self.transport.close()
        await self.disconnected()

    async def send_slowly(
        self, start: Message, body: bytes, *, seconds: float, pieces: int
    ) -> None:
        """Send the headers, then the body in so many pieces, with a pause before each."""
        await self.send(start)
        size = max(-(-len(body) // max(pieces, 1)), 1)
        for at in range(0, len(body), size):
            await asyncio.sleep(seconds)
            piece = {"type": "http.response.body", "body": body[at : at + size], "more_body": True}
            await self.send(piece)
        await self.send({"type": "http.response.body", "body": b""})

    async def reset(self) -> None:
        """Reset the connection without a response."""
        reset_connection(self.transport)
        await self.disconnected()

    async def disconnected(self) -> None:
        """Return when either end has closed the connection.

        An application that returns without a response before that is reported
        by uvicorn as an error.
        """
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def _read_request(scope: Scope, receive: Receive, send: Send) -> Exchange | None:
    """The request with its whole body, or None if the client disconnected while sending it."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return Exchange(scope, bytes(body), receive, send)


def _status_response(fault: Fault, service: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a `status` fault; by default the body has the service's form."""
    status, body = fault.details["status"], fault.details["body"]
    if body is None:
        message = f"Injected fault: {status}"
        if service == "otlp":
            headers = {"content-type": PROTOBUF, **fault.details["headers"]}
            return status, headers, status_body(message)
        if service == "buildkite":
            body = {"message": message}
        else:
            body = {"error": _HONEYCOMB_MESSAGES.get(status, message)}
    content = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    media_type = "text/plain" if isinstance(body, str) else "application/json"
    return status, {"content-type": media_type, **fault.details["headers"]}, content

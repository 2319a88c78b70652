"""Carries out injected faults on whole requests, between the connection and the application."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bk_pipeline.sandbox.faults import Fault, Faults
from bk_pipeline.sandbox.otlp import PROTOBUF, status_body
from bk_pipeline.sandbox.transport import TRANSPORT_KEY, reset_connection

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
            case "slow":
                if await self._wait(exchange, fault.details["seconds"]):
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

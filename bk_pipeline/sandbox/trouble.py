"""Carries out ordered faults on whole requests, between the connection and the application."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bk_pipeline.sandbox.faults import Faults, Order
from bk_pipeline.sandbox.otlp import PROTOBUF, status_body
from bk_pipeline.sandbox.transport import TRANSPORT, reset

_HTML = b"<!doctype html><title>Sign in</title><h1>Sign in to the corporate network</h1>"
_HONEYCOMB_WORDS = {
    403: "Event dropped due to administrative throttling",
    429: "Request dropped due to rate limiting.",
}


class Side(Protocol):
    """A service as far as this module cares: it counts what arrives."""

    def arrived(self, method: str, path: str, query: str) -> None: ...


class Trouble:
    """An application with faults in front of it.

    Args:
        app: What answers when nothing is ordered.
        faults: The orders.
        sides: The services by name.
        prefixes: The service that serves all paths with a prefix, by prefix.
    """

    def __init__(
        self,
        app: ASGIApp,
        faults: Faults,
        sides: Mapping[str, Side],
        prefixes: Mapping[str, str],
    ) -> None:
        self._app = app
        self._faults = faults
        self._sides = sides
        self._prefixes = prefixes
        self._waiting: set[asyncio.Transport] = set()
        self._stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        service = next((s for p, s in self._prefixes.items() if path.startswith(p)), None)
        if service is None:
            await self._app(scope, receive, send)
            return
        self._sides[service].arrived(scope["method"], path, scope["query_string"].decode())
        fault = self._faults.take(service, path)
        if fault is None:
            await self._app(scope, receive, send)
            return
        exchange = await _begin(scope, receive, send)
        if exchange is None:
            return
        await self._befall(fault, exchange, service)

    def resume(self) -> None:
        """The server has started: connections may wait again."""
        self._stopping = False

    def release(self) -> None:
        """Breaks the connections that wait on purpose, now and later, so that the server can stop."""
        self._stopping = True
        for transport in list(self._waiting):
            reset(transport)

    async def _befall(self, fault: Order, exchange: Exchange, service: str) -> None:
        match fault.kind:
            case "status":
                await exchange.answer(*_status_answer(fault, service))
            case "html":
                headers = {"content-type": "text/html; charset=utf-8"}
                await exchange.answer(200, headers, _HTML)
            case "reset":
                await exchange.break_off()
            case "reset_after":
                await exchange.process(self._app)
                await exchange.break_off()
            case "cut_body" | "cut_json" as kind:
                start, body = await exchange.process(self._app)
                await exchange.cut(start, body, announced=kind == "cut_body")
            case "hang":
                if fault.details["processed"]:
                    await exchange.process(self._app)
                await self._wait(exchange, None)
            case "slow":
                if await self._wait(exchange, fault.details["seconds"]):
                    await self._app(exchange.scope, exchange.replay, exchange.send)

    async def _wait(self, exchange: Exchange, seconds: float | None) -> bool:
        """Whether the client is still there after `seconds` (None: waits until it is not)."""
        self._waiting.add(exchange.transport)
        if self._stopping:
            reset(exchange.transport)
        try:
            await asyncio.wait_for(exchange.gone(), seconds)
        except TimeoutError:
            return True
        finally:
            self._waiting.discard(exchange.transport)
        return False


@dataclass
class Exchange:
    """One request whose body has arrived, and the means to answer it or not."""

    scope: Scope
    body: bytes
    receive: Receive
    send: Send
    replayed: bool = False

    @property
    def transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self.scope[TRANSPORT]
        return transport

    async def replay(self) -> Message:
        """The request's body for the application, as if it had just come in."""
        if self.replayed:
            return await self.receive()
        self.replayed = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def process(self, app: ASGIApp) -> tuple[Message, bytes]:
        """The start and the body of the application's answer, which is not sent."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await app(self.scope, self.replay, keep)
        return sent[0], b"".join(message.get("body", b"") for message in sent[1:])

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        head = {"content-length": str(len(body)), **headers}
        raw = [(name.lower().encode(), str(value).encode()) for name, value in head.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def cut(self, start: Message, body: bytes, *, announced: bool) -> None:
        """Sends the headers and half of the body; then hangs up, if all of it was `announced`."""
        if not announced:
            half = body[: max(len(body) // 2, 1)]
            await self.answer(start["status"], {"content-type": "application/json"}, half)
            return
        others = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        length = str(max(len(body), 1)).encode()
        await self.send({**start, "headers": [*others, (b"content-length", length)]})
        half = body[: len(body) // 2]
        await self.send({"type": "http.response.body", "body": half, "more_body": True})
        # Closing, unlike resetting, lets what is written arrive.
        self.transport.close()
        await self.gone()

    async def break_off(self) -> None:
        reset(self.transport)
        await self.gone()

    async def gone(self) -> None:
        """Returns when the connection is closed, from whichever end.

        Only then may the application end without an answer: uvicorn takes it
        for a defect otherwise, and logs it.
        """
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def _begin(scope: Scope, receive: Receive, send: Send) -> Exchange | None:
    """The exchange, with the whole body read; None if the client hung up amid it."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return Exchange(scope, bytes(body), receive, send)


def _status_answer(fault: Order, service: str) -> tuple[int, dict[str, str], bytes]:
    """What the order says; where it is silent, what the service would say to such a status."""
    status, body = fault.details["status"], fault.details["body"]
    if body is None:
        words = f"Ordered fault: {status}"
        if service == "otlp":
            headers = {"content-type": PROTOBUF, **fault.details["headers"]}
            return status, headers, status_body(words)
        if service == "buildkite":
            body = {"message": words}
        else:
            body = {"error": _HONEYCOMB_WORDS.get(status, words)}
    content = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    kind = "text/plain" if isinstance(body, str) else "application/json"
    return status, {"content-type": kind, **fault.details["headers"]}, content

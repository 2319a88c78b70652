"""A real HTTP server on loopback that sends the responses of a test, byte for byte."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int


@dataclass(frozen=True)
class Answer:
    """A well-formed response. `length` overrides its Content-Length."""

    status: int = 200
    body: bytes = b"[]"
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None

    def bytes(self) -> bytes:
        headers = {"Content-Type": "application/json", **self.headers}
        headers["Content-Length"] = str(len(self.body) if self.length is None else self.length)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} Scripted\r\n{lines}\r\n".encode() + self.body


@dataclass(frozen=True)
class Raw:
    """Raw bytes to send, after which the connection is closed."""

    wire: bytes


class Hang:
    """No response until the server is closed."""


Scripted = Answer | Raw | Hang
Reply = Scripted | Callable[[Request], Scripted]


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(value).encode(), headers or {})


class ScriptedServer(ThreadingHTTPServer):
    """Sends the replies in order, then `otherwise`; records the requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: deque[Reply] = deque()
        self.otherwise: Reply = Answer()
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, request: Request) -> Scripted:
        with self.lock:
            self.requests.append(request)
            reply = self.replies.popleft() if self.replies else self.otherwise
        return reply(request) if callable(reply) else reply

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect early: tests do so on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Nagle's algorithm would delay each reply by 40 ms.
    disable_nagle_algorithm = True
    server: ScriptedServer

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(
            self.command, self.path, self.headers, body, connection=self.client_address[1]
        )
        match self.server.take(request):
            case Answer() as answer:
                self.wfile.write(answer.bytes())
            case Raw(wire):
                self.wfile.write(wire)
                self.close_connection = True
            case Hang():
                self.server.closing.wait(10)
                self.close_connection = True

    do_GET = do_POST = do_HEAD = answer  # noqa: N815 - http.server's names

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()

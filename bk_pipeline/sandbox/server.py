"""The sandbox as one server: its parts put together, and two ways to run it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from threading import Event, Thread

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bk_pipeline.sandbox.bodies import json_reply
from bk_pipeline.sandbox.buildkite import MAIN_USER, BuildkiteSide
from bk_pipeline.sandbox.control import Control, own_site
from bk_pipeline.sandbox.credentials import ALL_SCOPES, KeyKind
from bk_pipeline.sandbox.faults import Faults
from bk_pipeline.sandbox.honeycomb import HoneycombSide
from bk_pipeline.sandbox.limits import RateLimits
from bk_pipeline.sandbox.otlp import OtlpSide
from bk_pipeline.sandbox.transport import SandboxServer
from bk_pipeline.sandbox.trouble import Side, Trouble
from bk_pipeline.sandbox.world import World

# Which service a path belongs to. A further service has its line here, in `faults.SERVICES`,
# and its routes and side in `Sandbox`.
_PREFIXES = {"/v2/": "buildkite", "/1/": "honeycomb", "/v1/": "otlp"}


class Sandbox:
    """All services, their credentials and their faults.

    Args:
        world: What Buildkite has to tell. Its clock becomes this sandbox's.
        limits: Whether rate limits are enforced; their headers are there either way.
        user_limit: Requests that one user may make in a window.
        organization_limit: Requests that all users together may make in a window.
        window_s: Length of a window.
        background_requests: How many requests others in the organization make with each of ours.
        clock: Seconds since 1970, for everything that depends on the time.
        keep_events: False: Honeycomb's events and OTLP's spans are counted and forgotten.
        cache_responses: Buildkite's are kept, and given again to the same question: for worlds
            whose builds have all come to rest, and for whoever measures something else.
        max_depth: How many builds deep a listing may be read. Buildkite does not publish its own.
    """

    def __init__(
        self,
        world: World,
        *,
        limits: bool = True,
        user_limit: int = 50,
        organization_limit: int = 200,
        window_s: float = 60.0,
        background_requests: int = 0,
        clock: Callable[[], float] = time.time,
        keep_events: bool = True,
        cache_responses: bool = False,
        max_depth: int = 10_000,
    ) -> None:
        world.clock = clock
        self._clock = clock
        self.world = world
        self.faults = Faults()
        self.limits = RateLimits(
            enforced=limits,
            user_limit=user_limit,
            organization_limit=organization_limit,
            window_s=window_s,
            clock=clock,
            main_user=MAIN_USER,
            background_requests=background_requests,
        )
        self.buildkite = BuildkiteSide(
            world, self.limits, max_depth, cache_responses=cache_responses
        )
        self.honeycomb = HoneycombSide(self.faults, clock, keep_events=keep_events, limits=limits)
        self.otlp = OtlpSide(self.faults, keep_spans=keep_events)
        self.buildkite_token = self.add_token()
        self.honeycomb_key = self.add_honeycomb_key("configuration")
        self.app = self._application()

    def add_token(self, scopes: Sequence[str] = ALL_SCOPES, user: str = MAIN_USER) -> str:
        """A Buildkite token with these scopes. Tokens of one user share that user's limit."""
        return self.buildkite.add_token(scopes, user)

    def add_honeycomb_key(
        self,
        kind: KeyKind = "ingest",
        *,
        create_datasets: bool = True,
        events: bool = True,
        markers: bool = True,
    ) -> str:
        """A Honeycomb key; see `HoneycombSide.add_key`."""
        return self.honeycomb.add_key(
            kind, create_datasets=create_datasets, events=events, markers=markers
        )

    def _application(self) -> Trouble:
        control = Control(self.world, self.faults, self.buildkite, self.honeycomb, self.otlp)
        services = (self.buildkite, self.honeycomb, self.otlp, control)
        starlette = Starlette(
            routes=[route for service in services for route in service.routes()],
            exception_handlers={HTTPException: _no_such_route},
        )
        sides: dict[str, Side] = {
            "buildkite": self.buildkite,
            "honeycomb": self.honeycomb,
            "otlp": self.otlp,
        }
        return Trouble(_dated(starlette, self._clock), self.faults, sides, _PREFIXES)


def _dated(app: ASGIApp, clock: Callable[[], float]) -> ASGIApp:
    """`app`, whose answers carry the time of `clock` as their `Date`."""

    async def dated(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(clock(), usegmt=True).encode()
                message = {**message, "headers": [*message["headers"], (b"date", date)]}
            await send(message)

        await app(scope, receive, send_dated)

    return dated


@contextmanager
def running(sandbox: Sandbox, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """The URL of the sandbox, served by a thread as long as the context lasts.

    Requests that hang on purpose end when it does. `port` 0 takes a free one.

    Raises:
        OSError: The port is taken.
    """
    with _listening(host, port) as sock:
        started = Event()
        server = _server(sandbox, host, started.set)
        thread = Thread(
            target=server.run, kwargs={"sockets": [sock]}, name="bk-sandbox", daemon=True
        )
        thread.start()
        try:
            while not started.wait(timeout=0.1):
                if not thread.is_alive():
                    raise RuntimeError("The sandbox's server ended before it had begun.")
            yield _url(sock)
        finally:
            server.should_exit = True
            thread.join()


def serve(sandbox: Sandbox, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM. Calls `on_ready` with the URL when requests are answered.

    Raises:
        OSError: The port is taken.
    """
    with _listening(host, port) as sock:
        url = _url(sock)
        _server(sandbox, host, lambda: on_ready(url)).run(sockets=[sock])


def _server(sandbox: Sandbox, host: str, on_ready: Callable[[], None]) -> SandboxServer:
    def begin() -> None:
        sandbox.app.resume()
        on_ready()

    return SandboxServer(own_site(sandbox.app, host), begin, sandbox.app.release)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=512)


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _no_such_route(request: Request, exc: Exception) -> Response:
    """404 and 405 in JSON, in the words of whichever service the path is nearest to."""
    if not isinstance(exc, HTTPException):
        raise exc
    name = "message" if request.url.path.startswith("/v2/") else "error"
    return json_reply(request, {name: exc.detail}, exc.status_code, exc.headers)

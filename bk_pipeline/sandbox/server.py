"""The sandbox server: all services in one application, and two ways to run it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from threading import Event, Thread
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bk_pipeline.sandbox.artifact_store import PREFIX, ArtifactStore
from bk_pipeline.sandbox.bodies import json_response
from bk_pipeline.sandbox.buildkite import MAIN_USER, BuildkiteService
from bk_pipeline.sandbox.control import Control, same_site_only
from bk_pipeline.sandbox.credentials import ALL_SCOPES, MANAGEMENT, KeyKind
from bk_pipeline.sandbox.fault_injection import FaultInjector, SandboxServer, Service
from bk_pipeline.sandbox.faults import Faults
from bk_pipeline.sandbox.honeycomb import HoneycombService
from bk_pipeline.sandbox.limits import RateLimits
from bk_pipeline.sandbox.otlp import OtlpService
from bk_pipeline.sandbox.world import World

# The service that handles the paths with a prefix. To add a service, add it here, to
# `faults.SERVICES` and to `Sandbox`.
_PREFIXES = {"/v2/": "buildkite", "/store/": "artifacts", "/1/": "honeycomb", "/v1/": "otlp"}


class Sandbox:
    """All services with their credentials and faults.

    Args:
        world: The organization and builds that Buildkite serves. It gets this sandbox's clock.
        limits: Whether rate limits are enforced; their headers are sent either way.
        user_limit: Buildkite requests per window for each user.
        organization_limit: Buildkite requests per window for all users together.
        window_s: Length of a rate limit window.
        background_requests: Requests that others in the organization make for each of ours.
        clock: Seconds since 1970.
        keep_events: If False, Honeycomb events and OTLP spans are counted but not stored.
        cache_responses: Cache pages of builds by URL. Only correct if all builds have finished
            or were added or deleted through `world`. For benchmarks.
        max_depth: How many builds of a listing can be read. Buildkite's limit is not published.
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
        self.buildkite = BuildkiteService(
            world, self.limits, max_depth, cache_responses=cache_responses
        )
        self.artifact_store = self.buildkite.details.store
        self.honeycomb = HoneycombService(
            self.faults, clock, keep_events=keep_events, limits=limits
        )
        self.otlp = OtlpService(self.faults, keep_spans=keep_events)
        self.buildkite_token = self.add_token()
        self.honeycomb_key = self.add_honeycomb_key("configuration")
        self.app = self._application()

    def add_token(self, scopes: Sequence[str] = ALL_SCOPES, user: str = MAIN_USER) -> str:
        """Create a Buildkite token with these scopes. All tokens of a user share its rate limit."""
        return self.buildkite.add_token(scopes, user)

    def add_honeycomb_key(
        self,
        kind: KeyKind = "ingest",
        *,
        create_datasets: bool = True,
        events: bool = True,
        markers: bool = True,
        management: Collection[str] = MANAGEMENT,
    ) -> str:
        """Create a Honeycomb key; see `HoneycombService.add_key`."""
        return self.honeycomb.add_key(
            kind,
            create_datasets=create_datasets,
            events=events,
            markers=markers,
            management=management,
        )

    def _application(self) -> FaultInjector:
        control = Control(self.world, self.faults, self.buildkite, self.honeycomb, self.otlp)
        parts = (self.buildkite, self.artifact_store, self.honeycomb, self.otlp, control)
        starlette = Starlette(
            routes=[route for part in parts for route in part.routes()],
            exception_handlers={HTTPException: _not_found_response},
        )
        services: dict[str, Service] = {
            "buildkite": self.buildkite,
            "artifacts": self.artifact_store,
            "honeycomb": self.honeycomb,
            "otlp": self.otlp,
        }
        by_host = _with_date_header(_hosts_apart(starlette, self.artifact_store), self._clock)
        return FaultInjector(by_host, self.faults, services, _PREFIXES)


def _with_date_header(app: ASGIApp, clock: Callable[[], float]) -> ASGIApp:
    """Wrap `app` so that its responses carry the time of `clock` in their `Date` header."""

    async def with_date_header(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_date(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(clock(), usegmt=True).encode()
                message = {**message, "headers": [*message["headers"], (b"date", date)]}
            await send(message)

        await app(scope, receive, send_with_date)

    return with_date_header


def _hosts_apart(app: ASGIApp, store: ArtifactStore) -> ASGIApp:
    """Wrap `app` so that the store's port serves artifacts only, and no other port does."""

    async def apart(scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server") or ("", None)
        at_store = bool(store.url) and server[1] == urlsplit(store.url).port
        if at_store != scope["path"].startswith(PREFIX):
            await PlainTextResponse("Not Found", 404)(scope, receive, send)
            return
        await app(scope, receive, send)

    return apart


@contextmanager
def running(sandbox: Sandbox, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve the sandbox from a thread while the context is open. Yields its URL.

    Requests that hang because of a fault are reset at the end.

    Args:
        sandbox: What to serve.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        OSError: The port is in use.
    """
    with _listen(sandbox, host, port) as sockets:
        started = Event()
        server = _server(sandbox, host, started.set)
        thread = Thread(
            target=server.run, kwargs={"sockets": sockets}, name="bk-sandbox", daemon=True
        )
        thread.start()
        try:
            while not started.wait(timeout=0.1):
                if not thread.is_alive():
                    raise RuntimeError("The sandbox server stopped before it started.")
            yield _url(sockets[0])
        finally:
            server.should_exit = True
            thread.join()


def serve(sandbox: Sandbox, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Calls `on_ready` with the URL when requests are accepted.

    Raises:
        OSError: The port is in use.
    """
    with _listen(sandbox, host, port) as sockets:
        url = _url(sockets[0])
        _server(sandbox, host, lambda: on_ready(url)).run(sockets=sockets)


def _server(sandbox: Sandbox, host: str, on_ready: Callable[[], None]) -> SandboxServer:
    def on_started() -> None:
        sandbox.app.resume()
        on_ready()

    return SandboxServer(same_site_only(sandbox.app, host), on_started, sandbox.app.release)


@contextmanager
def _listen(sandbox: Sandbox, host: str, port: int) -> Iterator[list[socket.socket]]:
    """The socket of the services, and one on a free port for the store of artifacts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as opened:
        sockets = [
            opened.enter_context(socket.create_server((host, number), family=family, backlog=512))
            for number in (port, 0)
        ]
        sandbox.artifact_store.url = _url(sockets[1])
        yield sockets


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _not_found_response(request: Request, exc: Exception) -> Response:
    """A 404 or 405 as JSON in the form of the service that the path belongs to."""
    if not isinstance(exc, HTTPException):
        raise exc
    name = "message" if request.url.path.startswith("/v2/") else "error"
    return json_response(request, {name: exc.detail}, exc.status_code, exc.headers)

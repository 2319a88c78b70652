"""The routes under `/_sandbox/`: what a program in another process may ask of the sandbox.

They need no credentials, so the sandbox belongs on loopback. Orders are JSON and say so: what
a form of another site's page can send is refused here even where a browser told less than
`own_site` asks for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bk_pipeline.sandbox.bodies import json_reply
from bk_pipeline.sandbox.buildkite import BuildkiteSide
from bk_pipeline.sandbox.datasets import StoredEvent, slug_of
from bk_pipeline.sandbox.faults import Faults
from bk_pipeline.sandbox.honeycomb import HoneycombSide
from bk_pipeline.sandbox.otlp import OtlpSide
from bk_pipeline.sandbox.times import format_time
from bk_pipeline.sandbox.world import World

_REMARKS_SHOWN = 20
_EVENTS_SHOWN = 100
_WELCOME = """\
This is the bk_pipeline sandbox: a stand-in for the APIs of Buildkite and Honeycomb,
and for an OTLP endpoint.
Nothing here is real; no account is touched.

  Buildkite   /v2/organizations/{organization}/builds
  Honeycomb   /1/batch/{{dataset}}  /1/events/{{dataset}}  /1/auth
              /1/markers/{{dataset}}  /1/marker_settings/{{dataset}}
  OTLP        /v1/traces  /v1/metrics
  Control     /_sandbox/stored  /_sandbox/events  /_sandbox/markers
              /_sandbox/faults  /_sandbox/builds  /_sandbox/reset
"""


class Control:
    """Looks into the sides and gives them orders."""

    def __init__(
        self,
        world: World,
        faults: Faults,
        buildkite: BuildkiteSide,
        honeycomb: HoneycombSide,
        otlp: OtlpSide,
    ) -> None:
        self._world = world
        self._faults = faults
        self._buildkite = buildkite
        self._honeycomb = honeycomb
        self._otlp = otlp

    def routes(self) -> list[Route]:
        return [
            Route("/", self._welcome),
            Route("/_sandbox/stored", self._stored),
            Route("/_sandbox/events", self._events),
            Route("/_sandbox/markers", self._markers),
            Route("/_sandbox/faults", _takes_json(self._order), methods=["POST"]),
            Route("/_sandbox/builds", _takes_json(self._add_build), methods=["POST"]),
            Route("/_sandbox/reset", _takes_json(self._reset), methods=["POST"]),
        ]

    def _welcome(self, _request: Request) -> Response:
        return PlainTextResponse(_WELCOME.format(organization=self._world.organization.slug))

    def _stored(self, request: Request) -> Response:
        store = self._honeycomb.store
        content = {
            "event_count": store.event_count,
            "duplicate_count": store.duplicate_count,
            "distinct_spans": store.distinct_spans,
            "datasets": dict(store.datasets),
            "buildkite_requests": self._buildkite.request_count,
            "buildkite_refused": self._buildkite.limits.refused_count,
            "honeycomb_requests": self._honeycomb.request_count,
            "otlp_span_count": self._otlp.span_count,
            "otlp_duplicate_count": self._otlp.duplicate_count,
            "otlp_requests": self._otlp.request_count,
            "otlp_metrics": dict(self._otlp.metrics.totals),
            "otlp_point_count": self._otlp.metrics.count,
            "otlp_point_duplicate_count": self._otlp.metrics.duplicate_count,
            "marker_count": len(self._honeycomb.markers.markers),
            "remark_count": store.remark_count,
            "remarks": store.remarks[:_REMARKS_SHOWN],
        }
        return json_reply(request, content)

    def _events(self, request: Request) -> Response:
        """The latest events, newest last: `dataset`, `trace_id` and `limit` narrow them down."""
        params = request.query_params
        limit = params.get("limit", str(_EVENTS_SHOWN))
        if not limit.isdecimal() or int(limit) == 0:
            return json_reply(request, {"error": f"limit: {limit!r} is not a positive number"}, 400)
        dataset, trace_id = params.get("dataset"), params.get("trace_id")
        found = [
            event
            for event in list(self._honeycomb.events)
            if (dataset is None or slug_of(event.dataset) == slug_of(dataset))
            and (trace_id is None or event.data.get("trace.trace_id") == trace_id)
        ]
        return json_reply(request, [_shown(event) for event in found[-int(limit) :]])

    def _markers(self, request: Request) -> Response:
        """All markers, each with its dataset, in order of creation."""
        return json_reply(request, self._honeycomb.markers.markers)

    def _order(self, request: Request, body: bytes) -> Response:
        """Orders a fault; the body has the arguments of `Faults.inject`."""
        try:
            order = msgspec.json.decode(body, type=dict[str, Any])
            self._faults.inject(**order)
        except (msgspec.MsgspecError, TypeError, ValueError) as exc:
            return json_reply(request, {"error": str(exc)}, 400)
        return json_reply(request, {"ordered": order}, 201)

    def _add_build(self, request: Request, body: bytes) -> Response:
        """Adds the build in the body; without a body, a small one that has just finished."""
        try:
            if body.strip():
                build = msgspec.json.decode(body, type=dict[str, Any])
                self._world.add_build(build)
            else:
                build = self._world.finish_build_now()
        except ValueError as exc:
            return json_reply(request, {"error": str(exc)}, 400)
        return json_reply(request, build, 201)

    def _reset(self, request: Request, _body: bytes) -> Response:
        """Forgets stored events, spans and counts; builds, faults and credentials stay."""
        self._honeycomb.reset()
        self._otlp.reset()
        self._buildkite.reset()
        return json_reply(request, {})


def _takes_json(
    answer: Callable[[Request, bytes], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that gives `answer` the request's body, empty or said to be JSON."""

    async def endpoint(request: Request) -> Response:
        body = await request.body()
        kind = request.headers.get("content-type")
        if kind is None and body:
            return json_reply(request, {"error": "Content-Type: application/json is missing"}, 400)
        if kind is not None and kind.partition(";")[0].strip().lower() != "application/json":
            return json_reply(request, {"error": "Content-Type is not application/json"}, 415)
        return answer(request, body)

    return endpoint


def _shown(event: StoredEvent) -> dict[str, Any]:
    return {
        "dataset": event.dataset,
        "time": format_time(event.time_ns // 1_000_000),
        "time_ns": event.time_ns,
        "samplerate": event.samplerate,
        "data": event.data,
    }


# What browsers send for a page of this server, and for an address that a person typed in.
_SAME = frozenset({"same-origin", "none"})
# Names that are nobody's to register on the internet.
_PRIVATE = (".localhost", ".internal")


def own_site(app: ASGIApp, host: str) -> ASGIApp:
    """`app` for requests that no other site has made; all others are answered with a 403.

    Args:
        app: The application.
        host: The name or address that the server listens on.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        refused = refusal(Headers(scope=scope), host) if scope["type"] == "http" else None
        answer = app if refused is None else JSONResponse({"error": refused}, status_code=403)
        await answer(scope, receive, send)

    return guarded


def refusal(headers: Headers, host: str) -> str | None:
    """Why a request with these headers is refused; None if it is not."""
    named = headers.getlist("host")
    if len(named) != 1 or not _ours(named[0], host):
        return "Host is not a name of this machine: ask by its address, or by localhost"
    origins = headers.getlist("origin")
    if any(origin.lower() != f"http://{named[0].lower()}" for origin in origins):
        return "Origin is another site, and the sandbox takes no requests of other sites"
    if any(site not in _SAME for site in headers.getlist("sec-fetch-site")):
        return "Sec-Fetch-Site is another site, and the sandbox takes no requests of other sites"
    return None


def _ours(named: str, host: str) -> bool:
    """Whether `Host: <named>` cannot be an attacker's domain: an address, or a private name."""
    name = (
        named.rpartition("]")[0].lstrip("[")
        if named.startswith("[")
        else named.split(":", maxsplit=1)[0]
    )
    name = name.lower().removesuffix(".")
    if not name:
        return False
    try:
        ip_address(name)
    except ValueError:
        # A name without a dot is one of this network, like a container's.
        return name == host.lower() or "." not in name or name.endswith(_PRIVATE)
    return True

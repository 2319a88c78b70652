"""The control routes under `/_sandbox/`, and the check that keeps other web sites out.

The control routes need no credentials, so the sandbox should listen on loopback only. A web page
of another site could still make the user's browser send requests there. `same_site_only` rejects
those by their `Host`, `Origin` and `Sec-Fetch-Site` headers. In addition, POST requests must
declare a JSON body, which an HTML form cannot do.
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

from bk_pipeline.sandbox.bodies import json_response
from bk_pipeline.sandbox.buildkite import BuildkiteService
from bk_pipeline.sandbox.datasets import StoredEvent, dataset_slug
from bk_pipeline.sandbox.faults import Faults
from bk_pipeline.sandbox.honeycomb import HoneycombService
from bk_pipeline.sandbox.otlp import OtlpService
from bk_pipeline.sandbox.times import format_time
from bk_pipeline.sandbox.world import World

# `Sec-Fetch-Site` of a page of this server, and of an address that a person typed in.
_SAME_SITE = frozenset({"same-origin", "none"})
# Domains that cannot be registered on the internet.
_PRIVATE_SUFFIXES = (".localhost", ".internal")
_WARNINGS_SHOWN = 20
_DEFAULT_EVENT_LIMIT = 100
_WELCOME = """\
This is the bk_pipeline sandbox: a stand-in for the APIs of Buildkite and Honeycomb,
and for an OTLP endpoint.
Nothing here is real; no account is touched.

  Buildkite   /v2/organizations/{organization}/builds
              .../builds/{{number}}/artifacts  .../jobs/{{id}}/log  .../jobs/{{id}}/log.txt
  Honeycomb   /1/batch/{{dataset}}  /1/events/{{dataset}}  /1/auth
              /1/markers/{{dataset}}  /1/marker_settings/{{dataset}}
              /1/boards  /1/datasets  and in each {{dataset}}: /1/columns  /1/derived_columns
              /1/queries  /1/query_annotations  /1/triggers  /1/slos
  OTLP        /v1/traces  /v1/metrics
  Control     /_sandbox/stored  /_sandbox/events  /_sandbox/markers
              /_sandbox/faults  /_sandbox/builds  /_sandbox/reset
"""


class Control:
    """The control routes: inspect what has arrived, inject faults, add builds, reset."""

    def __init__(
        self,
        world: World,
        faults: Faults,
        buildkite: BuildkiteService,
        honeycomb: HoneycombService,
        otlp: OtlpService,
    ) -> None:
        self._world = world
        self._faults = faults
        self._buildkite = buildkite
        self._honeycomb = honeycomb
        self._otlp = otlp

    def routes(self) -> list[Route]:
        """The routes of the front page and under `/_sandbox/`."""
        return [
            Route("/", self._welcome),
            Route("/_sandbox/stored", self._stored),
            Route("/_sandbox/events", self._events),
            Route("/_sandbox/markers", self._markers),
            Route("/_sandbox/faults", _json_endpoint(self._inject_fault), methods=["POST"]),
            Route("/_sandbox/builds", _json_endpoint(self._add_build), methods=["POST"]),
            Route("/_sandbox/reset", _json_endpoint(self._reset), methods=["POST"]),
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
            "artifact_requests": self._buildkite.details.store.request_count,
            "artifact_requests_with_credentials": self._buildkite.details.store.leaked_count,
            "honeycomb_requests": self._honeycomb.request_count,
            "otlp_span_count": self._otlp.span_count,
            "otlp_duplicate_count": self._otlp.duplicate_count,
            "otlp_requests": self._otlp.request_count,
            "otlp_metrics": dict(self._otlp.metrics.totals),
            "otlp_point_count": self._otlp.metrics.count,
            "otlp_point_duplicate_count": self._otlp.metrics.duplicate_count,
            "marker_count": len(self._honeycomb.markers.markers),
            "warning_count": store.warning_count,
            "warnings": store.warnings[:_WARNINGS_SHOWN],
        }
        return json_response(request, content)

    def _events(self, request: Request) -> Response:
        """The latest events, newest last, filtered by `dataset` and `trace_id`, at most `limit`."""
        params = request.query_params
        limit = params.get("limit", str(_DEFAULT_EVENT_LIMIT))
        if not limit.isdecimal() or int(limit) == 0:
            return json_response(
                request, {"error": f"limit: {limit!r} is not a positive number"}, 400
            )
        dataset, trace_id = params.get("dataset"), params.get("trace_id")
        found = [
            event
            for event in list(self._honeycomb.events)
            if (dataset is None or dataset_slug(event.dataset) == dataset_slug(dataset))
            and (trace_id is None or event.data.get("trace.trace_id") == trace_id)
        ]
        return json_response(request, [_event_json(event) for event in found[-int(limit) :]])

    def _markers(self, request: Request) -> Response:
        """All markers, each with its dataset, in order of creation."""
        return json_response(request, self._honeycomb.markers.markers)

    def _inject_fault(self, request: Request, body: bytes) -> Response:
        """Inject a fault. The body holds the arguments of `Faults.inject`."""
        try:
            fault = msgspec.json.decode(body, type=dict[str, Any])
            self._faults.inject(**fault)
        except (msgspec.MsgspecError, TypeError, ValueError) as exc:
            return json_response(request, {"error": str(exc)}, 400)
        return json_response(request, {"ordered": fault}, 201)

    def _add_build(self, request: Request, body: bytes) -> Response:
        """Add the build in the body, or without a body a small build that has just finished."""
        try:
            if body.strip():
                build = msgspec.json.decode(body, type=dict[str, Any])
                self._world.add_build(build)
            else:
                build = self._world.finish_build_now()
        except ValueError as exc:
            return json_response(request, {"error": str(exc)}, 400)
        return json_response(request, build, 201)

    def _reset(self, request: Request, _body: bytes) -> Response:
        """Forget stored events, spans, markers and counts. Builds, faults and credentials stay."""
        self._honeycomb.reset()
        self._otlp.reset()
        self._buildkite.reset()
        self._buildkite.details.store.reset()
        return json_response(request, {})


def _json_endpoint(
    handler: Callable[[Request, bytes], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that calls `handler` with a body that is empty or declared as JSON."""

    async def endpoint(request: Request) -> Response:
        body = await request.body()
        content_type = request.headers.get("content-type")
        if content_type is None and body:
            return json_response(
                request, {"error": "Content-Type: application/json is missing"}, 400
            )
        if content_type is not None and _media_type(content_type) != "application/json":
            return json_response(request, {"error": "Content-Type is not application/json"}, 415)
        return handler(request, body)

    return endpoint


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _event_json(event: StoredEvent) -> dict[str, Any]:
    return {
        "dataset": event.dataset,
        "time": format_time(event.time_ns // 1_000_000),
        "time_ns": event.time_ns,
        "samplerate": event.samplerate,
        "data": event.data,
    }


def same_site_only(app: ASGIApp, host: str) -> ASGIApp:
    """Wrap `app` so that requests made by other web sites get a 403.

    Args:
        app: The application.
        host: The name or address that the server listens on, accepted as `Host`.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        reason = forbidden_reason(Headers(scope=scope), host) if scope["type"] == "http" else None
        handler = app if reason is None else JSONResponse({"error": reason}, status_code=403)
        await handler(scope, receive, send)

    return guarded


def forbidden_reason(headers: Headers, host: str) -> str | None:
    """Why a request with these headers is rejected, or None if it is not.

    Args:
        headers: The request's headers.
        host: The name or address that the server listens on.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_local_name(hosts[0], host):
        return "Host is not a name of this machine: use its address, or localhost"
    origins = headers.getlist("origin")
    if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
        return "Origin is another site, and the sandbox accepts no requests from other sites"
    if any(site not in _SAME_SITE for site in headers.getlist("sec-fetch-site")):
        return (
            "Sec-Fetch-Site is another site, and the sandbox accepts no requests from other sites"
        )
    return None


def _is_local_name(value: str, host: str) -> bool:
    """Whether `Host: <value>` is an address or a private name, so not an attacker's domain."""
    name = (
        value.rpartition("]")[0].lstrip("[")
        if value.startswith("[")
        else value.split(":", maxsplit=1)[0]
    )
    name = name.lower().removesuffix(".")
    if not name:
        return False
    try:
        ip_address(name)
    except ValueError:
        # A name without a dot belongs to the local network, like a container's.
        return name == host.lower() or "." not in name or name.endswith(_PRIVATE_SUFFIXES)
    return True

"""Buildkite's REST API: builds, pipelines, the organization, its clusters, the token and the rate limits.

What is inside jobs is in `details`. The wording of error messages is a guess, except for the 401 and for listings
that are too deep. Clients should rely on the status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bk_pipeline.sandbox.bodies import ApiError, encode_json, json_response
from bk_pipeline.sandbox.credentials import ALL_SCOPES, Token, token_value
from bk_pipeline.sandbox.details import DetailsEndpoints
from bk_pipeline.sandbox.limits import RateLimits
from bk_pipeline.sandbox.listing import (
    Entry,
    View,
    link_header,
    parse_filters,
    parse_page,
    parse_view,
    payload_of,
)
from bk_pipeline.sandbox.world import World

_TOO_DEEP = (
    "Listing builds this deep is not supported. "
    "Please narrow your query using filters such as branch or created_from."
)
_UNAUTHENTICATED = (
    "Authentication required. Please supply a valid API Access Token: "
    "https://buildkite.com/docs/apis/rest-api#authentication"
)
MAIN_USER = "sandbox"

# An endpoint's result: the content of the body, and additional headers.
Content = tuple[Any, dict[str, str]]


class BuildkiteService:
    """Serves a world in the way of Buildkite's REST API.

    Args:
        world: The organization and its builds.
        limits: The rate limits.
        max_depth: How many builds of a listing can be read.
        cache_responses: Cache pages of builds by URL.

    Attributes:
        requests: All requests in order of arrival as (method, path, query string), including
            rejected ones and those that a fault prevented.
    """

    def __init__(
        self, world: World, limits: RateLimits, max_depth: int, *, cache_responses: bool = False
    ) -> None:
        self.world = world
        self.limits = limits
        self.max_depth = max_depth
        self.requests: list[tuple[str, str, str]] = []
        self.details = DetailsEndpoints(world)
        self._tokens: dict[str, Token] = {}
        self._caching = cache_responses
        self._cache: dict[tuple[Any, ...], tuple[bytes, dict[str, str]]] = {}

    @property
    def request_count(self) -> int:
        """How many requests have arrived since the last reset."""
        return len(self.requests)

    def record_request(self, method: str, path: str, query: str) -> None:
        """Record a request in `requests`."""
        self.requests.append((method, path, query))

    def reset(self) -> None:
        """Forget the recorded requests. Tokens stay."""
        self.requests = []

    def add_token(self, scopes: Sequence[str] = ALL_SCOPES, user: str = MAIN_USER) -> str:
        """Create a token with these scopes. All tokens of a user share its rate limit."""
        value = token_value(len(self._tokens) + 1)
        self._tokens[value] = Token(value, tuple(scopes), user)
        return value

    def routes(self) -> list[Route]:
        """The routes under `/v2/`."""
        organization = "/v2/organizations/{organization}"
        pipeline = organization + "/pipelines/{slug}"
        return [
            self._route(organization, self._organization, "read_organizations"),
            self._route(organization + "/rate_limit", self._rate_limit, "read_accounts"),
            self._route(organization + "/clusters", self._clusters, "read_clusters"),
            self._route(organization + "/pipelines", self._pipelines, "read_pipelines"),
            self._route(organization + "/builds", self._builds, "read_builds"),
            self._route(pipeline + "/builds", self._builds, "read_builds"),
            self._route(pipeline + "/builds/{number:int}", self._build, "read_builds"),
            *self._detail_routes(pipeline + "/builds/{number:int}"),
            self._route("/v2/access-token", self._access_token, None),
            self._route("/v2/{rest:path}", self._not_found, None),
        ]

    def _detail_routes(self, build: str) -> list[Route]:
        job, one = build + "/jobs/{job_id}", "/{artifact_id}"
        details, logs, files = self.details, "read_build_logs", "read_artifacts"
        tests = "/v2/analytics/organizations/{organization}/builds/{build_id}/tests"
        return [
            self._raw_route(job + "/log", details.log, logs),
            self._raw_route(job + "/log.txt", details.log, logs),
            self._raw_route(build + "/artifacts", details.build_artifacts, files),
            self._raw_route(job + "/artifacts", details.job_artifacts, files),
            self._raw_route(job + "/artifacts" + one, details.artifact, files),
            self._raw_route(job + "/artifacts" + one + "/download", details.download, files),
            self._raw_route(tests, details.tests, "read_suites"),
        ]

    def _route(self, path: str, handler: Callable[[Request], Content], scope: str | None) -> Route:
        def respond(request: Request) -> Response:
            content, headers = self._content(request, handler)
            return Response(content, 200, headers, media_type="application/json")

        return self._raw_route(path, respond, scope)

    def _raw_route(
        self, path: str, respond: Callable[[Request], Response], scope: str | None
    ) -> Route:
        def endpoint(request: Request) -> Response:
            return self._respond(request, respond, scope)

        return Route(path, endpoint)

    def _respond(
        self, request: Request, respond: Callable[[Request], Response], scope: str | None
    ) -> Response:
        """The response, successful or not, with the rate limit headers."""
        token = self._token(request)
        check = self.limits.count_request(token.user if token else None)
        if check.error_body is not None:
            return json_response(request, check.error_body, 429, check.headers)
        try:
            self._authorize(request, token, scope)
            response = respond(request)
        except ApiError as error:
            body = {"message": error.message}
            return json_response(request, body, error.status, check.headers)
        response.headers.update(check.headers)
        return response

    def _content(
        self, request: Request, handler: Callable[[Request], Content]
    ) -> tuple[bytes, dict[str, str]]:
        """The body and headers of a successful response. Pages of builds come from the cache."""
        cache_key = (str(request.url), request.headers.get("accept-encoding"), self.world.revision)
        if cache_key in self._cache:
            return self._cache[cache_key]
        content, headers = handler(request)
        body, encoding = encode_json(request, content)
        response = body, {**encoding, **headers}
        if self._caching and handler == self._builds:
            self._cache[cache_key] = response
        return response

    def _authorize(self, request: Request, token: Token | None, scope: str | None) -> None:
        if token is None:
            raise ApiError(401, _UNAUTHENTICATED)
        if scope is not None and scope not in token.scopes:
            raise ApiError(403, f"Your API Access Token does not have the `{scope}` scope")
        if request.path_params.get("organization", self._slug) != self._slug:
            raise ApiError(404, "No organization found")

    @property
    def _slug(self) -> str:
        return self.world.organization.slug

    def _token(self, request: Request) -> Token | None:
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        return self._tokens.get(value.strip()) if kind.lower() == "bearer" else None

    def _organization(self, _request: Request) -> Content:
        return self.world.organization.payload, {}

    def _rate_limit(self, _request: Request) -> Content:
        return self.limits.status(), {}

    def _access_token(self, request: Request) -> Content:
        token = self._token(request)
        if token is None:
            raise ApiError(401, _UNAUTHENTICATED)
        return token.payload(), {}

    def _not_found(self, _request: Request) -> Content:
        raise ApiError(404, "Not found")

    def _clusters(self, request: Request) -> Content:
        return _page(request, self.world.organization.clusters)

    def _pipelines(self, request: Request) -> Content:
        return _page(request, list(self.world.pipelines().values()))

    def _builds(self, request: Request) -> Content:
        """A page of builds, newest first.

        `rel="last"` needs the number of builds, so the listing is counted
        down to the depth limit. A deeper listing has `next` links but no
        `last`, and pages beyond the limit are rejected.
        """
        params = request.query_params
        filters = parse_filters(params, self._pipeline_slug(request))
        view = parse_view(params)
        page, per_page = parse_page(params)
        start, end = (page - 1) * per_page, page * per_page
        if start >= self.max_depth:
            raise ApiError(400, _TOO_DEEP)
        at_ms = self.world.now_ms()
        depth = max(self.max_depth, end)
        found = list(islice(self.world.find(filters, at_ms), depth + 1))
        last = None if len(found) > depth else -(-len(found) // per_page)
        link = link_header(request.url, params, page, last, more=len(found) > end)
        return _payloads(found[start:end], view, at_ms), {"Link": link} if link else {}

    def _build(self, request: Request) -> Content:
        slug, at_ms = self._pipeline_slug(request), self.world.now_ms()
        view = parse_view(request.query_params)
        entry = self.world.build(slug or "", request.path_params["number"], at_ms)
        if entry is None:
            raise ApiError(404, "No build found")
        return payload_of(entry, view, at_ms), {}

    def _pipeline_slug(self, request: Request) -> str | None:
        slug: str | None = request.path_params.get("slug")
        if slug is not None and slug not in self.world.pipelines():
            raise ApiError(404, "No pipeline found")
        return slug


def _page(request: Request, elements: Sequence[dict[str, Any]]) -> Content:
    """The requested page of a short listing."""
    params = request.query_params
    page, per_page = parse_page(params)
    start = (page - 1) * per_page
    more = start + per_page < len(elements)
    last = -(-len(elements) // per_page)
    link = link_header(request.url, params, page, last, more=more)
    return elements[start : start + per_page], {"Link": link} if link else {}


def _payloads(entries: Sequence[Entry], view: View, at_ms: int) -> list[dict[str, Any]]:
    payloads = (payload_of(entry, view, at_ms) for entry in entries)
    return [payload for payload in payloads if payload is not None]

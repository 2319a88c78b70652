"""The Buildkite side: builds, pipelines, the organization, the token, the limits.

The wording of refusals is a guess except for the too-deep listing's and the
401's: clients should go by the status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bk_pipeline.sandbox.bodies import Refusal, encoded, json_reply
from bk_pipeline.sandbox.credentials import ALL_SCOPES, Token, token_value
from bk_pipeline.sandbox.limits import RateLimits
from bk_pipeline.sandbox.listing import (
    Entry,
    View,
    link_header,
    listing_of,
    page_of,
    payload_of,
    view_of,
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

# An endpoint's answer: what goes into the body, and headers of its own.
Answer = tuple[Any, dict[str, str]]


class BuildkiteSide:
    """Serves a world as Buildkite's REST API would.

    `request_count` and `requests` tell of every request that arrived, in
    order, as (method, path, query string); those refused, or lost to a fault, too.
    """

    def __init__(
        self, world: World, limits: RateLimits, max_depth: int, *, cache_responses: bool = False
    ) -> None:
        self.world = world
        self.limits = limits
        self.max_depth = max_depth
        self.requests: list[tuple[str, str, str]] = []
        self._tokens: dict[str, Token] = {}
        self._keeps = cache_responses
        self._kept: dict[tuple[Any, ...], tuple[bytes, dict[str, str]]] = {}

    @property
    def request_count(self) -> int:
        return len(self.requests)

    def arrived(self, method: str, path: str, query: str) -> None:
        self.requests.append((method, path, query))

    def reset(self) -> None:
        self.requests = []

    def add_token(self, scopes: Sequence[str] = ALL_SCOPES, user: str = MAIN_USER) -> str:
        """A new token with these scopes. Tokens of one user share that user's limit."""
        value = token_value(len(self._tokens) + 1)
        self._tokens[value] = Token(value, tuple(scopes), user)
        return value

    def routes(self) -> list[Route]:
        organization = "/v2/organizations/{organization}"
        pipeline = organization + "/pipelines/{slug}"
        return [
            self._route(organization, self._organization, "read_organizations"),
            self._route(organization + "/rate_limit", self._rate_limit, "read_accounts"),
            self._route(organization + "/pipelines", self._pipelines, "read_pipelines"),
            self._route(organization + "/builds", self._builds, "read_builds"),
            self._route(pipeline + "/builds", self._builds, "read_builds"),
            self._route(pipeline + "/builds/{number:int}", self._build, "read_builds"),
            self._route("/v2/access-token", self._access_token, None),
            self._route("/v2/{rest:path}", self._nothing, None),
        ]

    def _route(self, path: str, answer: Callable[[Request], Answer], scope: str | None) -> Route:
        def endpoint(request: Request) -> Response:
            return self._reply(request, answer, scope)

        return Route(path, endpoint)

    def _reply(
        self, request: Request, answer: Callable[[Request], Answer], scope: str | None
    ) -> Response:
        """The answer, or a refusal; the limits' headers are on either."""
        token = self._token(request)
        verdict = self.limits.spend(token.user if token else None)
        if verdict.refusal is not None:
            return json_reply(request, verdict.refusal, 429, verdict.headers)
        try:
            self._admit(request, token, scope)
            content, headers = self._answer(request, answer)
        except Refusal as refusal:
            body = {"message": refusal.message}
            return json_reply(request, body, refusal.status, verdict.headers)
        headers = {**verdict.headers, **headers}
        return Response(content, 200, headers, media_type="application/json")

    def _answer(
        self, request: Request, answer: Callable[[Request], Answer]
    ) -> tuple[bytes, dict[str, str]]:
        """The body and headers of an answer, new or kept. Only pages of builds are kept."""
        asked = (str(request.url), request.headers.get("accept-encoding"), self.world.changes)
        if asked in self._kept:
            return self._kept[asked]
        content, headers = answer(request)
        body, encoding = encoded(request, content)
        reply = body, {**encoding, **headers}
        if self._keeps and answer == self._builds:
            self._kept[asked] = reply
        return reply

    def _admit(self, request: Request, token: Token | None, scope: str | None) -> None:
        if token is None:
            raise Refusal(401, _UNAUTHENTICATED)
        if scope is not None and scope not in token.scopes:
            raise Refusal(403, f"Your API Access Token does not have the `{scope}` scope")
        if request.path_params.get("organization", self._slug) != self._slug:
            raise Refusal(404, "No organization found")

    @property
    def _slug(self) -> str:
        return self.world.organization.slug

    def _token(self, request: Request) -> Token | None:
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        return self._tokens.get(value.strip()) if kind.lower() == "bearer" else None

    def _organization(self, _request: Request) -> Answer:
        return self.world.organization.payload, {}

    def _rate_limit(self, _request: Request) -> Answer:
        return self.limits.standing(), {}

    def _access_token(self, request: Request) -> Answer:
        token = self._token(request)
        if token is None:
            raise Refusal(401, _UNAUTHENTICATED)
        return token.payload(), {}

    def _nothing(self, _request: Request) -> Answer:
        raise Refusal(404, "Not found")

    def _pipelines(self, request: Request) -> Answer:
        params = request.query_params
        page, per_page = page_of(params)
        pipelines = list(self.world.pipelines().values())
        begin = (page - 1) * per_page
        more = begin + per_page < len(pipelines)
        last = -(-len(pipelines) // per_page)
        link = link_header(request.url, params, page, last, more=more)
        return pipelines[begin : begin + per_page], {"Link": link} if link else {}

    def _builds(self, request: Request) -> Answer:
        """A page of builds, newest first.

        The whole listing is counted for the sake of `rel="last"`, down to the
        depth limit; beyond it there is a `next` but no `last`, and that next
        page is refused.
        """
        params = request.query_params
        listing = listing_of(params, self._pipeline_slug(request))
        view = view_of(params)
        page, per_page = page_of(params)
        begin, end = (page - 1) * per_page, page * per_page
        if begin >= self.max_depth:
            raise Refusal(400, _TOO_DEEP)
        moment = self.world.now()
        depth = max(self.max_depth, end)
        found = list(islice(self.world.find(listing, moment), depth + 1))
        last = None if len(found) > depth else -(-len(found) // per_page)
        link = link_header(request.url, params, page, last, more=len(found) > end)
        return _payloads(found[begin:end], view, moment), {"Link": link} if link else {}

    def _build(self, request: Request) -> Answer:
        slug, moment = self._pipeline_slug(request), self.world.now()
        view = view_of(request.query_params)
        entry = self.world.build(slug or "", request.path_params["number"], moment)
        if entry is None:
            raise Refusal(404, "No build found")
        return payload_of(entry, view, moment), {}

    def _pipeline_slug(self, request: Request) -> str | None:
        slug: str | None = request.path_params.get("slug")
        if slug is not None and slug not in self.world.pipelines():
            raise Refusal(404, "No pipeline found")
        return slug


def _payloads(entries: Sequence[Entry], view: View, moment: int) -> list[dict[str, Any]]:
    payloads = (payload_of(entry, view, moment) for entry in entries)
    return [payload for payload in payloads if payload is not None]

"""Honeycomb's API for datasets, columns, calculated fields, queries, boards, triggers and SLOs.

It refuses what Honeycomb's API description forbids, and queries over columns that do not exist.
Guesses, because the real behavior is not documented: a key without a permission gets the same 401
as an unknown one; identical queries get ids of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from threading import Lock
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bk_pipeline.sandbox.bodies import MALFORMED, ApiError, json_response
from bk_pipeline.sandbox.credentials import HoneycombKey
from bk_pipeline.sandbox.datasets import MAX_NAME, Dataset, dataset_slug
from bk_pipeline.sandbox.limits import CallLimit
from bk_pipeline.sandbox.management_rules import (
    COLUMN_TYPES,
    Item,
    check_formula,
    check_layout,
    check_period,
    check_query,
    check_tags,
)
from bk_pipeline.sandbox.markers import ALL_DATASETS, RATE_LIMITED, UNKNOWN_KEY

CREATED = 201
MILLION, MAX_PRESET_FILTERS, MAX_TEXT = 1_000_000, 5, 10_000
UI = "https://ui.honeycomb.io/sandbox/environments/sandbox/board"


@dataclass(frozen=True, slots=True)
class _Resource:
    """A kind of items: its permission, its path, the name of its name, and its checks."""

    permission: str
    path: str
    key: str
    limits: Mapping[str, int]
    required: tuple[str, ...]
    unique: bool = False
    in_dataset: bool = True
    methods: tuple[str, ...] = ("GET", "POST", "PUT", "DELETE")


_RESOURCES = (
    _Resource(
        "columns",
        "columns",
        "key_name",
        {"key_name": 255, "description": 255},
        ("key_name",),
        unique=True,
    ),
    _Resource(
        "columns",
        "derived_columns",
        "alias",
        {"alias": 255, "description": 255, "expression": 4_095},
        ("alias", "expression"),
        unique=True,
    ),
    _Resource("columns", "queries", "id", {}, (), methods=("POST",)),
    _Resource(
        "columns", "query_annotations", "name", {"name": 320, "description": 1_023}, ("query_id",)
    ),
    _Resource("triggers", "triggers", "name", {"name": 120, "description": 1_023}, ("name",)),
    _Resource(
        "slos",
        "slos",
        "name",
        {"name": 120, "description": 1_023},
        ("name", "time_period_days", "target_per_million", "sli"),
    ),
    _Resource(
        "boards",
        "boards",
        "name",
        {"name": 255, "description": 1_024},
        ("name", "type"),
        in_dataset=False,
    ),
)


class ManagementService:
    """Serves the management API of one environment.

    Args:
        key: Returns the key of a request; raises `ApiError` for an unknown one.
        datasets: The datasets by slug; new ones are added to it.
        clock: Seconds since 1970.
        limit: The rate limit that all calls count against.
    """

    def __init__(
        self,
        key: Callable[[Request], HoneycombKey],
        datasets: Callable[[], dict[str, Dataset]],
        clock: Callable[[], float],
        limit: CallLimit,
    ) -> None:
        self._key = key
        self._datasets = datasets
        self._clock = clock
        self._limit = limit
        self._lock = Lock()
        self._created_count = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything that was created."""
        # By path and dataset, empty for boards; items by id, in order of creation.
        self._items: dict[tuple[str, str], dict[str, Item]] = {}

    def items(self, path: str, dataset: str = "") -> dict[str, Item]:
        """The items of a kind by id, to look at or change as a person would in the UI."""
        return self._items.setdefault((path, dataset), {})

    def routes(self) -> list[Route]:
        """The routes of all kinds."""
        routes = [
            self._route("/1/datasets", "POST", "create_datasets", self._create_dataset),
            self._route("/1/queries/{dataset}/{id}", "GET", "columns", self._get(_RESOURCES[2])),
        ]
        for one in _RESOURCES:
            base = f"/1/{one.path}" + ("/{dataset}" if one.in_dataset else "")
            handlers = {"GET": self._list, "POST": self._create}
            with_id = {"PUT": self._update, "DELETE": self._delete}
            routes += [
                self._route(base, method, one.permission, handler(one))
                for method, handler in handlers.items()
                if method in one.methods
            ]
            routes += [
                self._route(base + "/{id}", method, one.permission, handler(one))
                for method, handler in with_id.items()
                if method in one.methods
            ]
        return routes

    def _route(
        self, path: str, method: str, permission: str, handler: Callable[[Request, Item], Any]
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            with self._lock:
                headers, exceeded = self._limit.count_call()
                try:
                    self._authorize(request, permission, exceeded=exceeded)
                    content, status = handler(request, _object(body))
                except ApiError as error:
                    content, status = {"error": error.message}, error.status
            if status == CREATED and "triggers" in path:
                headers["Location"] = f"{request.url.path}/{content['id']}"
            if content is None:
                return Response(status_code=status, headers=headers)
            return json_response(request, content, status, headers)

        return Route(path, endpoint, methods=[method])

    def _authorize(self, request: Request, permission: str, *, exceeded: bool) -> None:
        if exceeded:
            raise ApiError(429, RATE_LIMITED)
        if permission not in self._key(request).management:
            raise ApiError(401, UNKNOWN_KEY)

    def _create_dataset(self, _request: Request, body: Item) -> tuple[Any, int]:
        name = body.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
            raise ApiError(422, "name is required")
        known = self._datasets()
        slug = dataset_slug(name)
        status = 200 if slug in known else 201
        dataset = known.setdefault(slug, Dataset(name))
        return {
            "name": dataset.name,
            "slug": slug,
            "description": "",
            "expand_json_depth": 0,
        }, status

    def _get(self, kind: _Resource) -> Callable[[Request, Item], Any]:
        return lambda request, _: (self._find(kind, request)[1], 200)

    def _list(self, kind: _Resource) -> Callable[[Request, Item], Any]:
        def handler(request: Request, _body: Item) -> tuple[Any, int]:
            slug = self._slug(kind, request)
            items = list(self.items(kind.path, slug).values())
            if kind.path == "query_annotations":
                on_boards = request.query_params.get("include_board_annotations") == "true"
                items = [one for one in items if on_boards or one["source"] == "query"]
            return items, 200

        return handler

    def _create(self, kind: _Resource) -> Callable[[Request, Item], Any]:
        def handler(request: Request, body: Item) -> tuple[Any, int]:
            slug = self._slug(kind, request)
            items = self.items(kind.path, slug)
            if kind.unique and any(one[kind.key] == body.get(kind.key) for one in items.values()):
                raise ApiError(409, "A resource by that name already exists.")
            return self._store(kind, slug, body, {}), 200 if kind.path == "queries" else 201

        return handler

    def _update(self, kind: _Resource) -> Callable[[Request, Item], Any]:
        """Replace an item. Fields that the body lacks get their defaults."""

        def handler(request: Request, body: Item) -> tuple[Any, int]:
            slug, old = self._find(kind, request)
            if kind.path == "query_annotations" and body.get("query_id") != old["query_id"]:
                raise ApiError(400, "queries in annotations cannot be changed")
            kept: Item = {name: old[name] for name in ("id", "created_at", "source") if name in old}
            if kind.path == "columns":
                kept["key_name"] = old["key_name"]
            if kind.path == "boards" and "preset_filters" not in body:
                kept["preset_filters"] = old.get("preset_filters", [])
            return self._store(kind, slug, body, kept), 200

        return handler

    def _delete(self, kind: _Resource) -> Callable[[Request, Item], Any]:
        def handler(request: Request, _body: Item) -> tuple[Any, int]:
            slug, old = self._find(kind, request)
            if kind.path == "derived_columns" and self._uses(slug, old["alias"]):
                raise ApiError(409, "the calculated field is used by a SLO, trigger or board")
            del self.items(kind.path, slug)[old["id"]]
            return None, 204

        return handler

    def _store(self, kind: _Resource, slug: str, body: Item, kept: Item) -> Item:
        """Check an item, and store it in place of the one with `kept`'s id or as a new one."""
        content = body | kept
        _check_texts(kind, content)
        check = getattr(self, f"_check_{kind.path}", None)
        if check is not None:
            check(slug, content)
        self._created_count += 1
        name = sha256(f"item {self._created_count}".encode()).hexdigest()[:11]
        now = datetime.fromtimestamp(int(self._clock()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        times = {} if kind.path in {"queries", "boards"} else {"created_at": now, "updated_at": now}
        item: Item = {"id": name} | times | content
        if kind.path == "boards":
            item["links"] = {"board_url": f"{UI}/{item['id']}"}
        self.items(kind.path, slug)[item["id"]] = item
        return item

    def _check_columns(self, slug: str, body: Item) -> None:
        if body.setdefault("type", "string") not in COLUMN_TYPES:
            raise ApiError(422, "type: must be a valid value")
        body.setdefault("description", "")
        body.setdefault("hidden", False)
        self._datasets()[slug].types.setdefault(body["key_name"], body["type"])

    def _check_derived_columns(self, slug: str, body: Item) -> None:
        check_formula(body["expression"], self._types(slug))
        body.setdefault("description", "")

    def _check_queries(self, slug: str, body: Item) -> None:
        check_query(body, self._types(slug))
        body.setdefault("limit", 100)

    def _check_query_annotations(self, slug: str, body: Item) -> None:
        if body["query_id"] not in self.items("queries", slug):
            raise ApiError(400, "Query ID included in body is invalid")
        body.setdefault("source", "query")

    def _check_triggers(self, slug: str, body: Item) -> None:
        query = body.get("query")
        if not isinstance(query, dict) or "op" not in body.get("threshold", {}):
            raise ApiError(422, "query and threshold are required")
        check_query(query, self._types(slug))
        check_period(query, body.setdefault("frequency", 900))
        body |= {"dataset_slug": slug, "triggered": False}
        defaults = {"alert_type": "on_change", "disabled": False, "recipients": []}
        for name, value in (defaults | {"evaluation_schedule_type": "frequency"}).items():
            body.setdefault(name, value)
        body["threshold"].setdefault("exceeded_limit", 1)

    def _check_slos(self, slug: str, body: Item) -> None:
        fields = self.items("derived_columns", slug).values()
        if body["sli"].get("alias") not in {one["alias"] for one in fields}:
            raise ApiError(422, "sli: no such calculated field")
        if not 0 <= body["target_per_million"] < MILLION or body["time_period_days"] < 1:
            raise ApiError(422, "target_per_million or time_period_days is out of range")
        body |= {"dataset_slugs": [slug]}
        body.setdefault("reset_at", None)

    def _check_boards(self, _slug: str, body: Item) -> None:
        if body["type"] != "flexible" or len(body.get("preset_filters") or []) > MAX_PRESET_FILTERS:
            raise ApiError(422, "type: must be flexible, with at most 5 preset filters")
        for panel in body.setdefault("panels", []):
            self._check_panel(panel)
        if body.pop("layout_generation", "manual") == "manual":
            check_layout(body["panels"])
        body.setdefault("tags", [])

    def _check_panel(self, panel: Item) -> None:
        kind = panel.get("type")
        content = panel.get(f"{kind}_panel")
        if kind not in {"query", "text", "slo"} or not isinstance(content, dict):
            raise ApiError(422, "panels: type must be query, text or slo, with its content")
        if kind == "text" and not 0 < len(content.get("content", "")) <= MAX_TEXT:
            raise ApiError(422, "text_panel: content of 1 to 10000 characters is required")
        if kind == "query":
            annotation = self._anywhere("query_annotations", content.get("query_annotation_id", ""))
            if annotation.get("query_id") != content.get("query_id"):
                raise ApiError(422, "query_panel: the annotation is of another query")
            content["dataset"] = self._dataset_name(content["query_id"])
        elif kind == "slo":
            self._anywhere("slos", content.get("slo_id", ""))

    def _anywhere(self, path: str, item_id: str) -> Item:
        """The item of a kind in any dataset."""
        for (one, _), items in self._items.items():
            if one == path and item_id in items:
                return items[item_id]
        raise ApiError(422, f"{path}: no such id")

    def _dataset_name(self, query_id: str) -> str:
        slugs = (slug for (path, slug), items in self._items.items() if query_id in items)
        return self._datasets()[next(slugs)].name

    def _uses(self, slug: str, alias: str) -> bool:
        """Whether an SLO, a trigger, or a query on a board uses a calculated field."""
        shown = {
            panel["query_panel"]["query_id"]
            for board in self.items("boards").values()
            for panel in board["panels"]
            if panel["type"] == "query"
        }
        users = [*self.items("slos", slug).values(), *self.items("triggers", slug).values()]
        users += [one for id_, one in self.items("queries", slug).items() if id_ in shown]
        return f'"{alias}"'.encode() in msgspec.json.encode(users)

    def _types(self, slug: str) -> dict[str, str]:
        """The types of a dataset's columns; those of calculated fields are not known."""
        fields = self.items("derived_columns", slug).values()
        columns = {one["key_name"]: one["type"] for one in self.items("columns", slug).values()}
        return columns | {one["alias"]: "" for one in fields}

    def _slug(self, kind: _Resource, request: Request) -> str:
        """The dataset in the URL, with the columns of its events; empty for boards."""
        if not kind.in_dataset:
            return ""
        slug = dataset_slug(request.path_params["dataset"])
        dataset = self._datasets().get(slug)
        if dataset is None or slug == ALL_DATASETS:
            raise ApiError(404, "dataset not found")
        columns = self.items("columns", slug)
        known = {one["key_name"] for one in columns.values()}
        for name, type_ in dataset.types.items():
            if name not in known:
                self._store(_RESOURCES[0], slug, {"key_name": name, "type": type_}, {})
        return slug

    def _find(self, kind: _Resource, request: Request) -> tuple[str, Item]:
        slug = self._slug(kind, request)
        found = self.items(kind.path, slug).get(request.path_params["id"])
        if found is None:
            raise ApiError(404, f"{kind.path}: not found")
        return (slug, found)


def _object(body: bytes) -> Item:
    if not body:
        return {}
    try:
        found: Item = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise ApiError(400, MALFORMED) from exc
    return found


def _check_texts(kind: _Resource, body: Item) -> None:
    for name in kind.required:
        if not body.get(name):
            raise ApiError(422, f"{name} is required")
    for name, most in kind.limits.items():
        if name in body and len(body[name]) > most:
            raise ApiError(422, f"{name}: at most {most} characters")
    check_tags(body.get("tags") or [])

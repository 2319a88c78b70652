"""Honeycomb's marker API: markers, and marker settings (the color of each marker type).

Guesses, because the real behavior is not documented: a key without the permission gets the same
401 as an unknown key; a malformed body gets a 400; a type has at most one color in a dataset, and
a second one is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from threading import Lock
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bk_pipeline.sandbox.bodies import ApiError, json_response
from bk_pipeline.sandbox.credentials import HoneycombKey
from bk_pipeline.sandbox.datasets import dataset_slug
from bk_pipeline.sandbox.limits import CallLimit

ALL_DATASETS = "__all__"
RATE_LIMITED = "Rate Limited"
UNKNOWN_KEY = "unknown API key - check your credentials"
MALFORMED = "Request body is malformed and cannot be read."

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
# id -> fields, in order of creation.
Items = dict[str, dict[str, Any]]


class _MarkerBody(msgspec.Struct, omit_defaults=True):
    """The fields of a marker that a request can set. Other fields are ignored."""

    start_time: int | None = None
    end_time: int | None = None
    message: str | None = None
    type: str | None = None
    url: str | None = None


class _SettingBody(msgspec.Struct):
    """A marker setting in a request: the color of a marker type."""

    type: str
    color: str


@dataclass(frozen=True, slots=True)
class _MarkerRequest:
    """The dataset, item id and body of a request. `item_id` is empty if the path has none."""

    dataset: str
    item_id: str
    body: bytes

    @classmethod
    def of(cls, request: Request, body: bytes) -> _MarkerRequest:
        name = request.path_params["dataset"]
        slug = name if name == ALL_DATASETS else dataset_slug(name)
        return cls(slug, request.path_params.get("id", ""), body)


_marker_decoder = msgspec.json.Decoder(_MarkerBody)
_setting_decoder = msgspec.json.Decoder(_SettingBody)


class MarkerService:
    """Serves markers and marker settings, by dataset or for the whole environment.

    Args:
        key: Returns the key of a request; raises `ApiError` for an unknown one.
        has_dataset: Whether a dataset with a slug exists.
        clock: Seconds since 1970.
        limit: The rate limit that all calls count against.
    """

    def __init__(
        self,
        key: Callable[[Request], HoneycombKey],
        has_dataset: Callable[[str], bool],
        clock: Callable[[], float],
        limit: CallLimit,
    ) -> None:
        self._key = key
        self._has_dataset = has_dataset
        self._clock = clock
        self._limit = limit
        self._lock = Lock()
        self._created_count = 0
        self.reset()

    def reset(self) -> None:
        """Forget all markers and marker settings."""
        self._markers: dict[str, Items] = {}
        self._settings: dict[str, Items] = {}

    @property
    def markers(self) -> list[dict[str, Any]]:
        """All markers, each with its `dataset`, in order of creation."""
        with self._lock:
            return [
                {**fields, "dataset": dataset}
                for dataset, items in self._markers.items()
                for fields in items.values()
            ]

    @property
    def colors(self) -> dict[tuple[str, str], str]:
        """The colors by dataset and marker type."""
        with self._lock:
            return {
                (dataset, fields["type"]): fields["color"]
                for dataset, items in self._settings.items()
                for fields in items.values()
            }

    def routes(self) -> list[Route]:
        """The routes of markers and marker settings."""
        item = "/{dataset}/{id}"
        return [
            self._route("/1/markers/{dataset}", "GET", self._list),
            self._route("/1/markers/{dataset}", "POST", self._create),
            self._route(f"/1/markers{item}", "PUT", self._update),
            self._route(f"/1/markers{item}", "DELETE", self._delete),
            self._route("/1/marker_settings/{dataset}", "GET", self._list_settings),
            self._route("/1/marker_settings/{dataset}", "POST", self._create_setting),
            self._route(f"/1/marker_settings{item}", "PUT", self._update_setting),
            self._route(f"/1/marker_settings{item}", "DELETE", self._delete_setting),
        ]

    def _route(
        self, path: str, method: str, handler: Callable[[_MarkerRequest], tuple[Any, int]]
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            with self._lock:
                headers, exceeded = self._limit.count_call()
                try:
                    self._authorize(request, exceeded=exceeded)
                    content, status = handler(_MarkerRequest.of(request, body))
                except ApiError as error:
                    content, status = {"error": error.message}, error.status
            return json_response(request, content, status, headers)

        return Route(path, endpoint, methods=[method])

    def _authorize(self, request: Request, *, exceeded: bool) -> None:
        if exceeded:
            raise ApiError(429, RATE_LIMITED)
        if not self._key(request).can_manage_markers:
            raise ApiError(401, UNKNOWN_KEY)

    def _list(self, request: _MarkerRequest) -> tuple[Any, int]:
        """All markers of a dataset with their colors; empty if the dataset does not exist."""
        settings = self._settings.get(request.dataset, {}).values()
        colors = {one["type"]: one["color"] for one in settings}
        return [
            fields | ({"color": colors[fields["type"]]} if fields.get("type") in colors else {})
            for fields in self._markers.get(request.dataset, {}).values()
        ], 200

    def _create(self, request: _MarkerRequest) -> tuple[Any, int]:
        fields = _parse_marker(request.body)
        fields.setdefault("start_time", int(self._clock()))
        return self._add(self._markers, request.dataset, fields), 201

    def _update(self, request: _MarkerRequest) -> tuple[Any, int]:
        """Replace a marker. Fields that the body lacks are removed."""
        fields = _parse_marker(request.body)
        items, item_id = self._find(self._markers, request, "marker not found")
        kept = {name: items[item_id][name] for name in ("id", "created_at")}
        items[item_id] = fields | kept | {"updated_at": self._now()}
        return items[item_id], 200

    def _delete(self, request: _MarkerRequest) -> tuple[Any, int]:
        items, item_id = self._find(self._markers, request, "marker not found")
        return items.pop(item_id), 200

    def _list_settings(self, request: _MarkerRequest) -> tuple[Any, int]:
        self._require_dataset(request.dataset)
        return list(self._settings.get(request.dataset, {}).values()), 200

    def _create_setting(self, request: _MarkerRequest) -> tuple[Any, int]:
        fields = _parse_setting(request.body)
        present = self._settings.get(request.dataset, {}).values()
        if any(one["type"] == fields["type"] for one in present):
            raise ApiError(422, "A marker setting for this type exists.")
        return self._add(self._settings, request.dataset, fields), 201

    def _update_setting(self, request: _MarkerRequest) -> tuple[Any, int]:
        fields = _parse_setting(request.body)
        items, item_id = self._find(self._settings, request, "marker setting not found")
        if fields["type"] != items[item_id]["type"]:
            raise ApiError(422, "The type of a marker setting cannot be changed.")
        items[item_id] |= {"color": fields["color"], "updated_at": self._now()}
        return items[item_id], 200

    def _delete_setting(self, request: _MarkerRequest) -> tuple[Any, int]:
        items, item_id = self._find(self._settings, request, "marker setting not found")
        return items.pop(item_id), 200

    def _add(
        self, collection: dict[str, Items], dataset: str, fields: dict[str, Any]
    ) -> dict[str, Any]:
        self._require_dataset(dataset)
        self._created_count += 1
        item_id = sha256(f"marker {self._created_count}".encode()).hexdigest()[:8]
        now = self._now()
        item = {"id": item_id, "created_at": now, "updated_at": now, **fields}
        collection.setdefault(dataset, {})[item_id] = item
        return item

    def _find(
        self, collection: dict[str, Items], request: _MarkerRequest, message: str
    ) -> tuple[Items, str]:
        self._require_dataset(request.dataset)
        if request.item_id not in collection.get(request.dataset, {}):
            raise ApiError(404, message)
        return collection[request.dataset], request.item_id

    def _require_dataset(self, dataset: str) -> None:
        if dataset != ALL_DATASETS and not self._has_dataset(dataset):
            raise ApiError(404, "dataset not found")

    def _now(self) -> str:
        return datetime.fromtimestamp(int(self._clock()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_marker(body: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = msgspec.to_builtins(_marker_decoder.decode(body))
    except msgspec.MsgspecError as exc:
        raise ApiError(400, MALFORMED) from exc
    return fields


def _parse_setting(body: bytes) -> dict[str, Any]:
    try:
        setting = _setting_decoder.decode(body)
    except msgspec.MsgspecError as exc:
        raise ApiError(422, "type and color are required") from exc
    if not setting.type or not _COLOR.fullmatch(setting.color):
        raise ApiError(422, "color must be a hex RGB value like #7b1fa2")
    return {"type": setting.type, "color": setting.color}

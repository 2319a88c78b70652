"""Honeycomb's markers and the colours of their types.

Not known of the real service, and guessed here: that a key without the permission gets a 401
in the words for an unknown one; a 400 for a body of the wrong form; that a type has at most one
colour in a dataset, and a second one is refused.
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

from bk_pipeline.sandbox.bodies import Refusal, json_reply
from bk_pipeline.sandbox.credentials import HoneycombKey
from bk_pipeline.sandbox.datasets import slug_of
from bk_pipeline.sandbox.limits import CallLimit

EVERYWHERE = "__all__"
RATE_LIMITED = "Rate Limited"
UNKNOWN_KEY = "unknown API key - check your credentials"
MALFORMED = "Request body is malformed and cannot be read."

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
# id -> fields, in order of creation.
Things = dict[str, dict[str, Any]]


class _Body(msgspec.Struct, omit_defaults=True):
    """What can be set of a marker. Anything else in a body is ignored."""

    start_time: int | None = None
    end_time: int | None = None
    message: str | None = None
    type: str | None = None
    url: str | None = None


class _Setting(msgspec.Struct):
    type: str
    color: str


@dataclass(frozen=True, slots=True)
class _Call:
    """What a request names and brings. `item` is empty where the path ends with the dataset."""

    dataset: str
    item: str
    body: bytes

    @classmethod
    def of(cls, request: Request, body: bytes) -> _Call:
        name = request.path_params["dataset"]
        slug = name if name == EVERYWHERE else slug_of(name)
        return cls(slug, request.path_params.get("id", ""), body)


_body = msgspec.json.Decoder(_Body)
_setting = msgspec.json.Decoder(_Setting)


class MarkerSide:
    """Markers and marker settings, by dataset or for the whole environment.

    Args:
        key: The key of a request; refuses unknown ones.
        has_dataset: Whether there is a dataset of a slug.
        clock: Seconds since 1970.
        limit: Counts the calls.
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
        self._made = 0
        self.reset()

    def reset(self) -> None:
        """Forgets markers and colours."""
        self._markers: dict[str, Things] = {}
        self._settings: dict[str, Things] = {}

    @property
    def markers(self) -> list[dict[str, Any]]:
        """All markers, each with its `dataset`, in order of creation."""
        with self._lock:
            return [
                {**fields, "dataset": dataset}
                for dataset, things in self._markers.items()
                for fields in things.values()
            ]

    @property
    def colors(self) -> dict[tuple[str, str], str]:
        """The colours by dataset and type."""
        with self._lock:
            return {
                (dataset, fields["type"]): fields["color"]
                for dataset, things in self._settings.items()
                for fields in things.values()
            }

    def routes(self) -> list[Route]:
        one = "/{dataset}/{id}"
        return [
            self._route("/1/markers/{dataset}", "GET", self._list),
            self._route("/1/markers/{dataset}", "POST", self._create),
            self._route(f"/1/markers{one}", "PUT", self._update),
            self._route(f"/1/markers{one}", "DELETE", self._delete),
            self._route("/1/marker_settings/{dataset}", "GET", self._list_settings),
            self._route("/1/marker_settings/{dataset}", "POST", self._create_setting),
            self._route(f"/1/marker_settings{one}", "PUT", self._update_setting),
            self._route(f"/1/marker_settings{one}", "DELETE", self._delete_setting),
        ]

    def _route(self, path: str, method: str, act: Callable[[_Call], tuple[Any, int]]) -> Route:
        async def answer(request: Request) -> Response:
            body = await request.body()
            with self._lock:
                headers, one_too_many = self._limit.spend()
                try:
                    self._admit(request, one_too_many=one_too_many)
                    content, status = act(_Call.of(request, body))
                except Refusal as refusal:
                    content, status = {"error": refusal.message}, refusal.status
            return json_reply(request, content, status, headers)

        return Route(path, answer, methods=[method])

    def _admit(self, request: Request, *, one_too_many: bool) -> None:
        if one_too_many:
            raise Refusal(429, RATE_LIMITED)
        if not self._key(request).may_mark:
            raise Refusal(401, UNKNOWN_KEY)

    def _list(self, call: _Call) -> tuple[Any, int]:
        """All markers of a dataset, with the colours of their types; none if there is none."""
        settings = self._settings.get(call.dataset, {}).values()
        colors = {one["type"]: one["color"] for one in settings}
        return [
            fields | ({"color": colors[fields["type"]]} if fields.get("type") in colors else {})
            for fields in self._markers.get(call.dataset, {}).values()
        ], 200

    def _create(self, call: _Call) -> tuple[Any, int]:
        fields = _read(call.body)
        fields.setdefault("start_time", int(self._clock()))
        return self._add(self._markers, call.dataset, fields), 201

    def _update(self, call: _Call) -> tuple[Any, int]:
        """What the body leaves out is erased."""
        fields = _read(call.body)
        things, item = self._one(self._markers, call, "marker not found")
        own = {name: things[item][name] for name in ("id", "created_at")}
        things[item] = fields | own | {"updated_at": self._moment()}
        return things[item], 200

    def _delete(self, call: _Call) -> tuple[Any, int]:
        things, item = self._one(self._markers, call, "marker not found")
        return things.pop(item), 200

    def _list_settings(self, call: _Call) -> tuple[Any, int]:
        self._refuse_unknown(call.dataset)
        return list(self._settings.get(call.dataset, {}).values()), 200

    def _create_setting(self, call: _Call) -> tuple[Any, int]:
        fields = _read_setting(call.body)
        present = self._settings.get(call.dataset, {}).values()
        if any(one["type"] == fields["type"] for one in present):
            raise Refusal(422, "A marker setting for this type exists.")
        return self._add(self._settings, call.dataset, fields), 201

    def _update_setting(self, call: _Call) -> tuple[Any, int]:
        fields = _read_setting(call.body)
        things, item = self._one(self._settings, call, "marker setting not found")
        if fields["type"] != things[item]["type"]:
            raise Refusal(422, "The type of a marker setting cannot be changed.")
        things[item] |= {"color": fields["color"], "updated_at": self._moment()}
        return things[item], 200

    def _delete_setting(self, call: _Call) -> tuple[Any, int]:
        things, item = self._one(self._settings, call, "marker setting not found")
        return things.pop(item), 200

    def _add(self, kind: dict[str, Things], dataset: str, fields: dict[str, Any]) -> dict[str, Any]:
        self._refuse_unknown(dataset)
        self._made += 1
        item = sha256(f"marker {self._made}".encode()).hexdigest()[:8]
        moment = self._moment()
        made = {"id": item, "created_at": moment, "updated_at": moment, **fields}
        kind.setdefault(dataset, {})[item] = made
        return made

    def _one(self, kind: dict[str, Things], call: _Call, words: str) -> tuple[Things, str]:
        self._refuse_unknown(call.dataset)
        if call.item not in kind.get(call.dataset, {}):
            raise Refusal(404, words)
        return kind[call.dataset], call.item

    def _refuse_unknown(self, dataset: str) -> None:
        if dataset != EVERYWHERE and not self._has_dataset(dataset):
            raise Refusal(404, "dataset not found")

    def _moment(self) -> str:
        return datetime.fromtimestamp(int(self._clock()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(body: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = msgspec.to_builtins(_body.decode(body))
    except msgspec.MsgspecError as exc:
        raise Refusal(400, MALFORMED) from exc
    return fields


def _read_setting(body: bytes) -> dict[str, Any]:
    try:
        setting = _setting.decode(body)
    except msgspec.MsgspecError as exc:
        raise Refusal(422, "type and color are required") from exc
    if not setting.type or not _COLOR.fullmatch(setting.color):
        raise Refusal(422, "color must be a hex RGB value like #7b1fa2")
    return {"type": setting.type, "color": setting.color}

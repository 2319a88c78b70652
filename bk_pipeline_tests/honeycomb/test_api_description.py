"""Requests of the client and responses of the sandbox, checked with Honeycomb's API description.

`BK_PIPELINE_TEST_HONEYCOMB_SPEC` names the OpenAPI file, or several with parts of it, separated by
`:`; a test whose paths it lacks is skipped. Marker settings are checked if the file has them.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

from bk_pipeline.errors import DeliveryThrottled, NotFound, RequestRefused, TokenRefused
from bk_pipeline.honeycomb import setup
from bk_pipeline.honeycomb.design import design
from bk_pipeline.honeycomb.placing import set_colors
from bk_pipeline.honeycomb.resources import Kind, ResourceClient
from bk_pipeline_tests.honeycomb.conftest import DATASET

# Read at import, because test fixtures hide the developer's environment.
SPEC_FILE = os.environ.get("BK_PIPELINE_TEST_HONEYCOMB_SPEC")
TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
    "boolean": bool, "null": type(None),
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not SPEC_FILE, reason="BK_PIPELINE_TEST_HONEYCOMB_SPEC names no API description"
)


class Recorder:
    """An ASGI application that records the exchanges of another one."""

    def __init__(self, app) -> None:
        self._app = app
        self.exchanges: list[dict[str, Any]] = []

    def __getattr__(self, name):
        return getattr(self._app, name)

    async def __call__(self, scope, receive, send):
        exchange: dict[str, Any] = {"sent": b"", "received": b"", "status": None}

        async def receiving():
            message = await receive()
            exchange["sent"] += message.get("body", b"")
            return message

        async def sending(message):
            if message["type"] == "http.response.start":
                exchange["status"] = message["status"]
                exchange["headers"] = {name.decode().lower() for name, _ in message["headers"]}
            exchange["received"] += message.get("body", b"")
            await send(message)

        await self._app(scope, receiving, sending)
        request_headers = {name.decode().lower() for name, _ in scope["headers"]}
        self.exchanges.append(
            exchange
            | {
                "method": scope["method"].lower(),
                "path": scope["path"],
                "query": scope["query_string"].decode(),
                "request_headers": request_headers,
            }
        )


class Description:
    """The API description; checks whether exchanges conform to it."""

    def __init__(self, document) -> None:
        self._document = document

    def path_of(self, path):
        """Return the path template of a request's path, or None."""
        for template in self._document["paths"]:
            if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
                return template
        return None

    def check(self, exchange):
        """Check the request and response; return path template, method and status."""
        template = self.path_of(exchange["path"])
        operation = self._document["paths"][template][exchange["method"]]
        [key] = {name for one in operation["security"] for name in one if "configuration" in name}
        scheme = self._document["components"]["securitySchemes"][key]
        assert scheme["name"].lower() in exchange["request_headers"]
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            self._conforms(json.loads(exchange["sent"]), schema, sending=True)
        else:
            assert exchange["sent"] == b""
        query = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
        assert set(parse_qs(exchange["query"])) <= query
        responses = operation["responses"]
        response = self._resolved(responses.get(str(exchange["status"]), responses.get("default")))
        if "content" in response:
            schema = response["content"]["application/json"]["schema"]
            received = exchange["received"]
            zipped = "content-encoding" in exchange["headers"]
            self._conforms(json.loads(gzip.decompress(received) if zipped else received), schema)
        else:
            assert exchange["received"] == b""
        for header in response.get("headers", {}):
            assert header.lower() in exchange["headers"], (header, exchange)
        return template, exchange["method"], exchange["status"]

    def _conforms(self, value, schema, *, sending=False):
        schema = self._merged(schema)
        choices = schema.get("anyOf") or schema.get("oneOf")
        if choices:
            errors = [self._error(value, one, sending=sending) for one in choices]
            assert None in errors, errors
            return
        kinds = schema.get("type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        assert not kinds or any(isinstance(value, TYPES[kind]) for kind in kinds), (value, schema)
        assert value in schema.get("enum", [value])
        assert value == schema.get("const", value)
        if isinstance(value, list):
            assert len(value) <= schema.get("maxItems", len(value))
            for one in value:
                self._conforms(one, schema["items"], sending=sending)
        elif isinstance(value, str):
            assert schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        elif isinstance(value, int | float):
            assert schema.get("minimum", value) <= value <= schema.get("maximum", value)
        elif isinstance(value, dict) and "properties" in schema:
            self._has_properties(value, schema, sending=sending)

    def _has_properties(self, value, schema, *, sending):
        properties = schema["properties"]
        if not properties:  # any object
            return
        read_only = {name for name, one in properties.items() if one.get("readOnly")}
        assert set(schema.get("required", ())) - (read_only if sending else set()) <= value.keys()
        assert value.keys() <= properties.keys(), (value.keys() - properties.keys(), value)
        for name, one in value.items():
            assert not (sending and name in read_only), name
            self._conforms(one, properties[name], sending=sending)

    def _error(self, value, schema, *, sending):
        try:
            self._conforms(value, schema, sending=sending)
        except AssertionError as exc:
            return str(exc)[:300]
        return None

    def _merged(self, schema):
        """The schema with those of `allOf` in it."""
        schema = self._resolved(schema)
        parts = [self._merged(one) for one in schema.get("allOf", ())]
        if not parts:
            return schema
        parts.append({name: one for name, one in schema.items() if name != "allOf"})
        properties = {}
        for part in parts:
            for name, one in part.get("properties", {}).items():
                properties[name] = properties.get(name, {}) | one
        required = [name for part in parts for name in part.get("required", ())]
        merged = {name: one for part in parts for name, one in part.items()}
        return merged | ({"properties": properties, "required": required} if properties else {})

    def _resolved(self, node):
        while "$ref" in node:
            here = self._document
            for step in node["$ref"].removeprefix("#/").split("/"):
                here = here[step]
            node = here
        return node


@pytest.fixture
def description():
    """The API description in the files of the variable."""
    document = {"paths": {}, "components": {}}
    for name in SPEC_FILE.split(os.pathsep):
        part = yaml.safe_load(Path(name).read_text())
        document["paths"] |= part["paths"]
        for kind, members in part["components"].items():
            document["components"].setdefault(kind, {}).update(members)
    return Description(document)


@pytest.fixture
def recorder(sandbox):
    sandbox.app = Recorder(sandbox.app)
    return sandbox.app


def use_everything(client, refused, limit, marker):
    """Make each call, and provoke each refusal that the description lists."""
    assert client.name
    whole = marker(end_time=1_790_000_060, url="https://bk/7")
    set_colors(DATASET, {"deploy": "#111111"}, client=client)
    set_colors(DATASET, {"deploy": "#222222"}, client=client)
    marker_id, _ = client.create(DATASET, whole, others=())
    client.create("__all__", marker(), others=())
    assert client.list_markers(DATASET)[0].id == marker_id
    client.update(DATASET, marker_id, whole)
    client.delete(DATASET, marker_id)
    client.update(DATASET, marker_id, whole)
    client.delete(DATASET, marker_id)
    with pytest.raises(NotFound):
        client.create("nowhere", marker(), others=())
    with pytest.raises(TokenRefused):
        refused.list_markers(DATASET)
    limit.enforced, limit.limit = True, 0
    with pytest.raises(DeliveryThrottled):
        client.create(DATASET, marker(), others=())


def test_requests_and_responses_conform_to_the_description(
    recorder, connect, sandbox, marker, description
):
    if description.path_of("/1/markers/ci") is None:
        pytest.skip("the API description has no markers")
    client = connect()
    refused = connect(sandbox.add_honeycomb_key("ingest"))
    recorder.exchanges.clear()

    use_everything(client, refused, sandbox.honeycomb.call_limit, marker)

    exchange = {
        description.check(one)
        for one in recorder.exchanges
        if description.path_of(one["path"]) is not None
    }
    markers, one_marker = "/1/markers/{datasetSlug}", "/1/markers/{datasetSlug}/{markerId}"
    assert {
        ("/1/auth", "get", 200),
        (markers, "post", 201),
        (markers, "post", 404),
        (markers, "post", 429),
        (markers, "get", 200),
        (markers, "get", 401),
        (one_marker, "put", 200),
        (one_marker, "put", 404),
        (one_marker, "delete", 200),
        (one_marker, "delete", 404),
    } <= exchange


def set_up_everything(client, stored):
    """Create, change, list and delete each kind of item."""
    wanted = design("New", left_out=(), shown=lambda _, value: str(value), triggers=True, slo=True)

    def apply():
        state = setup.read(client, wanted)
        planned = setup.plan(state, wanted, query_of=lambda id_: client.query("new", id_))
        setup.apply(planned, state, wanted, client=client, on_step=lambda _: None)
        return {(step.action, step.kind) for step in planned.steps}

    assert ("create", Kind.DATASET) in apply()
    changed = {"triggers": "frequency", "slos": "time_period_days", "columns": "type"}
    for path, field in changed.items():
        next(iter(stored.items(path, "new").values()))[field] = (
            1_800 if field != "type" else "boolean"
        )
    next(iter(stored.items("derived_columns", "new").values()))["expression"] = "IF(true, 1)"
    annotation = next(iter(stored.items("query_annotations", "new").values()))
    annotation["name"] = "Another"
    [board] = stored.items("boards").values()
    text = {"type": "text", "text_panel": {"content": "Ours"}, "position": {"width": 3}}
    board["panels"][0] = text
    other = next(iter(stored.items("queries", "new")))
    board["panels"][4]["query_panel"]["query_id"] = other
    board["panels"].append(board["panels"][5] | {"position": {"width": 1, "y_coordinate": 90}})
    everything = {Kind.COLUMN, Kind.FIELD, Kind.ANNOTATION, Kind.SLO, Kind.TRIGGER, Kind.BOARD}
    assert apply() == {("change", kind) for kind in everything}
    assert apply() == set()
    state = setup.read(client, wanted)
    field = next(iter(state.fields.values()))
    with pytest.raises(RequestRefused, match="409"):
        client.delete(Kind.FIELD, "new", field["id"])
    assert setup.prune(setup.everything(state), wanted, client=client) == []


def test_boards_conform_to_the_description(recorder, connect, sandbox, description):
    if description.path_of("/1/boards") is None:
        pytest.skip("the API description has no boards")
    client = connect(kind=ResourceClient)
    refused = connect(
        sandbox.add_honeycomb_key("configuration", management=()), kind=ResourceClient
    )
    recorder.exchanges.clear()

    set_up_everything(client, sandbox.honeycomb.management)
    with pytest.raises(NotFound):
        client.list_items(Kind.COLUMN, "nowhere")
    with pytest.raises(TokenRefused):
        refused.list_items(Kind.BOARD, "")
    with pytest.raises(RequestRefused, match="422: unknown column nothing"):
        client.create(Kind.QUERY, "new", {"breakdowns": ["nothing"]})
    limit = sandbox.honeycomb.call_limit
    limit.enforced, limit.limit = True, 0
    with pytest.raises(DeliveryThrottled):
        client.list_items(Kind.BOARD, "")

    checked = {
        description.check(one)
        for one in recorder.exchanges
        if description.path_of(one["path"]) is not None
    }
    assert {
        ("/1/datasets", "post", 201),
        ("/1/boards", "get", 401),
        ("/1/boards", "get", 429),
    } <= checked
    queries = "/1/queries/{datasetSlug}"
    assert {
        (queries, "post", 200),
        (queries, "post", 422),
        (f"{queries}/{{queryId}}", "get", 200),
    } <= checked
    for path, item in (
        ("/1/columns/{datasetSlug}", "columnId"),
        ("/1/derived_columns/{datasetSlug}", "derivedColumnId"),
        ("/1/query_annotations/{datasetSlug}", "queryAnnotationId"),
        ("/1/triggers/{datasetSlug}", "triggerId"),
        ("/1/slos/{datasetSlug}", "sloId"),
        ("/1/boards", "boardId"),
    ):
        one = f"{path}/{{{item}}}"
        assert {(path, "get", 200), (path, "post", 201), (one, "put", 200)} <= checked
        assert path.startswith("/1/columns") or (one, "delete", 204) in checked
    assert ("/1/columns/{datasetSlug}", "get", 404) in checked
    assert ("/1/derived_columns/{datasetSlug}/{derivedColumnId}", "delete", 409) in checked

"""Requests of the client and responses of the sandbox, checked with Honeycomb's API description.

`BK_PIPELINE_TEST_HONEYCOMB_SPEC` names the OpenAPI file (complete, or with the paths of auth and
markers); without it this test is skipped. Marker settings are checked if the file has them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bk_pipeline.errors import DeliveryThrottled, NotFound, TokenRefused
from bk_pipeline.honeycomb.placing import set_colors
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
        responses = operation["responses"]
        response = self._resolved(responses.get(str(exchange["status"]), responses.get("default")))
        schema = response["content"]["application/json"]["schema"]
        self._conforms(json.loads(exchange["received"]), schema)
        for header in response.get("headers", {}):
            assert header.lower() in exchange["headers"], (header, exchange)
        return template, exchange["method"], exchange["status"]

    def _conforms(self, value, schema, *, sending=False):
        schema = self._resolved(schema)
        kinds = schema.get("type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        assert not kinds or any(isinstance(value, TYPES[kind]) for kind in kinds), (value, schema)
        assert value in schema.get("enum", [value])
        if isinstance(value, list):
            for one in value:
                self._conforms(one, schema["items"])
        elif isinstance(value, dict):
            properties = schema.get("properties", {})
            assert set(schema.get("required", ())) <= value.keys()
            assert value.keys() <= properties.keys(), (value, schema)
            for name, one in value.items():
                assert not (sending and properties[name].get("readOnly")), name
                self._conforms(one, properties[name])

    def _resolved(self, node):
        while "$ref" in node:
            here = self._document
            for step in node["$ref"].removeprefix("#/").split("/"):
                here = here[step]
            node = here
        return node


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


def test_requests_and_responses_conform_to_the_description(recorder, connect, sandbox, marker):
    client = connect()
    refused = connect(sandbox.add_honeycomb_key("ingest"))
    description = Description(yaml.safe_load(Path(SPEC_FILE).read_text()))
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

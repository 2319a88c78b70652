"""Decodes the bodies that arrived at the sink, with the official protobuf classes or as JSON.

With code of its own, so that nothing that ours and theirs have in common hides a fault.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import zstandard
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]  # has no stubs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

NS_PER_S = 1_000_000_000


class Sent(msgspec.Struct, frozen=True):
    """The body of one request, as received."""

    path: str
    encoding: str
    body: bytes

    @property
    def plain(self) -> bytes:
        """The decompressed body."""
        if self.encoding == "gzip":
            return gzip.decompress(self.body)
        if self.encoding == "zstd":
            plain: bytes = zstandard.ZstdDecompressor().decompress(self.body)
            return plain
        return self.body


class Arrived(msgspec.Struct, frozen=True):
    """One span, or one of its links, as a service stores it: ids and values."""

    key: tuple[str, ...]
    content: dict[str, Any]


def spans_of(sent: Sent) -> Iterator[Arrived]:
    """Yield the spans in a body."""
    return _events(sent.plain) if sent.path.startswith("/1/") else _otlp_spans(sent.plain)


def _events(body: bytes) -> Iterator[Arrived]:
    for event in json.loads(body):
        data = event["data"]
        link = data.get("trace.link.trace_id", ""), data.get("trace.link.span_id", "")
        ids = data["trace.trace_id"], data.get("trace.span_id") or data["trace.parent_id"]
        yield Arrived((*ids, *link), {**data, "time": _ns(event["time"])})


def _ns(text: str) -> int:
    """Convert RFC 3339 with any number of digits to nanoseconds since 1970."""
    text = text.replace("Z", "+00:00")
    whole, _, rest = text.partition(".")
    digits, _, zone = rest.partition("+")
    at = datetime.fromisoformat(f"{whole}+{zone}" if rest else text)
    return int(at.timestamp()) * NS_PER_S + int(digits.ljust(9, "0") or 0)


def _otlp_spans(body: bytes) -> Iterator[Arrived]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            scope = {"scope": scoped.scope.name, "version": scoped.scope.version}
            for span in scoped.spans:
                own = _attributes(span.attributes)
                content = {"resource": resource, "attributes": own, **scope}
                for field, value in span.ListFields():
                    if field.name not in {"attributes", "links", "status"}:
                        content[field.name] = value
                content["status"] = MessageToDict(span.status)
                content["links"] = [MessageToDict(link) for link in span.links]
                yield Arrived((span.trace_id.hex(), span.span_id.hex()), content)


def _attributes(pairs: Iterator[KeyValue]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        if pair.key in found:
            raise ValueError(f"{pair.key} stands twice")
        # With the type, so that 1, 1.0, true and "1" differ.
        found[pair.key] = pair.value.SerializeToString()
    return found

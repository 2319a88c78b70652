"""Events that Honeycomb's translator, husky, makes of spans received by OTLP.

Written for the tests from husky's documented behaviour; shares no code with the encoders that it
compares. Covers only what our spans can have: no span events or sample rates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

KINDS = ["unspecified", "internal", "server", "client", "producer", "consumer"]
ERROR = 2
FIELD_BYTES = 65_535


def events(request: ExportTraceServiceRequest) -> Iterator[dict[str, Any]]:
    """Yield `time` and `data` of each event: a span's links, then the span."""
    for group in request.resource_spans:
        of_resource = columns(group.resource.attributes)
        for part in group.scope_spans:
            outer = of_resource | columns(part.scope.attributes)
            outer |= {"library.name": part.scope.name, "library.version": part.scope.version}
            if group.schema_url:
                outer["resource.schema_url"] = group.schema_url
            if part.schema_url:
                outer["scope.schema_url"] = part.schema_url
            for span in part.spans:
                assert not span.events
                yield from (link_event(span, link, outer) for link in span.links)
                yield span_event(span, outer)


def span_event(span: Span, outer: dict[str, Any]) -> dict[str, Any]:
    data = outer | {
        "trace.trace_id": trace_text(span.trace_id),
        "trace.span_id": span.span_id.hex(),
        "name": span.name,
        "type": KINDS[span.kind],
        "span.kind": KINDS[span.kind],
        "status_code": span.status.code,
        "duration_ms": float(span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
        "span.num_events": len(span.events),
        "span.num_links": len(span.links),
        "meta.signal_type": "trace",
    }
    if span.parent_span_id:
        data["trace.parent_id"] = span.parent_span_id.hex()
    if span.trace_state:
        data["trace.trace_state"] = span.trace_state
    if span.status.message:
        data["status_message"] = span.status.message
    if span.status.code == ERROR:
        data["error"] = True
    return {"time": time_text(span), "data": data | columns(span.attributes)}


def link_event(span: Span, link: Span.Link, outer: dict[str, Any]) -> dict[str, Any]:
    data = outer | {
        "trace.trace_id": trace_text(span.trace_id),
        "trace.parent_id": span.span_id.hex(),
        "trace.link.trace_id": trace_text(link.trace_id),
        "trace.link.span_id": link.span_id.hex(),
        "parent_name": span.name,
        "meta.annotation_type": "link",
        "meta.signal_type": "trace",
    }
    if span.status.code == ERROR:
        data["error"] = True
    return {"time": time_text(span), "data": data | columns(link.attributes)}


def trace_text(trace_id: bytes) -> str:
    return trace_id[8:].hex() if trace_id[:8] == bytes(8) else trace_id.hex()


def time_text(span: Span) -> str:
    """Return the start as RFC 3339 with nanoseconds."""
    seconds, ns = divmod(span.start_time_unix_nano, 10**9)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{at.strftime('%Y-%m-%dT%H:%M:%S')}.{ns:09d}Z"


def columns(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Return the columns of attributes; of equal keys, the first one wins."""
    found: dict[str, Any] = {}
    for pair in pairs:
        for name, value in flattened(pair.key, pair.value):
            found.setdefault(name, value)
    return found


def flattened(key: str, value: AnyValue) -> Iterator[tuple[str, Any]]:
    kind = value.WhichOneof("value")
    if not key or kind is None:
        return
    if kind == "kvlist_value":
        for pair in value.kvlist_value.values:
            yield from flattened(f"{key}.{pair.key}", pair.value)
    elif kind == "array_value":
        text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")) + "\n"
        yield key, text.encode()[:FIELD_BYTES].decode(errors="ignore")
    else:
        yield key, getattr(value, kind)


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "array_value":
            return [plain(one) for one in value.array_value.values]
        case "kvlist_value":
            return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
        case _:
            return getattr(value, kind)

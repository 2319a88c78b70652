"""OTLP messages to plain objects, which a test or a person can look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True, slots=True)
class StoredScope:
    """What made the spans."""

    name: str
    version: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredLink:
    """Ids in hex; attributes as in `StoredSpan`."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    flags: int


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span, its resource and its scope.

    Ids are lower-case hex, the parent's empty on a root. `kind` and `status_code` are
    OTLP's numbers. Attributes are strings, numbers, booleans, bytes, lists, dicts or None.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    status_code: int
    status_message: str
    attributes: dict[str, Any]
    event_count: int
    links: list[StoredLink]
    trace_state: str
    flags: int
    resource: dict[str, Any]
    scope: StoredScope

    @property
    def sound(self) -> bool:
        """Whether trace and span have ids: of the right length, and not all zero."""
        ids = ((self.trace_id, 32), (self.span_id, 16))
        return all(len(one) == digits and one.strip("0") for one, digits in ids)


def spans_in(request: ExportTraceServiceRequest) -> Iterator[StoredSpan]:
    """The request's spans, in their order."""
    for group in request.resource_spans:
        resource = attributes_of(group.resource.attributes)
        for part in group.scope_spans:
            made_by = part.scope
            scope = StoredScope(made_by.name, made_by.version, attributes_of(made_by.attributes))
            for span in part.spans:
                yield _stored(span, resource, scope)


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Keys and values; of equal keys the first, as Honeycomb has it."""
    found: dict[str, Any] = {}
    for pair in pairs:
        found.setdefault(pair.key, value_of(pair.value))
    return found


def value_of(value: AnyValue) -> Any:
    """What an AnyValue holds; None if it holds nothing."""
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "array_value":
            return [value_of(one) for one in value.array_value.values]
        case "kvlist_value":
            return attributes_of(value.kvlist_value.values)
        case _:
            return getattr(value, kind)


def _stored(span: Span, resource: dict[str, Any], scope: StoredScope) -> StoredSpan:
    return StoredSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status_code=span.status.code,
        status_message=span.status.message,
        attributes=attributes_of(span.attributes),
        event_count=len(span.events),
        links=[
            StoredLink(
                link.trace_id.hex(), link.span_id.hex(), attributes_of(link.attributes), link.flags
            )
            for link in span.links
        ],
        trace_state=span.trace_state,
        flags=span.flags,
        resource=resource,
        scope=scope,
    )

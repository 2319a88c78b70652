"""Encoded spans to the body of a request, and what that adds to them. Pure.

    ExportTraceServiceRequest
    └─ ResourceSpans            one for each resource among the items
       ├─ Resource              `Item.shared`
       └─ ScopeSpans
          ├─ InstrumentationScope
          └─ Span …             `Item.pieces`

Source: OTLP's `trace_service.proto` and `trace.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable

from bk_pipeline import __version__
from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.otlp.shape import SCOPE_NAME
from bk_pipeline.deliver.otlp.wire import sized, varint

# Fields of the messages above, in their order.
RESOURCE_SPANS, RESOURCE, SCOPE_SPANS, SCOPE, SPAN = b"\x0a", b"\x0a", b"\x12", b"\x0a", b"\x12"
SCOPE_PART = sized(
    SCOPE, sized(b"\x0a", SCOPE_NAME.encode()) + sized(b"\x12", __version__.encode())
)
# Two tags, and two lengths of up to 256 MiB.
FRAMING_BYTES = len(SCOPE_PART) + 2 * (1 + 4)


def resource_part(attributes: bytes) -> bytes:
    """What items of one resource share, given the encoded attributes of the resource."""
    return sized(RESOURCE, attributes)


def span_entry(span: bytes) -> bytes:
    """A span as it stands among others."""
    return sized(SPAN, span)


def body_of(items: Iterable[Item]) -> bytes:
    """The request that carries `items`; those of one resource stand together, in their order.

    Longer than the items and what they share by at most FRAMING_BYTES a resource.
    """
    by_resource: dict[bytes, list[Item]] = {}
    for item in items:
        by_resource.setdefault(item.shared, []).append(item)
    parts: list[bytes] = []
    for resource, spans in by_resource.items():
        inner_bytes = len(SCOPE_PART) + sum(span.size for span in spans)
        inner = SCOPE_SPANS + varint(inner_bytes)
        outer = RESOURCE_SPANS + varint(len(resource) + len(inner) + inner_bytes)
        parts += (outer, resource, inner, SCOPE_PART)
        for span in spans:
            parts += span.pieces
    return b"".join(parts)

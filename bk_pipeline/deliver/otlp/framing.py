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

# The bit of a varint's byte that says that another follows.
MORE = 0x80
_BYTE = tuple(bytes((number,)) for number in range(2 * MORE))


def varint(number: int) -> bytes:
    """A whole number, 0 or more, in seven bits a byte, lowest first."""
    if number < MORE:
        return _BYTE[number]
    return _BYTE[number % MORE | MORE] + varint(number // MORE)


def sized(tag: bytes, content: bytes) -> bytes:
    """A field whose value is text, bytes or a message."""
    return tag + varint(len(content)) + content


# Fields of the messages above, in their order.
RESOURCE_SPANS, RESOURCE, SCOPE_SPANS, SCOPE, SPAN = b"\x0a", b"\x0a", b"\x12", b"\x0a", b"\x12"
SCOPE_PART = sized(
    SCOPE, sized(b"\x0a", SCOPE_NAME.encode()) + sized(b"\x12", __version__.encode())
)
# Two tags, and two lengths of up to 256 MiB.
FRAMING_BYTES = len(SCOPE_PART) + 2 * (1 + 4)


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

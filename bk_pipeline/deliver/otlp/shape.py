"""What a span is in OTLP, whichever of the two encoders writes it: order, names, limits.

Sources: the OTLP specification and its `trace.proto`; opentelemetry-python's OTLP exporter,
whose bytes the fast encoder's are; limits that receivers are known for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bk_pipeline import __version__
from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.encoding import (
    AGENT_FIELDS,
    BUILD_FIELDS,
    JOB_FIELDS,
    PLAIN_FIELDS,
    RESOURCE_FIELDS,
    ROOT_FIELDS,
)

SCOPE_NAME = "bk_pipeline"
SERVICE_NAME = "service.name"

# Whether a parent or a linked span is another process's: known. And: it is.
FLAGS_LOCAL = 0x100
FLAGS_REMOTE = 0x300

# One span. No receiver says a limit for one; Honeycomb, the strictest known, takes events
# of 1,000,000 bytes of JSON, which is longer than protobuf.
SPAN_BYTES = 1_000_000
# Nor for how many attributes; Honeycomb, perhaps behind a collector, refuses an event of more
# columns, and answers for it with a 2xx.
SPAN_COLUMNS = 2_000
# Those that Honeycomb's translator makes of every span besides its attributes and its resource's:
# ids, name, type, kind, status, duration, counts of events and links, signal, library's name and
# version. A parent and an error are one more each.
BUILT_IN_COLUMNS = 12

# The order of a span's attributes.
SPAN_FIELDS = PLAIN_FIELDS + BUILD_FIELDS + ROOT_FIELDS + JOB_FIELDS + AGENT_FIELDS
# With fewer keys than this no span has too many columns.
UNSUSPICIOUS_KEYS = SPAN_COLUMNS // 2


def outer_attributes(common: Mapping[str, str]) -> dict[str, str]:
    """Of the attributes that every resource has: those that no build has a value of its own for."""
    own = {field.name for field in RESOURCE_FIELDS}
    return {name: value for name, value in common.items() if name not in own}


def link_flags(trace_id: str, linked_trace_id: str) -> int:
    """The flags of a link: another build's span is another process's."""
    return FLAGS_LOCAL if trace_id == linked_trace_id else FLAGS_REMOTE


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

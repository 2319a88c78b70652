"""The OTLP representation of a span, common to both encoders: order, names, limits, framing.

Sources: the OTLP specification and its `trace.proto`; opentelemetry-python's OTLP exporter, whose
bytes the fast encoder reproduces; known limits of receivers.
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

# Flags of a span or link: it is known whether the parent or linked span is remote (0x100), and
# it is (0x200).
FLAGS_LOCAL = 0x100
FLAGS_REMOTE = 0x300

# The maximum size of a span. No receiver documents a limit for OTLP; Honeycomb, the strictest
# known, accepts events of 1,000,000 bytes of JSON, which is longer than protobuf.
SPAN_BYTES = 1_000_000
# The maximum number of columns. No receiver documents a limit for OTLP; Honeycomb, perhaps behind
# a collector, drops an event with more columns and still responds with a 2xx.
SPAN_COLUMNS = 2_000
# Columns that Honeycomb's translator adds to the attributes of every span and its resource: ids,
# name, type, kind, status, duration, counts of events and links, signal, library name and version.
# A parent and an error add one more each.
BUILT_IN_COLUMNS = 12

# The order of a span's attributes.
SPAN_FIELDS = PLAIN_FIELDS + BUILD_FIELDS + ROOT_FIELDS + JOB_FIELDS + AGENT_FIELDS
# A span whose maps have fewer keys than this cannot have too many columns.
MAX_SAFE_KEYS = SPAN_COLUMNS // 2


def common_attributes(common: Mapping[str, str]) -> dict[str, str]:
    """Return the common attributes for which builds have no value of their own."""
    build_fields = {field.name for field in RESOURCE_FIELDS}
    return {name: value for name, value in common.items() if name not in build_fields}


def link_flags(trace_id: str, linked_trace_id: str) -> int:
    """Return the flags of a link; a span of another build belongs to another process."""
    return FLAGS_LOCAL if trace_id == linked_trace_id else FLAGS_REMOTE


# The bit of a varint's byte that says that another byte follows.
CONTINUATION_BIT = 0x80
_BYTE = tuple(bytes((number,)) for number in range(2 * CONTINUATION_BIT))


def varint(number: int) -> bytes:
    """Return a non-negative integer as a protobuf varint."""
    if number < CONTINUATION_BIT:
        return _BYTE[number]
    return _BYTE[number % CONTINUATION_BIT | CONTINUATION_BIT] + varint(number // CONTINUATION_BIT)


def sized(tag: bytes, content: bytes) -> bytes:
    """Return a length-delimited field: a string, bytes or a message."""
    return tag + varint(len(content)) + content


# Tags of the enclosing messages, in order of nesting.
RESOURCE_SPANS, RESOURCE, SCOPE_SPANS, SCOPE, SPAN = b"\x0a", b"\x0a", b"\x12", b"\x0a", b"\x12"
ENCODED_SCOPE = sized(
    SCOPE, sized(b"\x0a", SCOPE_NAME.encode()) + sized(b"\x12", __version__.encode())
)
# The scope, two tags, and two lengths of up to 256 MiB.
FRAMING_BYTES = len(ENCODED_SCOPE) + 2 * (1 + 4)


def body_of(items: Iterable[Item]) -> bytes:
    """Return the export request of `items`, grouped by resource in order of appearance.

    It exceeds the items and their shared data by at most FRAMING_BYTES per resource.
    """
    by_resource: dict[bytes, list[Item]] = {}
    for item in items:
        by_resource.setdefault(item.shared, []).append(item)
    parts: list[bytes] = []
    for resource, spans in by_resource.items():
        inner_bytes = len(ENCODED_SCOPE) + sum(span.size for span in spans)
        inner = SCOPE_SPANS + varint(inner_bytes)
        outer = RESOURCE_SPANS + varint(len(resource) + len(inner) + inner_bytes)
        parts += (outer, resource, inner, ENCODED_SCOPE)
        for span in spans:
            parts += span.pieces
    return b"".join(parts)

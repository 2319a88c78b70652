"""The OTLP representation of a span, common to both encoders: order, names, framing, limits.

Sources: the OTLP specification and its `trace.proto`; opentelemetry-python's OTLP exporter, whose
bytes the fast encoder reproduces; known limits of receivers. A span above the limits is trimmed:
it gets fewer map keys, then shorter strings, the longest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bk_pipeline import __version__
from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.encoding import (
    AGENT_FIELDS,
    BUILD_FIELDS,
    JOB_FIELDS,
    MAP_PREFIXES,
    PLAIN_FIELDS,
    RESOURCE_FIELDS,
    ROOT_FIELDS,
    TRIMMED,
    shorten,
)
from bk_pipeline.deliver.resource import SERVICE_NAME
from bk_pipeline.spans.fields import SCHEMA_URL
from bk_pipeline.text import truncate

SCOPE_NAME = "bk_pipeline"
# The attribute from which Honeycomb takes an event's weight; it does not become a column.
SAMPLE_RATE = "sampleRate"

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
# name, type, kind, status, duration, counts of events and links, signal, library name and version,
# schema URLs of resource and scope. A parent and an error add one more each.
BUILT_IN_COLUMNS = 14

# The order of a span's attributes.
SPAN_FIELDS = PLAIN_FIELDS + BUILD_FIELDS + ROOT_FIELDS + JOB_FIELDS + AGENT_FIELDS
# A span whose maps have fewer keys than this cannot have too many columns.
MAX_SAFE_KEYS = SPAN_COLUMNS // 2


def common_attributes(common: Mapping[str, str], service: str | None = None) -> dict[str, str]:
    """Return the common attributes for which builds have no value of their own.

    Args:
        common: The attributes of every resource.
        service: The service name of a build, if it has its own.
    """
    build_fields = {field.name for field in RESOURCE_FIELDS}
    own = {SERVICE_NAME: service} if service else {}
    return {
        name: value
        for name, value in (own | dict(common) | own).items()
        if name not in build_fields
    }


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
# `schema_url` has the same number in both messages, and comes last in both.
ENCODED_SCHEMA_URL = sized(b"\x1a", SCHEMA_URL.encode())
# The scope, both schema URLs, two tags, and two lengths of up to 256 MiB.
FRAMING_BYTES = len(ENCODED_SCOPE) + 2 * len(ENCODED_SCHEMA_URL) + 2 * (1 + 4)


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
        inner_bytes += len(ENCODED_SCHEMA_URL)
        inner = SCOPE_SPANS + varint(inner_bytes)
        outer_bytes = len(resource) + len(inner) + inner_bytes + len(ENCODED_SCHEMA_URL)
        parts += (RESOURCE_SPANS + varint(outer_bytes), resource, inner, ENCODED_SCOPE)
        for span in spans:
            parts += span.pieces
        parts += (ENCODED_SCHEMA_URL, ENCODED_SCHEMA_URL)
    return b"".join(parts)


TAG_BYTES = 1


def exceeds_limits(span: Span, resource: Resource) -> bool:
    """Return whether a span exceeds Honeycomb's limits of an event, in bytes or in columns."""
    return span.ByteSize() > SPAN_BYTES or column_count(span, resource) > SPAN_COLUMNS


def column_count(span: Span, resource: Resource) -> int:
    """Return the number of columns Honeycomb's translator makes of a span and its resource."""
    pairs = (*span.attributes, *resource.attributes)
    names = {name for pair in pairs for name in _columns(pair.key, pair.value)} - {SAMPLE_RATE}
    names |= {"trace.trace_state"} if span.trace_state else set()
    of_parent, of_error = bool(span.parent_span_id), span.status.code == Status.STATUS_CODE_ERROR
    return BUILT_IN_COLUMNS + of_parent + of_error + len(names)


def fitted(
    span: Span,
    resource: Resource | None = None,
    *,
    limit_bytes: int = SPAN_BYTES,
    limit_columns: int = SPAN_COLUMNS,
) -> Span:
    """Trim `span` to the limits and mark it. Changes `span` itself.

    Like in Honeycomb's own events: if there are too many columns, keys of maps are dropped first,
    starting with the last key of the last map. Then the longest strings are truncated, including
    those in lists. If that is not enough, more keys are dropped.
    """
    span.attributes.append(KeyValue(key=TRIMMED, value=AnyValue(bool_value=True)))
    _drop_keys(span, column_count(span, resource or Resource()) - limit_columns, _column_cost)
    _shorten(span, span.ByteSize() - limit_bytes)
    _drop_keys(span, span.ByteSize() - limit_bytes, _byte_cost)
    return span


def _drop_keys(span: Span, excess: int, cost: Callable[[KeyValue], int]) -> None:
    """Drop map keys, starting with the last key of the last map, until they cost `excess` less."""
    if excess <= 0:
        return
    of_maps = [
        (MAP_PREFIXES.index(prefix), at)
        for at, pair in enumerate(span.attributes)
        for prefix in MAP_PREFIXES
        if pair.key.startswith(prefix)
    ]
    dropped: set[int] = set()
    for _, at in sorted(of_maps, reverse=True):
        if excess <= 0:
            break
        excess -= cost(span.attributes[at])
        dropped.add(at)
    kept = [pair for at, pair in enumerate(span.attributes) if at not in dropped]
    del span.attributes[:]
    span.attributes.extend(kept)


def _column_cost(pair: KeyValue) -> int:
    return len(set(_columns(pair.key, pair.value)))


def _byte_cost(pair: KeyValue) -> int:
    size: int = pair.ByteSize()
    return TAG_BYTES + len(varint(size)) + size


def _columns(name: str, value: AnyValue) -> Iterator[str]:
    """Yield the columns of an attribute; each key of a map is a column."""
    if value.HasField("kvlist_value"):
        for pair in value.kvlist_value.values:
            yield from _columns(f"{name}.{pair.key}", pair.value)
    elif value.WhichOneof("value") is not None:
        yield name


def _shorten(span: Span, excess: int) -> None:
    """Truncate strings, including those in lists, to save `excess` bytes."""
    strings = [text for one in span.attributes for text in _texts(one.value)]

    def truncate_to(index: int, limit: int) -> int:
        strings[index].string_value = truncate(strings[index].string_value, limit)
        return len(strings[index].string_value.encode())

    sizes = {index: len(text.string_value.encode()) for index, text in enumerate(strings)}
    shorten(sizes, excess, truncate_to)


def _texts(value: AnyValue) -> list[AnyValue]:
    """Return the strings in a value, so that they can be changed."""
    if value.HasField("array_value"):
        return [text for one in value.array_value.values for text in _texts(one)]
    return [value] if value.HasField("string_value") else []

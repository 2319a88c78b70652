"""Trim a span to the limits: fewer map keys, then shorter strings, the longest first. Pure.

The limits are Honeycomb's, the strictest known. The order of trimming is that of Honeycomb's own
events (`honeycomb/codec.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bk_pipeline.deliver.otlp.shape import (
    BUILT_IN_COLUMNS,
    SPAN_BYTES,
    SPAN_COLUMNS,
    varint,
)
from bk_pipeline.deliver.trimming import MAP_PREFIXES, TRIMMED, shorten
from bk_pipeline.text import truncate

TAG_BYTES = 1


def exceeds_limits(span: Span, resource: Resource) -> bool:
    """Return whether a span exceeds Honeycomb's limits of an event, in bytes or in columns."""
    return span.ByteSize() > SPAN_BYTES or column_count(span, resource) > SPAN_COLUMNS


def column_count(span: Span, resource: Resource) -> int:
    """Return the number of columns Honeycomb's translator makes of a span and its resource."""
    pairs = (*span.attributes, *resource.attributes)
    names = {name for pair in pairs for name in _columns(pair.key, pair.value)}
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

"""Making a span fit: fewer keys of maps, then shorter strings, the longest first. Pure.

The limits are Honeycomb's, the strictest known, and so is what goes first: the same that its own
loader drops (`honeycomb/trimming.py`).
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


def has_too_much(span: Span, resource: Resource) -> bool:
    """Whether a span is more than Honeycomb takes as one event, in bytes or in columns."""
    return span.ByteSize() > SPAN_BYTES or column_count(span, resource) > SPAN_COLUMNS


def column_count(span: Span, resource: Resource) -> int:
    """How many columns Honeycomb's translator makes of a span, its resource's included."""
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
    """As much of `span` as the limits allow, marked; `span` itself is used up.

    As Honeycomb's own events are trimmed: the keys of maps go first if there are too many columns,
    from the last map's last on; then the longest strings are cut, those in lists too; if that is
    not enough, more keys go.
    """
    span.attributes.append(KeyValue(key=TRIMMED, value=AnyValue(bool_value=True)))
    _drop_keys(span, column_count(span, resource or Resource()) - limit_columns, _column_cost)
    _shorten(span, span.ByteSize() - limit_bytes)
    _drop_keys(span, span.ByteSize() - limit_bytes, _byte_cost)
    return span


def _drop_keys(span: Span, excess: int, cost: Callable[[KeyValue], int]) -> None:
    """Drop keys of maps, from the last map's last on, until they cost `excess` less."""
    if excess <= 0:
        return
    of_maps = [
        (MAP_PREFIXES.index(prefix), at)
        for at, pair in enumerate(span.attributes)
        for prefix in MAP_PREFIXES
        if pair.key.startswith(prefix)
    ]
    gone: set[int] = set()
    for _, at in sorted(of_maps, reverse=True):
        if excess <= 0:
            break
        excess -= cost(span.attributes[at])
        gone.add(at)
    kept = [pair for at, pair in enumerate(span.attributes) if at not in gone]
    del span.attributes[:]
    span.attributes.extend(kept)


def _column_cost(pair: KeyValue) -> int:
    return len(set(_columns(pair.key, pair.value)))


def _byte_cost(pair: KeyValue) -> int:
    size: int = pair.ByteSize()
    return TAG_BYTES + len(varint(size)) + size


def _columns(name: str, value: AnyValue) -> Iterator[str]:
    """The columns of an attribute: a map's keys are columns of their own."""
    if value.HasField("kvlist_value"):
        for pair in value.kvlist_value.values:
            yield from _columns(f"{name}.{pair.key}", pair.value)
    elif value.WhichOneof("value") is not None:
        yield name


def _shorten(span: Span, excess: int) -> None:
    """Cut strings until they take `excess` bytes less, those in lists too."""
    found = [text for one in span.attributes for text in _texts(one.value)]

    def cut_to(place: int, limit: int) -> int:
        found[place].string_value = truncate(found[place].string_value, limit)
        return len(found[place].string_value.encode())

    sizes = {place: len(text.string_value.encode()) for place, text in enumerate(found)}
    shorten(sizes, excess, cut_to)


def _texts(value: AnyValue) -> list[AnyValue]:
    """The strings in a value, so that they can be changed."""
    if value.HasField("array_value"):
        return [text for one in value.array_value.values for text in _texts(one)]
    return [value] if value.HasField("string_value") else []

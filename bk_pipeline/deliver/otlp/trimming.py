"""Making a span fit: shorter strings, the longest first, then fewer of the maps' keys. Pure."""

from __future__ import annotations

from heapq import heapify, heapreplace

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bk_pipeline.deliver.otlp.framing import varint
from bk_pipeline.deliver.otlp.shape import MAP_PREFIXES, SPAN_BYTES, TRIMMED
from bk_pipeline.spans.text import cut

# A string is not cut below this before all longer ones are: a few words say something.
SHORTEST_BYTES = 64
TAG_BYTES = 1


def fitted(span: Span, *, limit_bytes: int = SPAN_BYTES) -> Span:
    """As much of `span` as the limit allows, marked; `span` itself is used up.

    The longest strings are cut, those in lists too; if that is not enough, the keys of maps
    go, from the last on.
    """
    span.attributes.append(KeyValue(key=TRIMMED, value=AnyValue(bool_value=True)))
    _shorten(span, span.ByteSize() - limit_bytes)
    excess = span.ByteSize() - limit_bytes
    surplus = [at for at, one in enumerate(span.attributes) if one.key.startswith(MAP_PREFIXES)]
    while surplus and excess > 0:
        at = surplus.pop()
        size = span.attributes[at].ByteSize()
        excess -= TAG_BYTES + len(varint(size)) + size
        del span.attributes[at]
    return span


def _shorten(span: Span, excess: int) -> None:
    """Cut strings until they take `excess` bytes less, the longest first.

    None to less than half of what is then the longest, so that they share the loss.
    """
    found = [text for one in span.attributes for text in _texts(one.value)]
    heap = [(-len(text.string_value.encode()), place) for place, text in enumerate(found)]
    heapify(heap)
    while excess > 0 and heap and -heap[0][0] > SHORTEST_BYTES:
        size, place = -heap[0][0], heap[0][1]
        text = found[place]
        limit = max(size - excess, size // 2, SHORTEST_BYTES)
        text.string_value = cut(text.string_value, limit)
        left = len(text.string_value.encode())
        excess -= size - left
        heapreplace(heap, (-left, place))


def _texts(value: AnyValue) -> list[AnyValue]:
    """The strings in a value, so that they can be changed."""
    if value.HasField("array_value"):
        return [text for one in value.array_value.values for text in _texts(one)]
    return [value] if value.HasField("string_value") else []

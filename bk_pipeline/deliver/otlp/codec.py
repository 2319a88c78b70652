"""The OTLP protobuf codec: the same bytes as `plain.py` and the official exporter. Pure.

The only exception is a time of 0, which those leave out. Most of a span is encoded here: ids,
times, strings and integers. The official classes encode the rest, once per distinct value. Each tag
is one byte: the field number shifted left by three bits, plus the wire type.

Sources: Protocol Buffers, "Encoding"; OTLP's `common.proto` and `trace.proto`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.encoding import (
    Dictionary,
    dictionary,
    encode,
    map_key_bounds,
    with_defaults,
)
from bk_pipeline.deliver.otlp import plain
from bk_pipeline.deliver.otlp.shape import (
    FLAGS_LOCAL,
    MAX_SAFE_KEYS,
    RESOURCE,
    SAMPLE_RATE,
    SPAN,
    SPAN_BYTES,
    common_attributes,
    exceeds_limits,
    fitted,
    sized,
    varint,
)
from bk_pipeline.deliver.rows import (
    BYTES,
    Parts,
    SpanRows,
    framed,
    from_hex,
    from_matrix,
    hstack,
    is_valid,
    to_matrix,
    varints,
)
from bk_pipeline.deliver.sampling import rate_of, trace_state
from bk_pipeline.spans.fields import Field, FieldType
from bk_pipeline.text import truncate
from bk_pipeline.units import INT64

# Size of the cache of attribute prefixes: a few hundred keys, each with several lengths.
CACHED_PREFIXES = 8_192
# Tags of Span, some with the length of fields of fixed size, and of Resource.
TRACE_ID, SPAN_ID, PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
TRACE_STATE = b"\x1a"
START, END, ATTRIBUTES, RESOURCE_ATTRIBUTES = b"\x39", b"\x41", b"\x4a", b"\x0a"
# Tags of KeyValue and AnyValue.
KEY, VALUE, STRING, INT = b"\x0a", b"\x12", b"\x0a", b"\x18"


def items(
    rows: SpanRows,
    common: Mapping[str, str],
    *,
    rate_attribute: bool = False,
    service_template: str = "",
) -> list[Item]:
    """Return the spans of `rows` as items, each with its links, in order. Pure.

    Args:
        rows: Rows of the span table.
        common: The attributes of every resource, including the service name; a build's own values
            take precedence.
        rate_attribute: Write weights as Honeycomb's attribute instead of `tracestate`.
        service_template: The template of the service name; empty if all builds have that of `common`.
    """
    protobuf = Protobuf(common, rate_attribute=rate_attribute, service_template=service_template)
    return encode(with_defaults(rows, common), protobuf)


class Protobuf:
    """`Codec` for OTLP spans.

    Args:
        common: The attributes of every resource.
        rate_attribute: Write weights as Honeycomb's attribute instead of `tracestate`.
        service_template: The template of the service name.
    """

    def __init__(
        self,
        common: Mapping[str, str],
        *,
        rate_attribute: bool = False,
        service_template: str = "",
    ) -> None:
        self.service_template = service_template
        self._common = common
        self._rate_attribute = rate_attribute
        self._max_safe_keys = MAX_SAFE_KEYS - len(common)
        self._common_fields = self._encoded_common(None)

    def fragments(self, field: Field, values: list[Any]) -> list[bytes]:
        """Return attributes as KeyValues of the resource or of the span."""
        tag, name = _tag(field), field.name
        match field.type:
            case FieldType.MAP:
                return [_map(tag, name.removesuffix("*"), one) for one in values]
            case FieldType.STRINGS:
                return [attribute(tag, name, msgspec.json.decode(one)) for one in values]
            case FieldType.STRING | FieldType.JSON:
                encoded = [truncate(one).encode() for one in values]
                return [attribute_prefix(tag, name, STRING, len(one)) + one for one in encoded]
            case _:
                return [attribute(tag, name, one) for one in values]

    def bulk_fragments(self, field: Field, values: pa.Array) -> Parts:
        """Return attributes with string or integer values as KeyValues."""
        tag, name = _tag(field), field.name
        if field.type is FieldType.INT:
            return framed(lambda size: attribute_prefix(tag, name, INT, size), varints(values))
        return framed(lambda size: attribute_prefix(tag, name, STRING, size), values.cast(BYTES))

    def resource(self, attributes: bytes, service: str | None) -> tuple[bytes, bytes]:
        """Return the resource, which a request contains once, with the common attributes."""
        common = self._common_fields if service is None else self._encoded_common(service)
        return b"", sized(RESOURCE, common + attributes)

    def _encoded_common(self, service: str | None) -> bytes:
        values = common_attributes(self._common, service).items()
        return b"".join(attribute(RESOURCE_ATTRIBUTES, name, value) for name, value in values)

    def header(self, rows: SpanRows) -> Iterator[Parts]:
        """Return ids, name, kind and times."""
        trace_ids = to_matrix(rows.trace_ids, 16)[rows.build_of_row]
        yield [from_matrix(hstack(TRACE_ID, trace_ids, SPAN_ID, to_matrix(rows.span_ids, 8)))]
        if not self._rate_attribute:
            yield _weights(rows, lambda one: sized(TRACE_STATE, trace_state(one).encode()))
        parents = rows.column("parent_span_id")
        ids = hstack(PARENT_ID, from_hex(parents.drop_null(), 8))
        yield [from_matrix(ids, is_valid(parents))]
        names = _fields(rows.column("name"), lambda name: Span(name=name, kind=plain.kind(name)))
        yield [names.array()]
        starts, ends = rows.start_ns, np.asarray(rows.column("end").cast(pa.int64()))
        yield [from_matrix(hstack(START, _fixed64(starts), END, _fixed64(ends)))]
        if self._rate_attribute:
            yield _weights(rows, lambda one: attribute(ATTRIBUTES, SAMPLE_RATE, rate_of(one)))

    def groups(
        self, rows: SpanRows, job: list[Dictionary], agent: list[Dictionary]
    ) -> list[list[Dictionary]]:
        """Return the columns, followed by links, status and flags."""
        statuses = rows.column("status")
        ends = _fields(statuses, lambda one: Span(status=plain.status(one), flags=FLAGS_LOCAL))
        return [job, [*agent, _links(rows), ends]]

    def prefix(self, sizes: Any) -> Parts:
        """Return the tag and the length of each span message."""
        numbers = dictionary(pa.array(sizes), lambda some: list(map(varint, some)))
        return [SPAN, numbers.array()]

    def trimmed(self, rows: SpanRows, sizes: Any) -> Iterator[tuple[int, bytes, bool]]:
        """Return the spans that exceed the limits of the strictest known service, trimmed."""
        maybe_oversized = (sizes > SPAN_BYTES) | (map_key_bounds(rows) > self._max_safe_keys)
        for row in np.flatnonzero(maybe_oversized).tolist():
            (one,) = plain.raw_rows(rows.table.slice(row, 1))
            threshold = rows.thresholds.get(rows.trace_ids[rows.build_of_row[row]], 0)
            span = plain.span(one, threshold, rate_attribute=self._rate_attribute)
            resource = plain.resource(one, self._common, self.service_template)
            if exceeds_limits(span, resource):
                yield row, sized(SPAN, fitted(span, resource).SerializeToString()), True


def _weights(rows: SpanRows, weight_of: Callable[[int], bytes]) -> Parts:
    """Return what `weight_of` returns for the threshold of each row's build, if it has one."""
    if not rows.thresholds:
        return []
    thresholds = [rows.thresholds.get(one, 0) for one in rows.trace_ids]
    fragments = [weight_of(one) if one else b"" for one in thresholds]
    return [Dictionary(fragments, rows.build_of_row).array()]


def _tag(field: Field) -> bytes:
    return RESOURCE_ATTRIBUTES if field.resource else ATTRIBUTES


def _map(tag: bytes, prefix: str, text: str) -> bytes:
    values = msgspec.json.decode(text).items()
    return b"".join(attribute(tag, prefix + key, one) for key, one in values if one is not None)


def attribute(tag: bytes, key: str, value: Any) -> bytes:
    """Return a KeyValue as field `tag` of a message; strings are truncated to 65,535 bytes."""
    if isinstance(value, str):
        content = truncate(value).encode()
        return attribute_prefix(tag, key, STRING, len(content)) + content
    if type(value) is int and value in INT64:
        content = varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        return attribute_prefix(tag, key, INT, len(content)) + content
    return sized(tag, plain.key_value(key, value).SerializeToString())


@lru_cache(CACHED_PREFIXES)
def attribute_prefix(tag: bytes, key: str, kind: bytes, length: int) -> bytes:
    """Return what precedes the `length` bytes of an attribute's string or varint (`kind`)."""
    value = STRING + varint(length) if kind == STRING else kind
    # Protobuf omits empty strings outside of a `oneof`.
    before = sized(KEY, key.encode()) if key else b""
    before += VALUE + varint(len(value) + length) + value
    return tag + varint(len(before) + length) + before


def _fixed64(numbers: Any) -> Any:
    """Return integers as protobuf `fixed64` values: a matrix of their bytes."""
    return numbers.astype("<i8").view(np.uint8).reshape(-1, 8)


def _fields(values: pa.Array, span_of: Callable[[Any], Span]) -> Dictionary:
    """Return the fields that `span_of` sets for each value, encoded by the official classes."""
    return dictionary(values, lambda some: [span_of(one).SerializeToString() for one in some])


def _links(rows: SpanRows) -> Dictionary:
    linked = np.flatnonzero(rows.link_counts())
    table = rows.table.select(["trace_id", "links"]).take(linked)
    codes = np.zeros(len(rows), np.int64)
    codes[linked] = np.arange(len(linked)) + 1
    spans = (Span(links=plain.links(row)) for row in table.to_pylist())
    return Dictionary([b"", *(span.SerializeToString() for span in spans)], codes)

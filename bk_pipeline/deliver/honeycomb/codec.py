"""Honeycomb's JSON events as a codec: value for value what `plain.py` gives. Pure.

Many strings are copied by Arrow, without a look at each one, if none has a character that
JSON escapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.arrays import BYTES, Parts, content_of, framed
from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.encoding import (
    RESOURCE_FIELDS,
    STATUS_CODES,
    Dictionary,
    dictionary,
    encode,
    rows_of_fields,
)
from bk_pipeline.deliver.honeycomb import plain
from bk_pipeline.deliver.honeycomb.plain import Event, column_value
from bk_pipeline.deliver.honeycomb.shape import (
    ERROR,
    EVENT_BYTES,
    EVENT_COLUMNS,
    FIXED,
    Shape,
    TraceIdStyle,
    list_text,
    root_span_id,
    value_text,
)
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.trimming import MAP_PREFIXES, TRIMMED, keys_of_maps, shorten
from bk_pipeline.spans.fields import FIELDS, Field, FieldType
from bk_pipeline.spans.table import rows as plain_rows
from bk_pipeline.text import TRUNCATION_MARK
from bk_pipeline.units import NS_PER_MS


def fitted(
    event: Event,
    *,
    limit_bytes: int = EVENT_BYTES,
    limit_columns: int = EVENT_COLUMNS,
) -> tuple[Event, bool]:
    """`event`, or as much of it as the limits allow, marked; and whether it is less.

    The keys of maps go first, from the last on, if there are too many columns; then the
    longest strings are cut.
    """
    data: dict[str, Any] = event["data"]
    if len(data) <= limit_columns and _size(event) <= limit_bytes:
        return event, False
    data = data | {TRIMMED: True}
    surplus = [name for name in data if name.startswith(MAP_PREFIXES)]
    while len(data) > limit_columns and surplus:
        del data[surplus.pop()]

    def cut_to(name: str, limit: int) -> int:
        data[name] = _cut(data[name], limit)
        return _size(data[name])

    strings = {name: _size(value) for name, value in data.items() if isinstance(value, str)}
    shorten(strings, _size(event | {"data": data}) - limit_bytes, cut_to)
    # Long names and no long strings: nothing is left but to drop more of the surplus.
    while surplus and _size(event | {"data": data}) > limit_bytes:
        del data[surplus.pop()]
    return event | {"data": data}, True


def _cut(text: str, encoded_bytes: int) -> str:
    """As much of `text` as so many bytes of JSON hold, with a mark."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if _size(text[:middle] + TRUNCATION_MARK) <= encoded_bytes:
            low = middle
        else:
            high = middle - 1
    return text[:low] + TRUNCATION_MARK


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))


# What a link's event has of its span, besides the resource.
OF_LINKS = ["trace_id", "span_id", "name", "status", "links", "buildkite.build.id"]
# With fewer keys than this no event has too many columns.
UNSUSPICIOUS_KEYS = EVENT_COLUMNS - 2 * len(FIELDS)
ENDING = b"}}"
QUOTE, BACKSLASH, FIRST_PLAIN = 0x22, 0x5C, 0x20
_json = msgspec.json.Encoder().encode


def items(rows: SpanRows, shape: Shape) -> list[Item]:
    """The events of `rows`, each span's links before it. Pure."""
    codec = Json(shape)
    spans = encode(rows, codec)
    linked = np.flatnonzero(rows.link_counts())
    resources = rows_of_fields(codec, RESOURCE_FIELDS, rows, linked)
    table = rows.table.select(OF_LINKS).take(linked)
    made: list[Item] = []
    done = 0
    for row, one, resource in zip(linked.tolist(), table.to_pylist(), resources, strict=True):
        made += spans[done:row]
        done, span = row, spans[row]
        one |= {"start_unix_nano": span.time_ns, "attributes": one, "resource": {}}
        for link, event in zip(one["links"], plain.link_events(one, shape), strict=True):
            link_id = plain.link_item_id(one["span_id"], link)
            body = plain.encode(event).removesuffix(ENDING) + resource + ENDING
            made.append(Item(span.trace_id, link_id, span.time_ns, span.name, (body,), len(body)))
    return made + spans[done:]


def body_of(items: Iterable[Item]) -> bytes:
    """The request that carries `items`: a list of them."""
    parts: list[bytes] = []
    for item in items:
        parts.append(b",")
        parts += item.pieces
    parts[0] = b"["
    parts.append(b"]")
    return b"".join(parts)


class Json:
    """`Codec` for Honeycomb events.

    Args:
        shape: What differs from one destination to another.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._always = inside({**FIXED, "service.name": shape.service_name})

    def fragments(self, field: Field, values: list[Any]) -> list[bytes]:
        """Columns and their values, each behind a comma."""
        start = head(field.name)
        match field.type:
            case FieldType.MAP:
                return [_map(field.name.removesuffix("*"), one) for one in values]
            case FieldType.STRINGS:
                return [start + _json(list_text(one)) for one in values]
            case FieldType.STRING | FieldType.JSON:
                return [start + _json(value_text(one)) for one in values]
            case _:
                return [start + _json(one) for one in values]

    def bulk_fragments(self, field: Field, values: pa.Array) -> Parts | None:
        """The same, if no value has a character that JSON escapes."""
        start = head(field.name)
        return between(start + b'"', values, b'"') if _needs_no_escape(values) else None

    def resource(self, attributes: bytes) -> tuple[bytes, bytes]:
        """In each event: behind the columns whose values never vary."""
        return self._always + attributes, b""

    def header(self, rows: SpanRows) -> Iterator[Parts]:
        """Time, ids and duration."""
        starts = rows.column("start").cast(pa.timestamp("ns")).cast(pa.string())
        yield between(b'{"time":"', pc.binary_replace_slice(starts, 10, 11, "T"))
        traces = [self._shape.trace_text(one.hex()) for one in rows.trace_ids]
        begin = [f'Z","data":{{"trace.trace_id":"{one}"'.encode() for one in traces]
        yield [Dictionary(begin, rows.build_of_row).array()]
        for column, name in (("trace.span_id", "span_id"), ("trace.parent_id", "parent_span_id")):
            yield between(head(column) + b'"', self._span_texts(rows, name, traces), b'"')
        yield _durations(rows)

    def groups(
        self, rows: SpanRows, job: list[Dictionary], agent: list[Dictionary]
    ) -> list[list[Dictionary]]:
        """Before the columns of the job: name, status and number of links."""
        name = _column(rows.column("name"), lambda one: {"name": one})
        status = _column(rows.column("status"), _status)
        links = _column(pa.array(rows.link_counts()), lambda count: {"span.num_links": count})
        ending = Dictionary([ENDING], np.zeros(len(rows), np.int64))
        return [[name, status, links, *job], [*agent, ending]]

    def prefix(self, sizes: Any) -> Parts:  # noqa: ARG002
        """Nothing."""
        return []

    def trimmed(self, rows: SpanRows, sizes: Any) -> Iterator[tuple[int, bytes, bool]]:
        """The events that may be too large or have too many columns."""
        keys = keys_of_maps(rows)
        for row in np.flatnonzero((sizes > EVENT_BYTES) | (keys > UNSUSPICIOUS_KEYS)).tolist():
            (span,) = plain_rows(rows.table.slice(row, 1))
            event, is_less = fitted(plain.span_event(span, self._shape))
            yield row, plain.encode(event), is_less

    def _span_texts(self, rows: SpanRows, name: str, traces: list[str]) -> pa.Array:
        """The span ids as events have them."""
        values = rows.column(name)
        if self._shape.style is TraceIdStyle.OTEL:
            return values
        build_ids = rows.column("buildkite.build.id").take(pa.array(rows.first_rows)).to_pylist()
        traces_hex = [one.hex() for one in rows.trace_ids]
        roots = pa.array(map(root_span_id, traces_hex, build_ids), pa.string())
        builds = pa.array(rows.build_of_row)
        is_root = pc.equal(values, roots.take(builds))
        return pc.if_else(is_root, pa.array(traces, pa.string()).take(builds), values)


def head(column: str) -> bytes:
    """What stands before a column's value."""
    return b"," + _json(column) + b":"


def inside(columns: dict[str, Any]) -> bytes:
    """The columns as JSON, each with a comma before it; nothing for none."""
    return b"," + _json(columns)[1:-1] if columns else b""


def between(before: bytes, values: pa.Array, after: bytes = b"") -> Parts:
    """Each of `values` (strings, or numbers) between two others; nothing where it is null."""
    return framed(lambda _: before, values.cast(pa.string()).cast(BYTES), after)


def _map(prefix: str, text: str) -> bytes:
    values = msgspec.json.decode(text).items()
    return inside({prefix + key: column_value(one) for key, one in values if one is not None})


def _column(values: pa.Array, columns_of: Callable[[Any], dict[str, Any]]) -> Dictionary:
    return dictionary(values, lambda some: [inside(columns_of(one)) for one in some])


def _status(status: str) -> dict[str, Any]:
    return {"status_code": STATUS_CODES[status]} | ({"error": True} if status == ERROR else {})


def _durations(rows: SpanRows) -> Parts:
    lengths = np.asarray(rows.column("end").cast(pa.int64())) - rows.start_ns
    whole, rest = np.divmod(lengths, NS_PER_MS)
    start = head("duration_ms")
    if not rest.any():
        return between(start, pa.array(whole), b".0")
    return [pa.array([start + f"{length / 1e6!r}".encode() for length in lengths.tolist()], BYTES)]


def _needs_no_escape(values: pa.Array) -> bool:
    """Whether no value has a character that JSON escapes. May say no in error."""
    letters = np.frombuffer(content_of(values), np.uint8)
    return not ((letters < FIRST_PLAIN) | (letters == QUOTE) | (letters == BACKSLASH)).any()

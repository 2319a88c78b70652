"""The Honeycomb JSON codec: the same events as `plain.py`. Pure.

Arrow copies large numbers of strings at once if none has a character that JSON escapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.encoding import (
    MAP_PREFIXES,
    RESOURCE_FIELDS,
    TRIMMED,
    Dictionary,
    dictionary,
    encode,
    map_key_bounds,
    rows_of_fields,
    shorten,
    with_defaults,
)
from bk_pipeline.deliver.honeycomb import plain
from bk_pipeline.deliver.honeycomb.plain import Event, column_value
from bk_pipeline.deliver.honeycomb.shape import (
    BUILD_SOURCES,
    EVENT_BYTES,
    EVENT_COLUMNS,
    ROOT_SOURCES,
    Shape,
    TraceIdStyle,
    list_text,
    root_span_id,
    value_text,
)
from bk_pipeline.deliver.resource import SERVICE_SOURCES
from bk_pipeline.deliver.rows import BYTES, Parts, SpanRows, content_of, framed
from bk_pipeline.deliver.sampling import rate_of
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
    """Trim an event to the limits.

    If there are too many columns, keys of maps are dropped first, starting with the last one. Then
    the longest strings are truncated.

    Returns:
        The event, or a trimmed one marked as such, and whether it was trimmed.
    """
    data: dict[str, Any] = event["data"]
    if len(data) <= limit_columns and _size(event) <= limit_bytes:
        return event, False
    data = data | {TRIMMED: True}
    surplus = [name for name in data if name.startswith(MAP_PREFIXES)]
    while len(data) > limit_columns and surplus:
        del data[surplus.pop()]

    def truncate(name: str, limit: int) -> int:
        data[name] = _truncated(data[name], limit)
        return _size(data[name])

    strings = {name: _size(value) for name, value in data.items() if isinstance(value, str)}
    shorten(strings, _size(event | {"data": data}) - limit_bytes, truncate)
    # Long names and no long strings: only dropping more map keys helps.
    while surplus and _size(event | {"data": data}) > limit_bytes:
        del data[surplus.pop()]
    return event | {"data": data}, True


def _truncated(text: str, encoded_bytes: int) -> str:
    """Truncate `text` so that it takes at most this many bytes of JSON, and mark it."""
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


# The columns of a span that its link events need, besides the resource.
LINK_COLUMNS = ["trace_id", "span_id", "name", "status", "links", "buildkite.build.id"]
# An event with fewer map keys than this cannot have too many columns.
MAX_SAFE_KEYS = EVENT_COLUMNS - 2 * len(FIELDS)
SUFFIX = b"}}"
QUOTE, BACKSLASH, FIRST_PRINTABLE = 0x22, 0x5C, 0x20
_json = msgspec.json.Encoder().encode


def items(rows: SpanRows, shape: Shape) -> list[Item]:
    """Return the events of `rows` as items, each span's links before it. Pure."""
    rows = with_defaults(rows, shape.resource)
    codec = Json(shape)
    spans = encode(rows, codec)
    linked = np.flatnonzero(rows.link_counts())
    resources = rows_of_fields(codec, RESOURCE_FIELDS, rows, linked)
    sources = SERVICE_SOURCES.values() if shape.service_template else ()
    table = rows.table.select([*LINK_COLUMNS, *sources]).take(linked)
    result: list[Item] = []
    done = 0
    for row, one, resource in zip(linked.tolist(), table.to_pylist(), resources, strict=True):
        result += spans[done:row]
        done, span = row, spans[row]
        one |= {"start_unix_nano": span.time_ns, "attributes": one, "resource": {}}
        rate = rate_of(rows.thresholds.get(span.trace_id, 0))
        events = plain.link_events(one, shape.of_build(one), rate)
        for link, event in zip(one["links"], events, strict=True):
            link_id = plain.link_item_id(one["span_id"], link)
            body = plain.encode(event).removesuffix(SUFFIX) + resource + SUFFIX
            result.append(Item(span.trace_id, link_id, span.time_ns, span.name, (body,), len(body)))
    return result + spans[done:]


def body_of(items: Iterable[Item]) -> bytes:
    """Return the request body of `items`: a JSON list."""
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
        shape: The properties of the destination's events.
    """

    def __init__(self, shape: Shape) -> None:
        self.service_template = shape.service_template
        self._shape = shape
        self._fixed_members = members(shape.fixed)

    def fragments(self, field: Field, values: list[Any]) -> list[bytes]:
        """Return columns and their values, each preceded by a comma."""
        start = column_prefix(field.name)
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
        """Return the same if no value has a character that JSON escapes, else None."""
        start = column_prefix(field.name)
        if field.type is FieldType.INT:
            return wrapped(start, values.cast(pa.string()))
        return wrapped(start + b'"', values, b'"') if _needs_no_escape(values) else None

    def resource(self, attributes: bytes, service: str | None) -> tuple[bytes, bytes]:
        """Return the fixed columns and the resource's, which every event contains."""
        if service is None:
            return self._fixed_members + attributes, b""
        return members(self._shape.with_service(service).fixed) + attributes, b""

    def header(self, rows: SpanRows) -> Iterator[Parts]:
        """Return time, ids and duration."""
        starts = rows.column("start").cast(pa.timestamp("ns")).cast(pa.string())
        yield wrapped(b'{"time":"', pc.binary_replace_slice(starts, 10, 11, "T"))
        traces = [self._shape.trace_text(one.hex()) for one in rows.trace_ids]
        weights = [_weight(rows.thresholds.get(one, 0)) for one in rows.trace_ids]
        starts_of_data = [
            f'Z",{weight}"data":{{"trace.trace_id":"{one}"'.encode()
            for one, weight in zip(traces, weights, strict=True)
        ]
        yield [Dictionary(starts_of_data, rows.build_of_row).array()]
        for column, name in (("trace.span_id", "span_id"), ("trace.parent_id", "parent_span_id")):
            yield wrapped(column_prefix(column) + b'"', self._span_texts(rows, name, traces), b'"')
        yield _durations(rows)

    def groups(
        self, rows: SpanRows, job: list[Dictionary], agent: list[Dictionary]
    ) -> list[list[Dictionary]]:
        """Return the columns, preceded by name, status and number of links."""
        name = _column(rows.column("name"), self._shape.name_columns)
        status = _column(rows.column("status"), self._shape.status_columns)
        links = _column(pa.array(rows.link_counts()), lambda count: {"span.num_links": count})
        suffix = Dictionary([SUFFIX], np.zeros(len(rows), np.int64))
        groups = [[name, status, links, *job], [*agent, suffix]]
        if self._shape.style is TraceIdStyle.OTEL:
            return groups
        return [self._buildevents(rows), *groups]

    def _buildevents(self, rows: SpanRows) -> list[Dictionary]:
        """Return the columns of `buildevents`: those of each build, and those of its root alone."""
        builds = rows.table.select([*BUILD_SOURCES.values()]).take(pa.array(rows.first_rows))
        columns = [members(self._shape.build_columns(one)) for one in builds.to_pylist()]
        (repository,) = ROOT_SOURCES.values()
        of_root = _column(
            rows.column(repository), lambda one: self._shape.build_columns({repository: one})
        )
        return [Dictionary(columns, rows.build_of_row), of_root]

    def prefix(self, sizes: Any) -> Parts:  # noqa: ARG002
        """Return nothing: an event starts with its header."""
        return []

    def trimmed(self, rows: SpanRows, sizes: Any) -> Iterator[tuple[int, bytes, bool]]:
        """Return the events that may be too large or have too many columns, trimmed."""
        keys = map_key_bounds(rows)
        for row in np.flatnonzero((sizes > EVENT_BYTES) | (keys > MAX_SAFE_KEYS)).tolist():
            (span,) = plain_rows(rows.table.slice(row, 1))
            threshold = rows.thresholds.get(rows.trace_ids[rows.build_of_row[row]], 0)
            event, trimmed = fitted(plain.span_event(span, self._shape, rate_of(threshold)))
            yield row, plain.encode(event), trimmed

    def _span_texts(self, rows: SpanRows, name: str, traces: list[str]) -> pa.Array:
        """Return the span ids as written in events."""
        values = rows.column(name)
        if self._shape.style is TraceIdStyle.OTEL:
            return values
        build_ids = rows.column("buildkite.build.id").take(pa.array(rows.first_rows)).to_pylist()
        traces_hex = [one.hex() for one in rows.trace_ids]
        roots = pa.array(map(root_span_id, traces_hex, build_ids), pa.string())
        builds = pa.array(rows.build_of_row)
        is_root = pc.equal(values, roots.take(builds))
        return pc.if_else(is_root, pa.array(traces, pa.string()).take(builds), values)


def column_prefix(column: str) -> bytes:
    """Return what precedes the value of a column."""
    return b"," + _json(column) + b":"


def members(columns: dict[str, Any]) -> bytes:
    """Return columns as JSON, each preceded by a comma."""
    return b"," + _json(columns)[1:-1] if columns else b""


def wrapped(before: bytes, values: pa.Array, after: bytes = b"") -> Parts:
    """Return each of `values` (strings or numbers) between two strings; nothing for null."""
    return framed(lambda _: before, values.cast(pa.string()).cast(BYTES), after)


def _weight(threshold: int) -> str:
    return f'"samplerate":{rate_of(threshold)},' if threshold else ""


def _map(prefix: str, text: str) -> bytes:
    values = msgspec.json.decode(text).items()
    return members({prefix + key: column_value(one) for key, one in values if one is not None})


def _column(values: pa.Array, columns_of: Callable[[Any], dict[str, Any]]) -> Dictionary:
    return dictionary(values, lambda some: [members(columns_of(one)) for one in some])


def _durations(rows: SpanRows) -> Parts:
    lengths = np.asarray(rows.column("end").cast(pa.int64())) - rows.start_ns
    whole_ms, remainder = np.divmod(lengths, NS_PER_MS)
    start = column_prefix("duration_ms")
    if not remainder.any():
        return wrapped(start, pa.array(whole_ms), b".0")
    return [pa.array([start + f"{length / 1e6!r}".encode() for length in lengths.tolist()], BYTES)]


def _needs_no_escape(values: pa.Array) -> bool:
    """Return whether no value has a character that JSON escapes. False may be wrong."""
    characters = np.frombuffer(content_of(values), np.uint8)
    return not (
        (characters < FIRST_PRINTABLE) | (characters == QUOTE) | (characters == BACKSLASH)
    ).any()

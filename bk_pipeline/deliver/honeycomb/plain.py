"""The reference encoder for Honeycomb: one readable span at a time.

Tests compare the fast encoder (`codec.py`) with this one. It also encodes the rare events that have
to be trimmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from bk_pipeline.deliver.honeycomb.shape import (
    ERROR,
    LINK_FIXED,
    Shape,
    list_text,
    value_text,
)
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.units import INT64, NS_PER_S

Event = dict[str, Any]


def span_event(span: Mapping[str, Any], shape: Shape, rate: int = 1) -> Event:
    """Return the event of a span as given by `spans.table.rows`, and its sample rate above 1."""
    shape = shape.of_build(span["resource"])
    trace_id = span["trace_id"]
    build_id = span["attributes"].get("buildkite.build.id")
    data: dict[str, Any] = {
        "trace.trace_id": shape.trace_text(trace_id),
        "trace.span_id": shape.span_text(span["span_id"], trace_id=trace_id, build_id=build_id),
    }
    if "parent_span_id" in span:
        parent_id = span["parent_span_id"]
        data["trace.parent_id"] = shape.span_text(parent_id, trace_id=trace_id, build_id=build_id)
    data |= shape.name_columns(span["name"]) | shape.status_columns(span["status"])
    data["duration_ms"] = (span["end_unix_nano"] - span["start_unix_nano"]) / 1e6
    data["span.num_links"] = len(span["links"])
    data |= shape.fixed | shape.build_columns(span["resource"] | span["attributes"])
    data |= _columns(span["resource"]) | _columns(span["attributes"])
    return _event(span, data, rate)


def link_events(span: Mapping[str, Any], shape: Shape, rate: int = 1) -> Iterator[Event]:
    """Yield the events of the span's links, in order."""
    shape = shape.of_build(span["resource"])
    trace_id = span["trace_id"]
    build_id = span["attributes"].get("buildkite.build.id")
    for link in span["links"]:
        data: dict[str, Any] = {
            "trace.trace_id": shape.trace_text(trace_id),
            "trace.parent_id": shape.span_text(
                span["span_id"], trace_id=trace_id, build_id=build_id
            ),
            "parent_name": span["name"],
        }
        if span["status"] == ERROR:
            data["error"] = True
        data |= LINK_FIXED | {
            **shape.common,
            "trace.link.trace_id": shape.linked_trace_text(
                link["trace_id"], link["span_id"], own_trace_id=trace_id
            ),
            "trace.link.span_id": shape.linked_span_text(link["trace_id"], link["span_id"]),
        }
        data |= _columns(span["resource"])
        yield _event(span, data, rate)


def _event(span: Mapping[str, Any], data: dict[str, Any], rate: int) -> Event:
    weight = {"samplerate": rate} if rate > 1 else {}
    return {"time": time_text(span["start_unix_nano"]), **weight, "data": data}


def link_item_id(span_id: str, link: Mapping[str, str]) -> bytes:
    """Return the ledger's item id of a span's link. It never changes."""
    parts = ("link", span_id, link["trace_id"], link["span_id"])
    return sha256("\0".join(parts).encode()).digest()[:8]


def encode(event: Event) -> bytes:
    """Return the event as JSON, an element of a batch."""
    return msgspec.json.encode(event)


def time_text(ns: int) -> str:
    """Return a time in nanoseconds since 1970 as RFC 3339 with nanoseconds, in UTC."""
    seconds, remainder_ns = divmod(ns, NS_PER_S)
    return f"{from_ns(seconds * NS_PER_S):%Y-%m-%dT%H:%M:%S}.{remainder_ns:09}Z"


def column_value(value: Any) -> Any:
    """Return the column value of an attribute; None if the attribute makes no column."""
    match value:
        case bool() | float() | None:
            return value
        case int():
            return value if value in INT64 else float(value)
        case str():
            return value_text(value)
        case _:
            return list_text(msgspec.json.encode(value).decode())


def _columns(attributes: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        name: column_value(value) for name, value in attributes.items() if name != "service.name"
    }
    return {name: value for name, value in values.items() if value is not None}

"""What Honeycomb's events look like whatever span they are of, and how large they may be.

The columns are those that Honeycomb itself makes of the same spans when they come by OTLP,
so that queries do not care which way they came. Sources: husky, Honeycomb's translator;
Honeycomb's API description; the limits that its own clients keep to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bk_pipeline import __version__
from bk_pipeline.spans import ids
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import VALUE_LIMIT_BYTES, truncate

LIBRARY = "bk_pipeline"
ERROR = "error"

BATCH_BYTES = 5_000_000
BATCH_EVENTS = 500
EVENT_BYTES = 1_000_000
EVENT_COLUMNS = 2_000

# Columns of every span's event, in their order; those that vary are put around them.
FIXED: dict[str, str | int] = {
    "type": "internal",
    "span.kind": "internal",
    "span.num_events": 0,
    "meta.signal_type": "trace",
    "library.name": LIBRARY,
    "library.version": __version__,
}
# The same for a link's.
LINK_FIXED: dict[str, str | int] = {
    "meta.annotation_type": "link",
    "meta.signal_type": "trace",
    "library.name": LIBRARY,
    "library.version": __version__,
}


class TraceIdStyle(StrEnum):
    """How Honeycomb is told a trace's id."""

    OTEL = "otel"  # 32 hex digits, as by OTLP
    BUILDEVENTS = "buildevents"  # the build's UUID, which is the root's span id as well


@dataclass(frozen=True, slots=True)
class Shape:
    """What differs from one Honeycomb destination to another.

    Attributes:
        service_name: The column `service.name`.
        style: How ids are written.
    """

    service_name: str
    style: TraceIdStyle = TraceIdStyle.OTEL

    def trace_text(self, trace_id: str) -> str:
        """`trace.trace_id`, and `trace.link.trace_id`, for 32 hex digits."""
        if self.style is TraceIdStyle.BUILDEVENTS:
            parts = (trace_id[:8], trace_id[8:12], trace_id[12:16], trace_id[16:20], trace_id[20:])
            return "-".join(parts)
        # husky writes a trace id whose first half is zero as its second half alone.
        return trace_id.removeprefix("0" * 16)

    def span_text(self, span_id: str, *, trace_id: str, build_id: str | None) -> str:
        """`trace.span_id` or `trace.parent_id` of a span in the trace of a build."""
        if self.style is TraceIdStyle.BUILDEVENTS and span_id == root_span_id(trace_id, build_id):
            return self.trace_text(trace_id)
        return span_id

    def linked_span_text(self, trace_id: str, span_id: str) -> str:
        """`trace.link.span_id`: with `buildevents`, a root's is its trace's id.

        Of another build only the ids are known; where its own id was no UUID, its root
        cannot be told from its other spans.
        """
        if self.style is TraceIdStyle.BUILDEVENTS and span_id == trace_id[16:]:
            return self.trace_text(trace_id)
        return span_id


def root_span_id(trace_id: str, build_id: str | None) -> str:
    """The span id of a build's root, whether the root is at hand or not.

    Without the build's own id (an attribute may be dropped or hashed) it is taken for a UUID.
    """
    if build_id is None or ids.trace_id(build_id) != trace_id:
        return trace_id[16:]
    return ids.uuid_span_id(SpanKind.BUILD, build_id)


def list_text(json_text: str) -> str:
    """A list's column value: JSON and a newline, cut where Honeycomb cuts it."""
    text = json_text + "\n"
    encoded = text.encode()
    if len(encoded) <= VALUE_LIMIT_BYTES:
        return text
    return encoded[:VALUE_LIMIT_BYTES].decode(errors="ignore")


def value_text(text: str) -> str:
    """A string's column value: cut, with a mark, where Honeycomb stores no more."""
    return truncate(text)

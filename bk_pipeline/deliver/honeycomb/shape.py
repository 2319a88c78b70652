"""The columns of Honeycomb's events and the limits of events and batches.

The columns are those that Honeycomb makes of the same spans when they arrive by OTLP, so that
queries do not depend on the route. Sources: husky, Honeycomb's translator; Honeycomb's API
description; the limits of Honeycomb's own clients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from bk_pipeline import __version__
from bk_pipeline.deliver.encoding import MAP_PREFIXES, STATUS_CODES, otel_kind
from bk_pipeline.deliver.resource import service_name
from bk_pipeline.spans import ids
from bk_pipeline.spans.fields import FIELDS, SCHEMA_URL
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import VALUE_LIMIT_BYTES, truncate

LIBRARY = "bk_pipeline"
# A trace id made of a UUID of version 4 or 7, as Buildkite's builds have.
_RANDOM_UUID = re.compile(r"[0-9a-f]{12}[47][0-9a-f]{3}[89ab]")
ERROR = "error"

BATCH_BYTES = 5_000_000
BATCH_EVENTS = 500
EVENT_BYTES = 1_000_000
EVENT_COLUMNS = 2_000

# The fixed columns of each event, in order; the variable ones precede and follow them.
_SENDER: dict[str, str | int] = {
    "meta.signal_type": "trace",
    "library.name": LIBRARY,
    "library.version": __version__,
    "resource.schema_url": SCHEMA_URL,
    "scope.schema_url": SCHEMA_URL,
}
# Those of each span's event, and of each link's.
FIXED: dict[str, str | int] = {"span.num_events": 0, **_SENDER}
LINK_FIXED: dict[str, str | int] = {"meta.annotation_type": "link", **_SENDER}
# The columns that every event has, or may have, of its own.
OWN_COLUMNS = frozenset(
    {
        *FIXED,
        *LINK_FIXED,
        *(one.name for one in FIELDS),
        "duration_ms",
        "error",
        "name",
        "parent_name",
        "service.name",
        "span.kind",
        "span.num_links",
        "status_code",
        "trace.link.span_id",
        "trace.link.trace_id",
        "trace.parent_id",
        "trace.span_id",
        "trace.trace_id",
        "type",
    }
)


# The columns of `buildevents`, all of them text, and the attributes whose values they have.
# It does not know who opened a pull request at Buildkite either (`pr_user`).
BUILD_SOURCES = {
    "branch": "buildkite.build.branch",
    "build_num": "buildkite.build.number",
    "build_url": "buildkite.build.web_url",
    "pr_number": "buildkite.build.pull_request.id",
    "repo": "buildkite.pipeline.repo",
}
ROOT_SOURCES = {"pr_repo": "buildkite.build.pull_request.repository"}
BUILDEVENTS = {"ci_provider": "Buildkite", "meta.version": __version__}
# Its three types of spans, of which commands have a status; and its statuses.
TYPES = {SpanKind.BUILD.value: "build", SpanKind.JOB.value: "cmd"}
DEFAULT_TYPE = "step"
OUTCOMES = {"ok": "success", "error": "failure"}
BUILDEVENTS_COLUMNS = frozenset(
    {
        *BUILDEVENTS,
        *BUILD_SOURCES,
        *ROOT_SOURCES,
        "command_name",
        "pr_branch",
        "service_name",
        "status",
    }
)


class TraceIdStyle(StrEnum):
    """How trace ids are written in Honeycomb."""

    OTEL = "otel"  # 32 hex digits, as with OTLP
    # The build's UUID, which is the root's span id as well; with the columns of `buildevents`.
    BUILDEVENTS = "buildevents"


@dataclass(frozen=True, slots=True)
class Shape:
    """The properties that differ between Honeycomb destinations.

    Attributes:
        service_name: The value of the column `service.name`, unless a template makes another one.
        style: How ids are written.
        resource: Other attributes of the resource, for all events. What a build or its event has
            anyway takes precedence.
        service_template: The template of the service name; empty if all builds have the same.
    """

    service_name: str
    style: TraceIdStyle = TraceIdStyle.OTEL
    resource: Mapping[str, str] = field(default_factory=dict)
    service_template: str = ""

    def of_build(self, attributes: Mapping[str, Any]) -> Self:
        """Return the shape with the service name that a build's attributes give."""
        return self.with_service(service_name(self.service_template, attributes))

    def with_service(self, name: str | None) -> Self:
        """Return the shape with another service name, if there is one."""
        return self if name is None else replace(self, service_name=name)

    @property
    def common(self) -> dict[str, str]:
        """The columns of the resource that no span and no link has of its own."""
        return {"service.name": self.service_name} | {
            name: value_text(value)
            for name, value in self.resource.items()
            if name not in OWN_COLUMNS and not name.startswith(MAP_PREFIXES)
            if not (self._with_buildevents and name in BUILDEVENTS_COLUMNS)
        }

    @property
    def fixed(self) -> dict[str, Any]:
        """The columns that all events of spans have, with the same values."""
        own = BUILDEVENTS | {"service_name": self.service_name} if self._with_buildevents else {}
        return FIXED | self.common | own

    @property
    def _with_buildevents(self) -> bool:
        return self.style is TraceIdStyle.BUILDEVENTS

    def name_columns(self, name: str) -> dict[str, Any]:
        """Return the columns that follow from a span's name."""
        kind = otel_kind(name)
        columns = {"name": name, "type": kind, "span.kind": kind}
        if self._with_buildevents:
            columns["type"] = columns["command_name"] = TYPES.get(name, DEFAULT_TYPE)
        return columns

    def status_columns(self, status: str) -> dict[str, Any]:
        """Return the columns that follow from a span's status."""
        columns: dict[str, Any] = {"status_code": STATUS_CODES[status]}
        if status == ERROR:
            columns["error"] = True
        if self._with_buildevents and status in OUTCOMES:
            columns["status"] = OUTCOMES[status]
        return columns

    def build_columns(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of `buildevents` that some attributes of a build give."""
        if not self._with_buildevents:
            return {}
        values = {
            column: value_text(str(attributes[name]))
            for column, name in (BUILD_SOURCES | ROOT_SOURCES).items()
            if attributes.get(name) is not None
        }
        if "pr_number" in values and "branch" in values:
            values["pr_branch"] = values["branch"]
        return values

    def trace_text(self, trace_id: str) -> str:
        """Return `trace.trace_id` or `trace.link.trace_id` for 32 hex digits."""
        if self.style is TraceIdStyle.BUILDEVENTS:
            parts = (trace_id[:8], trace_id[8:12], trace_id[12:16], trace_id[16:20], trace_id[20:])
            return "-".join(parts)
        # husky writes a trace id whose first half is zero as its second half alone.
        return trace_id.removeprefix("0" * 16)

    def span_text(self, span_id: str, *, trace_id: str, build_id: str | None) -> str:
        """Return `trace.span_id` or `trace.parent_id` of a span in a build's trace."""
        if self.style is TraceIdStyle.BUILDEVENTS and span_id == root_span_id(trace_id, build_id):
            return self.trace_text(trace_id)
        return span_id

    def linked_trace_text(self, trace_id: str, span_id: str, *, own_trace_id: str) -> str:
        """Return `trace.link.trace_id`; with `buildevents`, that of a build is its UUID.

        A link may lead to a span that no build has, and whose trace id stays as it is. A build is
        recognized by the link to its root, or because its id is a UUID of version 4 or 7.
        """
        if span_id == trace_id[16:] or trace_id == own_trace_id or _RANDOM_UUID.match(trace_id):
            return self.trace_text(trace_id)
        return trace_id.removeprefix("0" * 16)

    def linked_span_text(self, trace_id: str, span_id: str) -> str:
        """Return `trace.link.span_id`; with `buildevents`, a root's is its trace id.

        Only the ids of the other build are known. If its own id is not a UUID, its root cannot be
        distinguished from its other spans.
        """
        if self.style is TraceIdStyle.BUILDEVENTS and span_id == trace_id[16:]:
            return self.trace_text(trace_id)
        return span_id


def root_span_id(trace_id: str, build_id: str | None) -> str:
    """Return the span id of a build's root.

    Without the build's own id (an attribute may be dropped or hashed), the build is assumed to have
    a UUID.
    """
    if build_id is None or ids.trace_id(build_id) != trace_id:
        return trace_id[16:]
    return ids.uuid_span_id(SpanKind.BUILD, build_id)


def list_text(json_text: str) -> str:
    """Return the column value of a list: JSON and a newline, truncated like Honeycomb does."""
    text = json_text + "\n"
    encoded = text.encode()
    if len(encoded) <= VALUE_LIMIT_BYTES:
        return text
    return encoded[:VALUE_LIMIT_BYTES].decode(errors="ignore")


def value_text(text: str) -> str:
    """Return the column value of a string, truncated with a mark at Honeycomb's limit."""
    return truncate(text)

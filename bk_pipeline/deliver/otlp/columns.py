"""The span table to OTLP spans, a column at a time.

Gives, byte for byte, what `plain.py` and the official exporter give (but for a time of 0,
which they leave out), many times as fast. A build's own attributes are encoded once a
build, and a column's distinct values once each; `pieces.py` puts the rows together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.otlp import plain
from bk_pipeline.deliver.otlp.fragments import fixed, fragments, ids
from bk_pipeline.deliver.otlp.framing import SPAN, resource_part, span_entry
from bk_pipeline.deliver.otlp.shape import (
    BUILD_FIELDS,
    FLAGS_LOCAL,
    OWN_FIELDS,
    RESOURCE_FIELDS,
    ROOT_FIELDS,
    SPAN_BYTES,
    STATUS_CODES,
    link_flags,
    outer_attributes,
)
from bk_pipeline.deliver.otlp.trimming import fitted
from bk_pipeline.deliver.otlp.wire import any_value, attribute, sized, varint
from bk_pipeline.deliver.pieces import (
    Column,
    assembled,
    by_kind,
    chosen,
    column_of,
    listed,
    sizes_of,
    spread,
)
from bk_pipeline.deliver.selection import (
    Builds,
    builds_of,
    column,
    one_chunk,
    span_ids_of,
    start_ns_of,
)
from bk_pipeline.spans.fields import Field

# Fields of Span: 16 bytes, 8 bytes, 8 bytes, a text, a number, two fixed times.
TRACE_ID, SPAN_ID, PARENT_ID, NAME = b"\x0a\x10", b"\x12\x08", b"\x22\x08", b"\x2a"
KIND_INTERNAL, START, END = b"\x30\x01", b"\x39", b"\x41"
ATTRIBUTES, LINKS, STATUS, FLAGS = b"\x4a", b"\x6a", b"\x7a", b"\x85\x01"
# Of Resource, Link and Status.
RESOURCE_ATTRIBUTES, LINK_FLAGS, CODE = b"\x0a", b"\x35", b"\x18"


def items(table: pa.Table, common: Mapping[str, str]) -> list[Item]:
    """The table's spans, each with its links, in its order. Pure.

    Args:
        table: A slice of the span table.
        common: Attributes that every resource has, the service's name among them.
    """
    table = one_chunk(table)
    return _Encoder(table, common).items() if len(table) else []


class _Encoder:
    """One table's worth of arrays, a value for each row or for each build."""

    def __init__(self, table: pa.Table, common: Mapping[str, str]) -> None:
        self._table = table
        self._common = common
        self._builds: Builds = builds_of(table)
        shared = table.select([field.name for field in BUILD_FIELDS + RESOURCE_FIELDS])
        self._firsts = one_chunk(shared.take(pa.array(self._builds.first_rows)))

    def items(self) -> list[Item]:
        shared = self._resources()
        trace_ids = self._builds.trace_ids
        columns = self._columns()
        sizes = sizes_of(columns)
        heads = {size: SPAN + varint(size) for size in set(sizes.tolist())}
        made = [
            Item(
                trace_ids[build],
                span_id,
                time_ns,
                name,
                pieces,
                size + len(pieces[0]),
                shared=shared[build],
            )
            for build, span_id, time_ns, name, size, pieces in zip(
                self._builds.of_row.tolist(),
                span_ids_of(self._table),
                start_ns_of(self._table).tolist(),
                listed(column(self._table, "name")),
                sizes.tolist(),
                zip(map(heads.__getitem__, sizes.tolist()), *columns, strict=True),
                strict=True,
            )
        ]
        for row in np.flatnonzero(sizes > SPAN_BYTES).tolist():
            span = self._trimmed(row)
            made[row] = replace(made[row], pieces=(span,), size=len(span), trimmed=True)
        return made

    def _columns(self) -> list[list[bytes]]:
        """The spans without what frames them: what each has of its own, its build's, the rest."""
        count = len(self._table)
        names = column_of(
            column(self._table, "name"),
            lambda names: [sized(NAME, name.encode()) for name in names.to_pylist()],
        )
        of_kinds = by_kind(
            self._table,
            ROOT_FIELDS + OWN_FIELDS,
            lambda field, values: fragments(field, values, ATTRIBUTES),
        )
        ends = column_of(column(self._table, "status"), _ends)
        return [
            assembled([self._ids(), self._parents(), names, self._kinds_and_times()], count),
            chosen(self._together(BUILD_FIELDS, ATTRIBUTES), self._builds.of_row),
            assembled([of_kinds, self._links(), ends], count),
        ]

    def _ids(self) -> Column:
        rows = np.empty((len(self._table), 28), np.uint8)
        rows[:, 0:2] = list(TRACE_ID)
        of_builds = np.frombuffer(b"".join(self._builds.trace_ids), np.uint8).reshape(-1, 16)
        rows[:, 2:18] = of_builds[self._builds.of_row]
        rows[:, 18:20] = list(SPAN_ID)
        rows[:, 20:28] = ids(column(self._table, "span_id"))
        return fixed(rows)

    def _parents(self) -> Column:
        values = column(self._table, "parent_span_id")
        children = np.flatnonzero(np.asarray(values.is_valid()))
        rows = np.empty((len(children), 10), np.uint8)
        rows[:, 0:2] = list(PARENT_ID)
        rows[:, 2:10] = ids(values.drop_null())
        return spread(fixed(rows), children, len(values))

    def _kinds_and_times(self) -> Column:
        ends = np.asarray(column(self._table, "end").cast(pa.int64()))
        rows = np.empty((len(ends), 20), np.uint8)
        rows[:, 0:3] = list(KIND_INTERNAL + START)
        rows[:, 3:11] = _little_endian(start_ns_of(self._table))
        rows[:, 11:12] = list(END)
        rows[:, 12:20] = _little_endian(ends)
        return fixed(rows)

    def _links(self) -> Column:
        """The links of each row."""
        counts = np.asarray(pc.fill_null(pc.list_value_length(column(self._table, "links")), 0))
        places = np.flatnonzero(counts)
        linked = self._table.select(["trace_id", "links"]).take(pa.array(places)).to_pylist()
        made = [b"".join(_link(row["trace_id"], link) for link in row["links"]) for row in linked]
        return spread(made, places, len(counts))

    def _resources(self) -> list[bytes]:
        """Each build's resource; equal ones are one object."""
        outer = b"".join(
            attribute(RESOURCE_ATTRIBUTES, name, any_value(value))
            for name, value in outer_attributes(self._common).items()
        )
        own = self._together(RESOURCE_FIELDS, RESOURCE_ATTRIBUTES, instead=self._common)
        made = {one: resource_part(outer + one) for one in set(own)}
        return [made[one] for one in own]

    def _together(
        self, fields: tuple[Field, ...], tag: bytes, *, instead: Mapping[str, str] | None = None
    ) -> list[bytes]:
        """Each build's attributes, as one; `instead` has values for those without."""

        def made(field: Field) -> Column:
            values = column(self._firsts, field.name)
            value = (instead or {}).get(field.name)
            if value is not None:
                values = pc.fill_null(values.cast(pa.string()), value)
            return fragments(field, values, tag)

        return assembled(map(made, fields), len(self._firsts))

    def _trimmed(self, row: int) -> bytes:
        """A row's span, which is too large, made to fit."""
        (one,) = plain.raw_rows(self._table.slice(row, 1))
        return span_entry(fitted(plain.span(one)).SerializeToString())


def _ends(statuses: pa.Array) -> list[bytes]:
    """What a span ends with: its status and its flags."""
    flags = FLAGS + FLAGS_LOCAL.to_bytes(4, "little")
    codes = [STATUS_CODES[status] for status in statuses.to_pylist()]
    return [sized(STATUS, CODE + varint(code) if code else b"") + flags for code in codes]


def _link(trace_id: str, link: dict[str, str]) -> bytes:
    return sized(
        LINKS,
        TRACE_ID
        + bytes.fromhex(link["trace_id"])
        + SPAN_ID
        + bytes.fromhex(link["span_id"])
        + LINK_FLAGS
        + link_flags(trace_id, link["trace_id"]).to_bytes(4, "little"),
    )


def _little_endian(numbers: Any) -> Any:
    return np.ascontiguousarray(numbers.astype("<i8")).view(np.uint8).reshape(-1, 8)

"""The span table to OTLP spans, a column at a time.

Gives, byte for byte, what `plain.py` and the official exporter give (but for a time of 0,
which they leave out), many times as fast. A build's own attributes are encoded once a
build, and of the rest distinct values, and combinations of them, once each: `pieces.py` and
`grouping.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from bk_pipeline.deliver.arrangement import (
    COMMON_FIELDS,
    OWN_FIELDS,
    RESOURCE_FIELDS,
    columns_of,
    of_builds,
    rows_together,
)
from bk_pipeline.deliver.blobs import beside, fixed, from_hex, listed, valid
from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.grouping import grouped
from bk_pipeline.deliver.otlp import plain
from bk_pipeline.deliver.otlp.fragments import fragments, little_endian, varints
from bk_pipeline.deliver.otlp.framing import SPAN, resource_part, span_entry
from bk_pipeline.deliver.otlp.shape import (
    FLAGS_LOCAL,
    FLAGS_REMOTE,
    SPAN_BYTES,
    STATUS_CODES,
    outer_attributes,
)
from bk_pipeline.deliver.otlp.trimming import fitted
from bk_pipeline.deliver.otlp.wire import any_value, attribute, sized, varint
from bk_pipeline.deliver.pieces import (
    NOTHING,
    Column,
    Own,
    Shared,
    chosen,
    column_of,
    parts_of,
    rows_of,
    sizes_of,
)
from bk_pipeline.deliver.selection import (
    Builds,
    builds_of,
    column,
    names_of,
    one_chunk,
    span_ids_of,
    start_ns_of,
)
from bk_pipeline.spans.fields import Field

# Fields of Span and of Link, and how long those are that are always as long.
TRACE_ID, SPAN_ID, PARENT_ID, NAME = b"\x0a\x10", b"\x12\x08", b"\x22\x08", b"\x2a"
KIND_INTERNAL, START, END = b"\x30\x01", b"\x39", b"\x41"
ATTRIBUTES, LINKS, STATUS, FLAGS = b"\x4a", b"\x6a", b"\x7a", b"\x85\x01"
# Of Resource, Link and Status.
RESOURCE_ATTRIBUTES, LINK_FLAGS, CODE = b"\x0a", b"\x35", b"\x18"
LINK_BYTES = 2 + 16 + 2 + 8 + 1 + 4


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
        self._trace_ids = np.frombuffer(b"".join(self._builds.trace_ids), np.uint8).reshape(-1, 16)

    def items(self) -> list[Item]:
        shared = self._resources()
        first, rest = self._spans()
        sizes = sum(map(sizes_of, [first, *rest]))
        head = Own((SPAN, varints(pa.array(sizes))))
        pieces = [Own((*head.parts, *first.parts)), *rest]
        of_row = self._builds.of_row
        made = list(
            map(
                Item,
                chosen(self._builds.trace_ids, of_row),
                span_ids_of(self._table),
                start_ns_of(self._table).tolist(),
                names_of(self._table),
                zip(*map(rows_of, pieces), strict=True),
                (sizes + sizes_of(head)).tolist(),
                repeat(False),  # noqa: FBT003  # not trimmed
                chosen(shared, of_row),
            )
        )
        for row in np.flatnonzero(sizes > SPAN_BYTES).tolist():
            span = self._trimmed(row)
            made[row] = replace(made[row], pieces=(span,), size=len(span), trimmed=True)
        return made

    def _spans(self) -> tuple[Own, list[Column]]:
        """The spans without what frames them: what each has of its own, and the rest."""
        table = self._table
        own = parts_of([*self._frame(), *columns_of(table, OWN_FIELDS, _attributes, own=True)])
        common = columns_of(table, COMMON_FIELDS, _attributes)
        ends = column_of(column(table, "status"), _ends)
        return Own(own), [
            of_builds(table, self._builds, _attributes),
            *grouped([*common, self._links(), ends]),
        ]

    def _frame(self) -> Iterator[Column | None]:
        """What comes before the attributes."""
        yield self._ids()
        yield self._parents()
        yield column_of(column(self._table, "name"), _names)
        yield self._times()

    def _ids(self) -> Own:
        trace_ids = self._trace_ids[self._builds.of_row]
        span_ids = from_hex(column(self._table, "span_id"), 8)
        return Own((fixed(beside(TRACE_ID, trace_ids, SPAN_ID, span_ids)),))

    def _parents(self) -> Own:
        values = column(self._table, "parent_span_id")
        rows = beside(PARENT_ID, from_hex(values.drop_null(), 8))
        return Own((fixed(rows, valid(values)),))

    def _times(self) -> Own:
        starts, ends = start_ns_of(self._table), column(self._table, "end").cast(pa.int64())
        rows = beside(START, little_endian(starts), END, little_endian(np.asarray(ends)))
        return Own((fixed(rows),))

    def _links(self) -> Shared:
        """The links of each row."""
        links = column(self._table, "links")
        counts = np.asarray(pc.fill_null(pc.list_value_length(links), 0))
        linked = np.flatnonzero(counts)
        trace_texts, span_texts = links.flatten().flatten()
        trace_ids = from_hex(trace_texts, 16)
        own = np.repeat(self._trace_ids[self._builds.of_row], counts, axis=0)
        flags = np.where((trace_ids == own).all(axis=1), FLAGS_LOCAL, FLAGS_REMOTE)
        rows = beside(
            LINKS + varint(LINK_BYTES) + TRACE_ID,
            trace_ids,
            SPAN_ID,
            from_hex(span_texts, 8),
            LINK_FLAGS,
            little_endian(flags.astype(np.int32)),
        )
        places = np.zeros(len(counts), np.int64)
        places[linked] = np.arange(len(linked)) + 1
        return Shared([NOTHING, *listed(fixed(rows, counts[linked]))], places)

    def _resources(self) -> list[bytes]:
        """Each build's resource; equal ones are one object."""
        outer = b"".join(
            attribute(RESOURCE_ATTRIBUTES, name, any_value(value))
            for name, value in outer_attributes(self._common).items()
        )
        own = rows_together(
            self._table, RESOURCE_FIELDS, self._builds.first_rows, self._resource_attributes
        )
        made = {one: resource_part(outer + one) for one in set(own)}
        return [made[one] for one in own]

    def _resource_attributes(self, field: Field, values: pa.Array, *, own: bool) -> Column | None:
        instead = self._common.get(field.name)
        if instead is not None:
            values = pc.fill_null(values.cast(pa.string()), instead)
        return fragments(field, values, RESOURCE_ATTRIBUTES, own=own)

    def _trimmed(self, row: int) -> bytes:
        """A row's span, which is too large, made to fit."""
        (one,) = plain.raw_rows(self._table.slice(row, 1))
        return span_entry(fitted(plain.span(one)).SerializeToString())


def _names(kinds: pa.Array) -> list[bytes]:
    return [sized(NAME, kind.encode()) + KIND_INTERNAL for kind in kinds.to_pylist()]


def _attributes(field: Field, values: pa.Array, *, own: bool) -> Column | None:
    return fragments(field, values, ATTRIBUTES, own=own)


def _ends(statuses: pa.Array) -> list[bytes]:
    """What a span ends with: its status and its flags."""
    flags = FLAGS + FLAGS_LOCAL.to_bytes(4, "little")
    codes = [STATUS_CODES[status] for status in statuses.to_pylist()]
    return [sized(STATUS, CODE + varint(code) if code else b"") + flags for code in codes]

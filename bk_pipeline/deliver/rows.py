"""Rows of the span table, prepared once for selection and encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.arrays import as_list, from_hex, from_matrix, take


@dataclass(frozen=True, slots=True)
class SpanRows:
    """Rows of the span table; rows of one build are adjacent.

    Attributes:
        table: The rows, each column in one chunk.
        trace_ids: The trace id of each build (16 bytes), in table order.
        first_rows: The index of each build's first row.
        build_of_row: For each row, the index of its build in `trace_ids`.
        span_ids: The span id of each row (8 bytes).
        start_ns: The start of each row, in nanoseconds since 1970.
    """

    table: pa.Table
    trace_ids: Sequence[bytes]
    first_rows: Any
    build_of_row: Any
    span_ids: Sequence[bytes]
    start_ns: Any

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """Prepare a table that has the schema of the span table. Pure."""
        table = table.unify_dictionaries().combine_chunks()
        ids = from_matrix(from_hex(_column(table, "span_id"), 8))
        starts = _column(table, "start").cast(pa.int64())
        return cls(table, *_builds(table), as_list(ids), np.asarray(starts))

    def column(self, name: str) -> pa.Array:
        """Return a column of the table as one array."""
        return _column(self.table, name)

    def link_counts(self) -> Any:
        """Return the number of links of each row."""
        return np.asarray(pc.fill_null(pc.list_value_length(self.column("links")), 0))

    def filter(self, mask: Any) -> Self:
        """Return the rows for which `mask` is true."""
        if mask.all():
            return self
        table = self.table.filter(pa.array(mask)).combine_chunks()
        span_ids = list(compress(self.span_ids, mask.tolist()))
        return type(self)(table, *_builds(table), span_ids, self.start_ns[mask])

    def names(self) -> list[str]:
        """Return the span name of each row; equal names are the same object."""
        names = self.column("name")
        return take(names.dictionary.to_pylist(), names.indices)

    def __len__(self) -> int:
        return len(self.table)


def _column(table: pa.Table, name: str) -> pa.Array:
    values = table[name]
    return values.chunk(0) if values.num_chunks else pa.array([], values.type)


def _builds(table: pa.Table) -> tuple[list[bytes], Any, Any]:
    """Return the trace ids, the first rows and, for each row, the index of its build."""
    ids = _column(table, "trace_id")
    codes = np.asarray(ids.indices)
    begins = np.ones(len(codes), bool)
    np.not_equal(codes[1:], codes[:-1], out=begins[1:])
    first_rows = np.flatnonzero(begins)
    texts = ids.dictionary.take(pa.array(codes[first_rows])).to_pylist()
    return list(map(bytes.fromhex, texts)), first_rows, np.cumsum(begins) - 1

"""Rows of the span table, prepared once for selecting and for encoding them."""

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
    """Rows of the span table; those of one build stand together.

    Attributes:
        table: Each column in one chunk.
        trace_ids: 16 bytes for each build, in the order of the table.
        first_rows: Each build's first row.
        build_of_row: For each row its build's place in `trace_ids`.
        span_ids: 8 bytes for each row.
        start_ns: For each row when it began, in nanoseconds since 1970.
    """

    table: pa.Table
    trace_ids: Sequence[bytes]
    first_rows: Any
    build_of_row: Any
    span_ids: Sequence[bytes]
    start_ns: Any

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Prepare a table of the span table's schema. Pure."""
        table = table.unify_dictionaries().combine_chunks()
        ids = from_matrix(from_hex(_column(table, "span_id"), 8))
        starts = _column(table, "start").cast(pa.int64())
        return cls(table, *_builds(table), as_list(ids), np.asarray(starts))

    def column(self, name: str) -> pa.Array:
        """A column of the table."""
        return _column(self.table, name)

    def link_counts(self) -> Any:
        """How many links each row has."""
        return np.asarray(pc.fill_null(pc.list_value_length(self.column("links")), 0))

    def filter(self, wanted: Any) -> Self:
        """The rows for which `wanted` is true."""
        if wanted.all():
            return self
        table = self.table.filter(pa.array(wanted)).combine_chunks()
        span_ids = list(compress(self.span_ids, wanted.tolist()))
        return type(self)(table, *_builds(table), span_ids, self.start_ns[wanted])

    def names(self) -> list[str]:
        """The spans' names; equal ones are one object."""
        names = self.column("name")
        return take(names.dictionary.to_pylist(), names.indices)

    def __len__(self) -> int:
        return len(self.table)


def _column(table: pa.Table, name: str) -> pa.Array:
    values = table[name]
    return values.chunk(0) if values.num_chunks else pa.array([], values.type)


def _builds(table: pa.Table) -> tuple[list[bytes], Any, Any]:
    """The trace ids, the first rows, and for each row the build's place."""
    ids = _column(table, "trace_id")
    codes = np.asarray(ids.indices)
    begins = np.ones(len(codes), bool)
    np.not_equal(codes[1:], codes[:-1], out=begins[1:])
    first_rows = np.flatnonzero(begins)
    texts = ids.dictionary.take(pa.array(codes[first_rows])).to_pylist()
    return list(map(bytes.fromhex, texts)), first_rows, np.cumsum(begins) - 1

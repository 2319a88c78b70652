"""Writes the corpus as span parts: Parquet files with the same row groups as the pipeline's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.corpus import Corpus
from benchmarks.routes.ours import tables_of_payloads
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore

DAY = "2025-03-13"
FINGERPRINT = "00000000"


def write_part(folder: Path, name: str, corpus: Corpus, *, every: int = 1, copies: int = 1) -> int:
    """Write a part of all builds, or of one file in `every`; return its number of spans.

    With several `copies` all is there so often, each time with other ids.
    """
    summary = PartSummary()

    def tables() -> Iterator[pa.Table]:
        for copy in range(copies):
            for table in tables_of_payloads(corpus.iter_payloads(every=every)):
                summary.spans += len(table)
                yield _renamed(table, copy) if copy else table

    SpanStore(Folder(str(folder))).write(DAY, SpanPart(name, FINGERPRINT), tables(), summary)
    return summary.spans


def tables_in(part: str) -> Iterator[pa.Table]:
    """Read the tables of the part at `<folder>/<name>` lazily."""
    path = Path(part)
    return SpanStore(Folder(str(path.parent))).tables(DAY, SpanPart(path.name, FINGERPRINT))


def _renamed(table: pa.Table, copy: int) -> pa.Table:
    """Return the same spans in other traces (the ids of Buildkite's traces start with 01)."""
    for name in ("trace_id", "span_id", "parent_span_id"):
        column = table[name].combine_chunks()
        ids = pc.binary_replace_slice(column.cast(pa.string()), 0, 2, f"f{copy:x}")
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), ids.cast(column.type))
    return table

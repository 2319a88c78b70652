"""Spans as dictionaries, for the routes that process one span at a time.

Not `spans.table.rows`, which is written for people: times come as integers, since Arrow
makes slow objects of them, and values that are missing are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from benchmarks.measured import Work
from benchmarks.parts import tables_in
from bk_pipeline.spans.fields import FIELDS, FieldType

ROWS_AT_ONCE = 1_000
MAPS = {field.name: field.name.removesuffix("*") for field in FIELDS if field.type is FieldType.MAP}
LISTS = {field.name for field in FIELDS if field.type is FieldType.STRINGS}
IDENTITY = (
    "trace_id",
    "span_id",
    "parent_span_id",
    "name",
    "start",
    "end",
    "status",
    "links",
)

Row = dict[str, Any]


def rows_of(tables: Iterable[pa.Table]) -> Iterator[tuple[Row, Row]]:
    """Yield each span's identity and attributes; each key of a map is an attribute."""
    for table in tables:
        for name in ("start", "end"):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, table[name].cast(pa.int64()))  # noqa: PLW2901  # the same rows
        for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                identity = {name: row.pop(name) for name in IDENTITY}
                yield identity, dict(_attributes(row))


def alone(part: str, _url: str) -> Work:
    """Return the work of creating the rows only."""
    tables = list(tables_in(part))
    return lambda: {"spans": sum(1 for _ in rows_of(tables))}


def _attributes(row: Row) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if value is None:
            continue
        if name in MAPS:
            for key, one in json.loads(value).items():
                yield MAPS[name] + key, one
        else:
            yield name, json.loads(value) if name in LISTS else value

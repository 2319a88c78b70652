"""The specification's limits of attributes and links, applied to rows before they are encoded. Pure.

Source: OpenTelemetry specification, "Attribute Limits" and "Span Limits". Resource attributes are
exempt. The specification's default of 128 attributes does not apply: without a variable there is no
limit but those of the backends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.otlp.variables import SpanLimits
from bk_pipeline.deliver.rows import SpanRows, is_valid
from bk_pipeline.spans.fields import ALL, FIELDS, FieldType
from bk_pipeline.text import compact_json

SPAN_FIELDS = tuple(field for field in FIELDS if not field.resource)
MAPS = tuple(field for field in SPAN_FIELDS if field.type is FieldType.MAP)
# What all spans of a build have comes first, so that it is kept or dropped on all of them: the
# encoder reads it once for each build.
SINGLE = tuple(
    sorted(
        (field for field in SPAN_FIELDS if field.type is not FieldType.MAP),
        key=lambda field: not (field.per_build and field.kinds == ALL),
    )
)
TEXTS = frozenset({FieldType.STRING, FieldType.JSON})


def within_limits(rows: SpanRows, limits: SpanLimits) -> SpanRows:
    """Return `rows` with values, attributes and links within `limits`."""
    table = rows.table
    if limits.value_length is not None:
        table = _with_short_values(table, limits.value_length)
    if limits.attributes is not None:
        table = _with_few_attributes(table, limits.attributes)
    if limits.links is not None:
        table = _with_few_links(table, limits.links)
    return rows if table is rows.table else replace(rows, table=table.combine_chunks())


def _with_short_values(table: pa.Table, length: int) -> pa.Table:
    for field in SPAN_FIELDS:
        if field.type in TEXTS:
            table = _mapped(table, field.name, lambda text: text[:length])
        elif field.type in {FieldType.STRINGS, FieldType.MAP}:
            table = _mapped(table, field.name, lambda text: _json_with_short_values(text, length))
    return table


def _json_with_short_values(text: str, length: int) -> str:
    return compact_json(_shortened(msgspec.json.decode(text), length))


def _shortened(value: Any, length: int) -> Any:
    match value:
        case str():
            return value[:length]
        case list():
            return [_shortened(one, length) for one in value]
        case dict():
            return {key: _shortened(one, length) for key, one in value.items()}
        case _:
            return value


def _mapped(table: pa.Table, name: str, change: Callable[[str], str]) -> pa.Table:
    """Return the table with `change` applied to each distinct value of a column of text."""
    column = pc.dictionary_encode(_array(table, name))
    values = column.dictionary.cast(pa.string()).to_pylist()
    changed = [value if value is None else change(value) for value in values]
    if changed == values:
        return table
    return _replaced(table, name, pa.array(changed, pa.string()).take(column.indices))


def _with_few_attributes(table: pa.Table, limit: int) -> pa.Table:
    used = np.zeros(len(table), np.int64)
    for field in SINGLE:
        column = _array(table, field.name)
        present = is_valid(column)
        fits = used < limit
        used += present & fits
        if (present & ~fits).any():
            indices = pa.array(np.arange(len(table)), mask=~fits)
            table = _replaced(table, field.name, column.take(indices))
    for field in MAPS:
        texts = _array(table, field.name).cast(pa.string()).to_pylist()
        maps = [msgspec.json.decode(text) if text else {} for text in texts]
        room = (limit - used).tolist()
        kept_keys = [
            [key for key, value in one.items() if value is not None][:free]
            for one, free in zip(maps, room, strict=True)
        ]
        used += np.fromiter(map(len, kept_keys), np.int64, len(kept_keys))
        fewer = [
            compact_json({key: one[key] for key in keys}) if text is not None and keys else None
            for text, one, keys in zip(texts, maps, kept_keys, strict=True)
        ]
        table = _replaced(table, field.name, pa.array(fewer, pa.string()))
    return table


def _with_few_links(table: pa.Table, limit: int) -> pa.Table:
    links = _array(table, "links")
    shorter = pa.array([one and one[:limit] for one in links.to_pylist()], links.type)
    return _replaced(table, "links", shorter)


def _array(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def _replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return the table with other values of a column, in the column's own type."""
    at = table.schema.get_field_index(name)
    kind = table.schema.field(at).type
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(values.type):
        values = pc.dictionary_encode(values)
    return table.set_column(at, table.schema.field(at), values.cast(kind))

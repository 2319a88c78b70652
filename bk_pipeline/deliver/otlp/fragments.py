"""Arrow columns to protobuf fields: for each row a field's bytes, or nothing for no field.

A fragment is made once for each distinct value. Where there are many, what stands before a
text is made once for each length, since it depends on nothing else, and Arrow puts the two
together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from bk_pipeline.deliver.blobs import (
    BYTES,
    bare,
    beside,
    cut_at,
    equally_long,
    fixed,
    lengths,
    sums,
    valid,
)
from bk_pipeline.deliver.otlp.wire import any_value, attribute, int_head, text_attribute, text_head
from bk_pipeline.deliver.pieces import FEW, NOTHING, Column, Own, Shared, column_of, parts_of
from bk_pipeline.spans.fields import Field, FieldType


def varints(numbers: pa.Array) -> pa.Array:
    """Whole numbers, each as protobuf writes an `int64`; nothing where there is none."""
    present = valid(numbers)
    left = bare(numbers)[present].view(np.uint64)
    there = np.ones(len(left), bool)
    groups: list[Any] = []
    kept: list[Any] = []
    while not groups or there.any():
        rest = left >> np.uint64(7)
        more = rest > 0
        groups.append(left.astype(np.uint8) & 0x7F | more.astype(np.uint8) << 7)
        kept.append(there)
        left, there = rest, more
    sizes = np.zeros(len(numbers), np.int64)
    sizes[present] = sum(kept)
    return cut_at(sums(sizes), np.stack(groups, axis=1)[np.stack(kept, axis=1)])


def little_endian(numbers: Any) -> Any:
    """Whole numbers as protobuf writes `fixed64` and `fixed32`: a matrix of their bytes."""
    width = numbers.dtype.itemsize
    return np.ascontiguousarray(numbers, f"<i{width}").view(np.uint8).reshape(-1, width)


def fragments(field: Field, values: pa.Array, tag: bytes, *, own: bool) -> Column | None:
    """A declared field's column as attributes: the repeated field `tag` of a message."""
    return column_of(values, lambda some: _of_values(field, some, tag), own=own)


def _of_values(field: Field, values: pa.Array, tag: bytes) -> Sequence[bytes | None] | Own:
    name = field.name
    if len(values) > FEW and field.type is FieldType.INT:
        return _headed(varints(values), valid(values), lambda size: int_head(tag, name, size))
    if len(values) > FEW and field.type in {FieldType.STRING, FieldType.JSON}:
        content = values.cast(BYTES)
        return _headed(content, valid(values), lambda size: text_head(tag, name, size))
    each = values.to_pylist()
    make = _maker(field, tag)
    made = {value: make(value) for value in set(each) - {None}}
    return [made.get(value) for value in each]


def _headed(content: pa.Array, present: Any, head: Callable[[int], bytes]) -> Own:
    """Each of `content` that is `present`, behind what `head` makes of its length."""
    rows = equally_long(content)
    if rows is not None:
        return Own((fixed(beside(head(rows.shape[1]), rows), present),))
    sizes = lengths(content)
    found = np.flatnonzero(np.bincount(sizes[present]))
    places = np.zeros(sizes.max() + 1, np.int64)
    places[found] = np.arange(len(found)) + 1
    heads = Shared([NOTHING, *map(head, found.tolist())], places[sizes] * present)
    return Own(parts_of([heads, Own((content,))]))


def _maker(field: Field, tag: bytes) -> Callable[[Any], bytes]:
    """What makes the attribute of one value, or of a map those of its keys."""
    name = field.name
    match field.type:
        case FieldType.MAP:
            return lambda text: _map(tag, name.removesuffix("*"), msgspec.json.decode(text))
        case FieldType.STRINGS:
            return lambda text: attribute(tag, name, any_value(msgspec.json.decode(text)))
        case FieldType.STRING | FieldType.JSON:
            return lambda text: text_attribute(tag, name, text)
        case _:
            return lambda value: attribute(tag, name, any_value(value))


def _map(tag: bytes, prefix: str, values: Mapping[str, Any]) -> bytes:
    return NOTHING.join(
        [
            text_attribute(tag, prefix + key, value)
            if isinstance(value, str)
            else attribute(tag, prefix + key, any_value(value))
            for key, value in values.items()
            if value is not None
        ]
    )

"""Reads the fields of spans into Arrow arrays, each value once for each object that owns it.

A field declares which object has its value (`Field.owner`): the build, the job, the job's
agent. All spans of a build share one build, most jobs share an agent, and hardly any job has a
`retry_source`. So values are read once for each distinct owner and then expanded to rows by
index. Jobs agree in most of their fields, so those are read from one representative of all
jobs that agree.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from enum import Enum
from functools import cache
from itertools import count
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bk_pipeline.spans.fields import NUMERIC, Field, FieldType
from bk_pipeline.spans.model import SpanKind, Step, Trace
from bk_pipeline.spans.records import Job
from bk_pipeline.text import VALUE_LIMIT_BYTES, truncate

DICTIONARY = pa.dictionary(pa.int32(), pa.string())
MOMENT = pa.timestamp("ns", tz="UTC")
NO_OWNER = -1
# Owners that hardly any two rows share: finding out which do costs more than it saves.
NEARLY_DISTINCT = {"job", "span.path"}

# Fields of jobs and steps whose values differ between most of them. In the others many agree,
# because the same steps run in many builds, and most pass. The path `job.representative` leads
# to one job of all that agree in `COMMON_FIELDS`.
UNIQUE_FIELDS = {
    "job": frozenset({
        "id", "graphql_id", "web_url", "log_url", "step", "agent", "concurrency_wait_time_ms",
        "created_at", "runnable_at", "started_at", "finished_at", "expired_at", "unblocked_at",
    }),
    "step": frozenset({"id", "identity", "group"}),
}  # fmt: skip
COMMON_FIELDS = {
    root: tuple(name for name in record.__struct_fields__ if name not in UNIQUE_FIELDS[root])
    for root, record in (("job", Job), ("step", Step))
}
REPRESENTATIVE = "representative"

Indices = NDArray[np.int32]

# The system's allocator. Arrow's own returns the memory after each column and requests it again
# for the next, which takes an eighth of the total time where page faults are slow.
pa.set_memory_pool(pa.system_memory_pool())


def arrow_type(field: Field) -> pa.DataType:
    """Return the Arrow type of the field's column."""
    if field.type is FieldType.INT:
        return pa.int64()
    if field.type is FieldType.FLOAT:
        return pa.float64()
    if field.type is FieldType.BOOL:
        return pa.bool_()
    return pa.string() if field.distinct else DICTIONARY


@cache
def owner_path(field: Field) -> str:
    """Return the path of the object to read the field from: its owner or a representative."""
    root, *below = field.owner.split(".")
    names = re.findall(rf"\b{root}\.(\w+)", f"{field.owner} {field.source}")
    if root not in UNIQUE_FIELDS or UNIQUE_FIELDS[root].intersection(names):
        return field.owner
    return ".".join((root, REPRESENTATIVE, *below))


class Owners(NamedTuple):
    """Objects that have values, and for each row the index of its object; -1 for none."""

    objects: Sequence[Any]
    indices: Indices


class Columns:
    """The columns of the spans of `traces`: one row per span, the rows of a trace adjacent."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        self.spans = [span for trace in traces for span in trace.spans]
        lengths = [len(trace.spans) for trace in traces]
        trace_indices = np.repeat(np.arange(len(traces), dtype=np.int32), lengths)
        span_indices = np.arange(len(self.spans), dtype=np.int32)
        self.kinds = enum_codes([span.kind for span in self.spans], SpanKind)
        self.present = {kind for code, kind in enumerate(SpanKind) if code in self.kinds}
        self._owners = {
            "trace": Owners(traces, trace_indices),
            "span": Owners(self.spans, span_indices),
        }
        self._rows: dict[tuple[str, frozenset[SpanKind]], pa.Array] = {}
        self._values: dict[object, pa.Array] = {}
        self._columns: dict[object, pa.Array] = {}

    def column(self, field: Field) -> pa.Array:
        """Return the field's values in all rows; null where the span's kind lacks the field.

        Fields that have the same values under different names share one array.
        """
        key = (field.source, field.value, field.type, field.distinct)
        owner = owner_path(field)
        if key not in self._values:
            values = list(map(field.getter, self.owners(owner).objects))
            self._values[key] = to_array(field, values)
        kinds = field.kinds & self.present
        if (key, kinds) not in self._columns:
            self._columns[key, kinds] = _expand(self._values[key], self.rows(owner, kinds))
        return self._columns[key, kinds]

    def owners(self, path: str) -> Owners:
        """Return the objects at `path`, which starts at a `trace` or (in short) at a `span`."""
        if path not in self._owners:
            self._owners[path] = self._find_owners(path)
        return self._owners[path]

    def _find_owners(self, path: str) -> Owners:
        parent, _, name = path.rpartition(".")
        outer = self.owners(parent or ("trace" if name == "build" else "span"))
        if name == REPRESENTATIVE:
            return _representatives(outer, COMMON_FIELDS[parent])
        objects = list(map(attrgetter(name), outer.objects))
        return _one_per_row(objects) if path in NEARLY_DISTINCT else _distinct(objects, outer)

    def rows(self, path: str, kinds: frozenset[SpanKind]) -> pa.Array:
        """Return for each row the index of its owner at `path`.

        It is null if the row has no owner or is not one of `kinds`.
        """
        key = (path, kinds)
        if key not in self._rows:
            indices = self.owners(path).indices
            missing = indices == NO_OWNER
            if kinds < self.present:
                selected = np.array([kind in kinds for kind in SpanKind])
                missing |= ~selected[self.kinds]
            self._rows[key] = pa.array(indices, mask=missing)
        return self._rows[key]


def enum_codes(members: list[Any], enum: type[Enum]) -> Indices:
    """Return the positions of `members` in their `enum`.

    They are compared by identity, because hashing enum members is slow.
    """
    ids = np.fromiter(map(id, members), np.int64, len(members))
    codes = np.zeros(len(members), np.int32)
    for code, member in enumerate(enum):
        codes[ids == id(member)] = code
    return codes


def _one_per_row(objects: list[Any]) -> Owners:
    """Return all of `objects`, which stand for one row each; None stands for no owner."""
    owners = [owner for owner in objects if owner is not None]
    indices = np.full(len(objects), NO_OWNER, np.int32)
    indices[[owner is not None for owner in objects]] = np.arange(len(owners))
    return Owners(owners, indices)


def _distinct(objects: list[Any], outer: Owners) -> Owners:
    """Return the distinct objects among those of the `outer` owners; None is no owner."""
    ids = np.fromiter(map(id, objects), np.int64, len(objects))
    encoded = pa.array(ids, mask=ids == id(None)).dictionary_encode()
    indices = encoded.indices.fill_null(NO_OWNER).to_numpy()
    return _deduplicated(objects, indices, len(encoded.dictionary), outer)


def _representatives(outer: Owners, names: Sequence[str]) -> Owners:
    """Return one object for all `outer` owners that agree in the attributes `names`."""
    index_of: dict[tuple[Any, ...], int] = defaultdict(count().__next__)
    values = map(attrgetter(*names), outer.objects)
    indices = np.fromiter(map(index_of.__getitem__, values), np.int32, len(outer.objects))
    return _deduplicated(outer.objects, indices, len(index_of), outer)


def _deduplicated(objects: Sequence[Any], indices: Indices, size: int, outer: Owners) -> Owners:
    """Return `size` owners, one of the `objects` for each index, with the rows of `outer`.

    Args:
        objects: One for each object of `outer`.
        indices: For each of `objects` its index in the result, or -1.
        size: The number of distinct indices.
        outer: The owners that the objects belong to.
    """
    positions = np.empty(size + 1, np.int32)
    positions[indices] = np.arange(len(objects))
    # A row without an outer owner has index -1, so it finds the element appended here: none.
    row_indices = np.append(indices, np.int32(NO_OWNER))[outer.indices]
    return Owners([objects[position] for position in positions[:-1]], row_indices)


def _expand(values: pa.Array, rows: pa.Array) -> pa.Array:
    """Return the value of each row, given by its index in `values`."""
    if values.null_count == len(values):
        return pa.nulls(len(rows), values.type)
    if values.type == DICTIONARY and len(values.dictionary) == len(values):
        # Each owner has its own value, in the order of the owners.
        return pa.DictionaryArray.from_arrays(rows, values.dictionary)
    return values.take(rows)


def to_array(field: Field, values: list[Any]) -> pa.Array:
    """Return `values` as an array of the field's type, with too long strings truncated."""
    if field.type in NUMERIC:
        return pa.array(values, arrow_type(field))
    strings = pa.array(values, pa.string())
    if field.distinct:
        return _truncated(strings)
    encoded = strings.dictionary_encode()
    if field.type is FieldType.STRING or field.type is FieldType.JSON:
        dictionary = encoded.dictionary
        truncated = _truncated(dictionary)
        if truncated is not dictionary:
            return pa.DictionaryArray.from_arrays(encoded.indices, truncated)
    return encoded


def _truncated(strings: pa.Array) -> pa.Array:
    """Return the strings, those truncated that exceed `VALUE_LIMIT_BYTES`."""
    if strings.nbytes <= VALUE_LIMIT_BYTES:
        return strings
    if (pc.max(pc.binary_length(strings)).as_py() or 0) <= VALUE_LIMIT_BYTES:
        return strings
    short = [None if text is None else truncate(text) for text in strings.to_pylist()]
    return pa.array(short, pa.string())

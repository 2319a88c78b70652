"""The fields' values as Arrow arrays: each read once for each object that has it.

A field says what has its value (`Field.owner`): the build, the job, the job's agent. All
spans of a build share one build, most jobs share an agent, and nearly no job has a
`retry_source`. So values are made once for each distinct owner and then put on the rows
by number. Jobs are alike in most of what they say, so one is read for all that are.
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

from bk_pipeline.spans.fields import Field, FieldType
from bk_pipeline.spans.model import SpanKind, Step, Trace
from bk_pipeline.spans.records import Job
from bk_pipeline.text import VALUE_LIMIT_BYTES, cut

REPEATED = pa.dictionary(pa.int32(), pa.string())
NOWHERE = -1

# What is each job's own, and each step's. In the rest many are alike: the same steps run in
# many builds, and most pass. One is read for all that are; `job.like` is its path.
OWN = {
    "job": frozenset({
        "id", "graphql_id", "web_url", "step", "agent",
        "created_at", "runnable_at", "started_at", "finished_at", "expired_at", "unblocked_at",
    }),
    "step": frozenset({"id", "identity", "group"}),
}  # fmt: skip
ALIKE_IN = {
    root: tuple(name for name in record.__struct_fields__ if name not in OWN[root])
    for root, record in (("job", Job), ("step", Step))
}
LIKE = "like"

Numbers = NDArray[np.int32]

# The system's, since Arrow's own gives memory back after each column and takes it again for
# the next: an eighth of the whole time, where pages are slow to come by.
pa.set_memory_pool(pa.system_memory_pool())


def arrow_type(field: Field) -> pa.DataType:
    if field.type is FieldType.INT:
        return pa.int64()
    if field.type is FieldType.BOOL:
        return pa.bool_()
    return pa.string() if field.distinct else REPEATED


@cache
def owner_of(field: Field) -> str:
    """The path of what has the field's value: `Field.owner`, or the like of it."""
    root, *below = field.owner.split(".")
    read = re.findall(rf"\b{root}\.(\w+)", f"{field.owner} {field.source}")
    if root not in OWN or OWN[root].intersection(read):
        return field.owner
    return ".".join((root, LIKE, *below))


class Owners(NamedTuple):
    """Objects that have values, and of each row the number of its; -1: it has none."""

    objects: Sequence[Any]
    numbers: Numbers


class Columns:
    """The columns of the spans of `traces`: a row a span, those of a trace together."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        self.spans = [span for trace in traces for span in trace.spans]
        lengths = [len(trace.spans) for trace in traces]
        builds = np.repeat(np.arange(len(traces), dtype=np.int32), lengths)
        every = np.arange(len(self.spans), dtype=np.int32)
        self.kinds = codes_of([span.kind for span in self.spans], SpanKind)
        self.present = {kind for code, kind in enumerate(SpanKind) if code in self.kinds}
        self._owners = {"trace": Owners(traces, builds), "span": Owners(self.spans, every)}
        self._rows: dict[tuple[str, frozenset[SpanKind]], pa.Array] = {}
        self._values: dict[object, pa.Array] = {}
        self._made: dict[object, pa.Array] = {}

    def column(self, field: Field) -> pa.Array:
        """The field's values in all rows; null where a span is not of the field's kinds.

        Made once for all fields that have the same values under several names.
        """
        key = (field.source, field.value, field.type, field.distinct)
        owner = owner_of(field)
        if key not in self._values:
            values = list(map(field.getter, self.owners(owner).objects))
            self._values[key] = array_of(field, values)
        kinds = field.kinds & self.present
        if (key, kinds) not in self._made:
            self._made[key, kinds] = _on_rows(self._values[key], self.rows(owner, kinds))
        return self._made[key, kinds]

    def owners(self, path: str) -> Owners:
        """What stands at `path`, which leads from a `trace` or, in short, from a `span`."""
        if path not in self._owners:
            self._owners[path] = self._found(path)
        return self._owners[path]

    def _found(self, path: str) -> Owners:
        above, _, name = path.rpartition(".")
        outer = self.owners(above or ("trace" if name == "build" else "span"))
        if name == LIKE:
            return _alike(outer, ALIKE_IN[above])
        objects = list(map(attrgetter(name), outer.objects))
        return _each(objects) if path == "job" else _distinct(objects, outer)

    def rows(self, path: str, kinds: frozenset[SpanKind]) -> pa.Array:
        """Of each row the number of its owner at `path`; null if it has none or is of no such kind."""
        key = (path, kinds)
        if key not in self._rows:
            numbers = self.owners(path).numbers
            missing = numbers == NOWHERE
            if kinds < self.present:
                wanted = np.array([kind in kinds for kind in SpanKind])
                missing |= ~wanted[self.kinds]
            self._rows[key] = pa.array(numbers, mask=missing)
        return self._rows[key]


def codes_of(members: list[Any], enum: type[Enum]) -> Numbers:
    """The places of `members` in their `enum`: by what they are, since to hash one takes long."""
    ids = np.fromiter(map(id, members), np.int64, len(members))
    codes = np.zeros(len(members), np.int32)
    for code, member in enumerate(enum):
        codes[ids == id(member)] = code
    return codes


def _each(objects: list[Any]) -> Owners:
    """All of the `objects`, one a row; None is none."""
    owned = [one for one in objects if one is not None]
    numbers = np.full(len(objects), NOWHERE, np.int32)
    numbers[[one is not None for one in objects]] = np.arange(len(owned))
    return Owners(owned, numbers)


def _distinct(objects: list[Any], outer: Owners) -> Owners:
    """The distinct ones among what the `outer` owners have; None is none."""
    ids = np.fromiter(map(id, objects), np.int64, len(objects))
    encoded = pa.array(ids, mask=ids == id(None)).dictionary_encode()
    numbers = encoded.indices.fill_null(NOWHERE).to_numpy()
    return _chosen(objects, numbers, len(encoded.dictionary), outer)


def _alike(outer: Owners, names: Sequence[str]) -> Owners:
    """Of the `outer` owners that have the same values under all `names`, one for all."""
    numbers_of: dict[tuple[Any, ...], int] = defaultdict(count().__next__)
    values = map(attrgetter(*names), outer.objects)
    numbers = np.fromiter(map(numbers_of.__getitem__, values), np.int32, len(outer.objects))
    return _chosen(outer.objects, numbers, len(numbers_of), outer)


def _chosen(objects: Sequence[Any], numbers: Numbers, count_: int, outer: Owners) -> Owners:
    """One of the `objects` for each of their `numbers`, below `count_` or -1, on the rows of `outer`."""
    places = np.empty(count_ + 1, np.int32)
    places[numbers] = np.arange(len(objects))
    # The row that has no outer owner, -1, finds the last one here: none.
    inner = np.append(numbers, np.int32(NOWHERE))[outer.numbers]
    return Owners([objects[place] for place in places[:-1]], inner)


def _on_rows(values: pa.Array, rows: pa.Array) -> pa.Array:
    if values.null_count == len(values):
        return pa.nulls(len(rows), values.type)
    if values.type == REPEATED and len(values.dictionary) == len(values):
        # Each owner has a value of its own, in the owners' order.
        return pa.DictionaryArray.from_arrays(rows, values.dictionary)
    return values.take(rows)


def array_of(field: Field, values: list[Any]) -> pa.Array:
    """`values` as the field's column has them, too long ones cut."""
    if field.type in {FieldType.INT, FieldType.BOOL}:
        return pa.array(values, arrow_type(field))
    strings = pa.array(values, pa.string())
    if field.distinct:
        return _short(strings)
    encoded = strings.dictionary_encode()
    if field.type is FieldType.STRING or field.type is FieldType.JSON:
        words = encoded.dictionary
        short = _short(words)
        if short is not words:
            return pa.DictionaryArray.from_arrays(encoded.indices, short)
    return encoded


def _short(strings: pa.Array) -> pa.Array:
    """The same strings, those cut that are longer than a backend keeps."""
    if strings.nbytes <= VALUE_LIMIT_BYTES:
        return strings
    if (pc.max(pc.binary_length(strings)).as_py() or 0) <= VALUE_LIMIT_BYTES:
        return strings
    return pa.array([None if one is None else cut(one) for one in strings.to_pylist()], pa.string())

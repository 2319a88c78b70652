"""The fields' values as Arrow arrays: each read once for each object that has it.

A field says what has its value (`Field.owner`): the build, the job, the job's agent. All
spans of a build share one build, most jobs share an agent, and nearly no job has a
`retry_source`. So values are made once for each distinct owner and then put on the rows
by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bk_pipeline.spans.fields import Field, FieldType
from bk_pipeline.spans.model import SpanKind, Trace
from bk_pipeline.spans.text import VALUE_LIMIT_BYTES, cut

REPEATED = pa.dictionary(pa.int32(), pa.string())
KINDS = pa.array([str(kind) for kind in SpanKind], pa.string())
NOWHERE = -1

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


class Owners(NamedTuple):
    """Objects that have values, each once, and of each row the number of its; -1: it has none."""

    objects: Sequence[Any]
    numbers: Numbers


class Columns:
    """The columns of the spans of `traces`: a row a span, those of a trace together."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        self.spans = [span for trace in traces for span in trace.spans]
        lengths = [len(trace.spans) for trace in traces]
        builds = np.repeat(np.arange(len(traces), dtype=np.int32), lengths)
        every = np.arange(len(self.spans), dtype=np.int32)
        names = pa.array([span.kind for span in self.spans], pa.string())
        self.kinds: Numbers = pc.index_in(names, KINDS).to_numpy()
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
        if key not in self._values:
            owners = self.owners(field.owner).objects
            self._values[key] = array_of(field, list(map(field.getter, owners)))
        kinds = field.kinds & self.present
        if (key, kinds) not in self._made:
            self._made[key, kinds] = self._values[key].take(self.rows(field.owner, kinds))
        return self._made[key, kinds]

    def owners(self, path: str) -> Owners:
        """What stands at `path`, which leads from a `trace` or, in short, from a `span`."""
        if path not in self._owners:
            above, _, name = path.rpartition(".")
            outer = self.owners(above or ("trace" if name == "build" else "span"))
            self._owners[path] = _distinct(list(map(attrgetter(name), outer.objects)), outer)
        return self._owners[path]

    def rows(self, path: str, kinds: frozenset[SpanKind]) -> pa.Array:
        """Of each row the number of its owner at `path`; null if it has none or is of no such kind."""
        key = (path, kinds)
        if key not in self._rows:
            numbers = self.owners(path).numbers
            wanted = np.array([kind in kinds for kind in SpanKind])
            missing = (numbers == NOWHERE) | ~wanted[self.kinds]
            self._rows[key] = pa.array(numbers, mask=missing)
        return self._rows[key]


def _distinct(objects: list[Any], outer: Owners) -> Owners:
    """The distinct ones among what the `outer` owners have; None is none."""
    ids = np.fromiter(map(id, objects), np.int64, len(objects))
    encoded = pa.array(ids, mask=ids == id(None)).dictionary_encode()
    numbers = encoded.indices.fill_null(NOWHERE).to_numpy()
    places = np.empty(len(encoded.dictionary) + 1, np.int32)
    places[numbers] = np.arange(len(objects))
    # The row that has no outer owner, -1, finds the last one here: none.
    inner = np.append(numbers, np.int32(NOWHERE))[outer.numbers]
    return Owners([objects[place] for place in places[:-1]], inner)


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

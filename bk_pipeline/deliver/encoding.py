"""Span rows to a destination's items, a column at a time; `Codec` says how bytes look.

A span's item is put together from a few pieces: what it has for itself, what all spans of its
build have, and what spans have in common in other ways. There are two sorts of columns:

- In a *plain column* nearly every row has its own value (`PLAIN_FIELDS`). All plain columns
  are joined by Arrow, without a Python object for each value.
- In a *dictionary column* values repeat. Each distinct value is encoded once; then each
  distinct combination of the values of several columns is put together once (`_combined`).
  An agent's id says its name, host and tags, so there are far fewer combinations than rows.

The order of a span's fields follows: plain fields, those of its build, those of its step and
job, those of the agent. Each destination also has a slow encoder, `plain.py`, that takes one
span at a time; tests compare the two.

To add a codec (OTLP as JSON, say), implement `Codec` in `<destination>/codec.py` and call
`encode` with it. To add a type of column, add it to `FieldType`, to `fragments` of each codec
and to each `plain.py`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from bk_pipeline.deliver.arrays import BYTES, Parts, codes_of, joined, lengths, take
from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.fields import ALL, FIELDS, Field, FieldType
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import VALUE_LIMIT_BYTES

# For fewer values than this Python is as fast as Arrow.
MANY = 1_000
# A combination of values is worth a piece of its own if there are so few, or if so many rows
# have it on average.
FEW, ROWS_A_PIECE = 64, 8
# Codes of combinations are 64-bit integers.
MOST_CODES = 2**63
TEXTS = frozenset({FieldType.STRING, FieldType.JSON})
# In OTLP, and so in Honeycomb.
STATUS_CODES = {"unset": 0, "ok": 1, "error": 2}
# These repeat among spans less than their declaration says.
VARIED = frozenset({"buildkite.step.id", "buildkite.job.wait_time_ms"})

RESOURCE_FIELDS = tuple(field for field in FIELDS if field.per_build and field.resource)
# Of all spans of a build, and of its root alone.
BUILD_FIELDS = tuple(
    field for field in FIELDS if field.per_build and field.kinds == ALL and not field.resource
)
ROOT_FIELDS = tuple(
    field for field in FIELDS if field.per_build and field.kinds == {SpanKind.BUILD}
)
PLAIN_FIELDS = tuple(field for field in FIELDS if field.distinct or field.name in VARIED)
_REST = [
    field
    for field in FIELDS
    if field not in {*RESOURCE_FIELDS, *BUILD_FIELDS, *ROOT_FIELDS, *PLAIN_FIELDS}
]
AGENT_FIELDS = tuple(field for field in _REST if field.owner == "job.agent")
JOB_FIELDS = tuple(field for field in _REST if field.owner != "job.agent")


class Dictionary(NamedTuple):
    """A dictionary column, encoded.

    Attributes:
        fragments: What each distinct value is encoded to; some may be unused.
        codes: For each row the place of its fragment.
    """

    fragments: Sequence[bytes]
    codes: Any

    def take(self, rows: Any = slice(None)) -> list[bytes]:
        """The fragment of each of `rows`, or of all."""
        return take(self.fragments, self.codes[rows])

    def array(self) -> pa.Array:
        """The fragment of each row as an array of BYTES."""
        return pa.array(self.fragments, BYTES).take(pa.array(self.codes))

    def sizes(self) -> Any:
        """How many bytes each row has."""
        sizes = np.fromiter(map(len, self.fragments), np.int64, len(self.fragments))
        return sizes[self.codes]


class Codec(Protocol):
    """How spans look in one format. Pure."""

    def fragments(self, field: Field, values: list[Any]) -> list[bytes]:
        """Each value of a field in the span table: its attribute, or for a map all its keys."""
        ...

    def bulk(self, field: Field, values: pa.Array) -> Parts | None:
        """Many strings, none of them too long; None: `fragments` has to take them."""
        ...

    def resource(self, attributes: bytes) -> tuple[bytes, bytes]:
        """Of a resource, given its encoded fields: each span's part, and `Item.shared`."""
        ...

    def frame(self, rows: SpanRows) -> Iterable[Parts]:
        """What comes before the fields, as plain columns."""
        ...

    def groups(
        self, rows: SpanRows, job: list[Dictionary], agent: list[Dictionary]
    ) -> Iterable[list[Dictionary]]:
        """The columns of step and job and of the agent, with what comes before and after."""
        ...

    def opening(self, sizes: Any) -> Parts:
        """What comes first, given the size of all the rest of each span."""
        ...

    def trimmed(self, rows: SpanRows, sizes: Any) -> Iterable[tuple[int, bytes, bool]]:
        """The rows that may be too large, made to fit, and whether something is missing."""
        ...


def encode(rows: SpanRows, codec: Codec) -> list[Item]:
    """An item for each row, in their order."""
    if not len(rows):
        return []
    plain = (_plain(codec, field, rows.column(field.name)) for field in PLAIN_FIELDS)
    own = [*chain.from_iterable(codec.frame(rows)), *chain.from_iterable(plain)]
    attributes = rows_of_fields(codec, RESOURCE_FIELDS, rows, rows.first_rows)
    resources = {one: codec.resource(one) for one in set(attributes)}  # equal ones are one object
    before, shared = zip(*(resources[one] for one in attributes), strict=True)
    job, agent = (dictionaries(codec, some, rows.table) for some in (JOB_FIELDS, AGENT_FIELDS))
    groups = map(_combined, codec.groups(rows, job, agent))
    rest = [_of_builds(rows, codec, before), *chain.from_iterable(groups)]
    sizes = sum(map(lengths, own)) + sum(one.sizes() for one in rest)
    opening = codec.opening(sizes)
    made = list(
        map(
            Item,
            take(rows.trace_ids, rows.build_of_row),
            rows.span_ids,
            rows.start_ns.tolist(),
            rows.names(),
            zip(joined([*opening, *own]), *(one.take() for one in rest), strict=True),
            (sizes + sum(map(lengths, opening))).tolist(),
            [False] * len(rows),
            take(shared, rows.build_of_row),
        )
    )
    for row, body, trimmed in codec.trimmed(rows, sizes):
        made[row] = replace(made[row], pieces=(body,), size=len(body), trimmed=trimmed)
    return made


def dictionary(values: pa.Array, fragments_of: Callable[[list[Any]], list[bytes]]) -> Dictionary:
    """A column of repeating values, given what encodes the distinct ones."""
    if pa.types.is_dictionary(values.type):
        known = values.dictionary
        if known.null_count or len(known) > len(values):  # those of a table that this is part of
            values = values.dictionary_decode()
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    fragments = fragments_of(values.dictionary.to_pylist())
    return Dictionary([b"", *fragments], codes_of(values.indices))


def dictionaries(codec: Codec, fields: Iterable[Field], table: pa.Table) -> list[Dictionary]:
    """The columns of `fields` that have values, encoded as dictionary columns."""
    columns = ((field, table[field.name]) for field in fields)
    return [
        dictionary(values.chunk(0), partial(codec.fragments, field))
        for field, values in columns
        if values.null_count < len(table)
    ]


def _plain(codec: Codec, field: Field, values: pa.Array) -> Parts:
    """A column of values that do not repeat, a fragment for each row."""
    if values.null_count == len(values):
        return []
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if len(values) >= MANY and field.type in TEXTS and lengths(values).max() <= VALUE_LIMIT_BYTES:
        bulk = codec.bulk(field, values)
        if bulk is not None:
            return bulk
    return [dictionary(values, partial(codec.fragments, field)).array()]


def _end_to_end(columns: Sequence[Dictionary], rows: Any, count: int) -> list[bytes]:
    """For each of `rows`, `count` of them, its fragments of all columns."""
    if not columns:
        return [b""] * count
    return list(map(b"".join, zip(*(one.take(rows) for one in columns), strict=True)))


def rows_of_fields(codec: Codec, fields: Sequence[Field], rows: SpanRows, some: Any) -> list[bytes]:
    """For each of `some` rows its fields, end to end."""
    table = rows.table.select([field.name for field in fields]).take(pa.array(some))
    return _end_to_end(dictionaries(codec, fields, table), slice(None), len(table))


def _of_builds(rows: SpanRows, codec: Codec, before: Sequence[bytes]) -> Dictionary:
    """What each span has of its build, behind what `before` has for each; a root has more."""
    builds = rows_of_fields(codec, BUILD_FIELDS, rows, rows.first_rows)
    builds = list(map(bytes.__add__, before, builds))
    roots = np.flatnonzero(np.asarray(pc.equal(rows.column("name"), SpanKind.BUILD)))
    codes = rows.build_of_row.copy()
    more = rows_of_fields(codec, ROOT_FIELDS, rows, roots)
    whole = map(bytes.__add__, take(builds, codes[roots]), more)
    codes[roots] = np.arange(len(roots)) + len(builds)
    return Dictionary([*builds, *whole], codes)


def _combined(columns: list[Dictionary]) -> list[Dictionary]:
    """`columns` as one with a fragment for each combination; as several, if those are too many."""
    if not columns:
        return []
    codes, count = _combinations(columns)
    if len(columns) > 1 and count > max(FEW, len(codes) // ROWS_A_PIECE):
        middle = len(columns) // 2
        return _combined(columns[:middle]) + _combined(columns[middle:])
    examples = np.empty(count, np.int64)
    examples[codes] = np.arange(len(codes))
    return [Dictionary(_end_to_end(columns, examples, count), codes)]


def _combinations(columns: Sequence[Dictionary]) -> tuple[Any, int]:
    """For each row the number of its combination, and how many there are."""
    codes, count = np.zeros(len(columns[0].codes), np.int64), 1
    for column in columns:
        if count * len(column.fragments) > MOST_CODES:
            codes, count = _renumbered(codes)
        codes = codes * len(column.fragments) + column.codes
        count *= len(column.fragments)
    return _renumbered(codes)


def _renumbered(codes: Any) -> tuple[Any, int]:
    encoded = pa.array(codes).dictionary_encode()
    return np.asarray(encoded.indices, np.int64), len(encoded.dictionary)

"""Encode span rows as items, column by column; a `Codec` defines the bytes of each format. Pure.

An item is assembled from a few pieces: the span's own data, the data shared by all spans of its
build, and data that spans have in common in other ways. There are two kinds of columns:

- In a *plain column* nearly every row has its own value (`PLAIN_FIELDS`). All plain columns are
  joined by Arrow, without creating a Python object per value.
- In a *dictionary column* values repeat. Each distinct value is encoded once; then each distinct
  combination of the values of several columns is assembled once (`_combined`). An agent's id
  determines its name, host and tags, so there are far fewer combinations than rows.

This determines the order of a span's fields: plain fields, then those of its build, of its step and
job, and of the agent. Each destination also has a slow reference encoder, `plain.py`, that takes
one span at a time; tests compare the two.

To add a codec (for example OTLP as JSON), implement `Codec` in `<destination>/codec.py` and call
`encode` with it. To add a column type, add it to `FieldType`, to `fragments` of each codec and to
each `plain.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from heapq import heapify, heapreplace
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.resource import SERVICE_SOURCES, service_name
from bk_pipeline.deliver.rows import BYTES, Parts, SpanRows, codes_of, joined, lengths, take
from bk_pipeline.spans.fields import ALL, FIELDS, Field, FieldType
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import VALUE_LIMIT_BYTES

# For fewer values than this, Python is as fast as Arrow.
BULK_MIN_VALUES = 1_000
# Columns are merged if there are at most this many combinations of their values, or if a
# combination has at least this many rows on average.
MIN_COMBINATIONS, ROWS_PER_COMBINATION = 64, 8
# Codes of combinations are 64-bit integers.
MAX_CODES = 2**63
TEXT_TYPES = frozenset({FieldType.STRING, FieldType.JSON})
# Status codes in OTLP, and so in Honeycomb.
STATUS_CODES = {"unset": 0, "ok": 1, "error": 2}
# Fields whose values repeat less often than their declaration says.
MOSTLY_DISTINCT = frozenset({
    "bk_pipeline.cost",
    "bk_pipeline.critical_path_ms",
    "bk_pipeline.slack_ms",
    "buildkite.step.id",
    "buildkite.job.wait_time_ms",
    "buildkite.job.concurrency_wait_time_ms",
})  # fmt: skip


def otel_kind(name: str) -> str:
    """Return the OpenTelemetry span kind of a span's name: a pipeline run is a `server` span.

    Source: OpenTelemetry's semantic conventions, "CI/CD spans".
    """
    return "server" if name == SpanKind.BUILD else "internal"


RESOURCE_FIELDS = tuple(field for field in FIELDS if field.per_build and field.resource)
# Fields of all spans of a build, and of its root only.
BUILD_FIELDS = tuple(
    field for field in FIELDS if field.per_build and field.kinds == ALL and not field.resource
)
ROOT_FIELDS = tuple(
    field for field in FIELDS if field.per_build and field.kinds == {SpanKind.BUILD}
)
PLAIN_FIELDS = tuple(field for field in FIELDS if field.distinct or field.name in MOSTLY_DISTINCT)
_OTHER_FIELDS = [
    field
    for field in FIELDS
    if field not in {*RESOURCE_FIELDS, *BUILD_FIELDS, *ROOT_FIELDS, *PLAIN_FIELDS}
]
AGENT_FIELDS = tuple(field for field in _OTHER_FIELDS if field.owner == "job.agent")
JOB_FIELDS = tuple(field for field in _OTHER_FIELDS if field.owner != "job.agent")


class Dictionary(NamedTuple):
    """An encoded dictionary column.

    Attributes:
        fragments: The encoding of each distinct value; some may be unused.
        codes: For each row, the index of its fragment.
    """

    fragments: Sequence[bytes]
    codes: Any

    def take(self, rows: Any = slice(None)) -> list[bytes]:
        """Return the fragment of each of `rows`, or of all rows."""
        return take(self.fragments, self.codes[rows])

    def array(self) -> pa.Array:
        """Return the fragment of each row as an array of BYTES."""
        return pa.array(self.fragments, BYTES).take(pa.array(self.codes))

    def sizes(self) -> Any:
        """Return the size of each row's fragment, in bytes."""
        sizes = np.fromiter(map(len, self.fragments), np.int64, len(self.fragments))
        return sizes[self.codes]


class Codec(Protocol):
    """The encoding of spans in one format. Pure."""

    def fragments(self, field: Field, values: list[Any]) -> list[bytes]:
        """Return the encoded attribute of each value of a field; of a map, all its keys."""
        ...

    def bulk_fragments(self, field: Field, values: pa.Array) -> Parts | None:
        """Encode many integers, or many strings of which none is longer than the limit, at once.

        Returns:
            None if `fragments` has to encode them.
        """
        ...

    @property
    def service_template(self) -> str:
        """The template of the service name; empty if all builds have the same."""
        ...

    def resource(self, attributes: bytes, service: str | None) -> tuple[bytes, bytes]:
        """Encode a resource.

        Args:
            attributes: Its encoded fields.
            service: Its service name, if it is not that of all builds.

        Returns:
            The part of each span, and `Item.shared`.
        """
        ...

    def header(self, rows: SpanRows) -> Iterable[Parts]:
        """Return the plain columns that precede the fields, such as ids and times."""
        ...

    def groups(
        self, rows: SpanRows, job: list[Dictionary], agent: list[Dictionary]
    ) -> Iterable[list[Dictionary]]:
        """Return the columns of step and job, and of the agent, with what surrounds them."""
        ...

    def prefix(self, sizes: Any) -> Parts:
        """Return what precedes everything else, given the size of the rest of each span."""
        ...

    def trimmed(self, rows: SpanRows, sizes: Any) -> Iterable[tuple[int, bytes, bool]]:
        """Return rows that may be too large: index, encoding that fits, whether data is missing."""
        ...


def encode(rows: SpanRows, codec: Codec) -> list[Item]:
    """Return an item for each row, in order."""
    if not len(rows):
        return []
    plain = (_plain_column(codec, field, rows.column(field.name)) for field in PLAIN_FIELDS)
    plain_parts = [*chain.from_iterable(codec.header(rows)), *chain.from_iterable(plain)]
    attributes = rows_of_fields(codec, RESOURCE_FIELDS, rows, rows.first_rows)
    keys = list(zip(attributes, _services(rows, codec.service_template), strict=True))
    # Equal values are the same object.
    resources = {one: codec.resource(*one) for one in set(keys)}
    before, shared = zip(*(resources[one] for one in keys), strict=True)
    job, agent = (dictionaries(codec, some, rows.table) for some in (JOB_FIELDS, AGENT_FIELDS))
    groups = map(_combined, codec.groups(rows, job, agent))
    rest = [_build_column(rows, codec, before), *chain.from_iterable(groups)]
    sizes = sum(map(lengths, plain_parts)) + sum(one.sizes() for one in rest)
    prefix = codec.prefix(sizes)
    items = list(
        map(
            Item,
            take(rows.trace_ids, rows.build_of_row),
            rows.span_ids,
            rows.start_ns.tolist(),
            rows.names(),
            zip(joined([*prefix, *plain_parts]), *(one.take() for one in rest), strict=True),
            (sizes + sum(map(lengths, prefix))).tolist(),
            [False] * len(rows),
            take(shared, rows.build_of_row),
        )
    )
    for row, body, trimmed in codec.trimmed(rows, sizes):
        items[row] = replace(items[row], pieces=(body,), size=len(body), trimmed=trimmed)
    return items


def _services(rows: SpanRows, template: str) -> list[str | None]:
    """Return the service name that `template` makes for each build, see `service_name`."""
    if not template:
        return [None] * len(rows.trace_ids)
    table = rows.table.select([*SERVICE_SOURCES.values()]).take(pa.array(rows.first_rows))
    return [service_name(template, one) for one in table.to_pylist()]


def with_defaults(rows: SpanRows, common: Mapping[str, str]) -> SpanRows:
    """Return `rows` with values of `common` for the resource attributes that builds lack."""
    table = rows.table
    for field in RESOURCE_FIELDS:
        if field.name in common and len(table):
            values = pc.fill_null(rows.column(field.name).cast(pa.string()), common[field.name])
            at = table.schema.get_field_index(field.name)
            table = table.set_column(at, field.name, values)
    return rows if table is rows.table else dataclasses.replace(rows, table=table)


def dictionary(values: pa.Array, fragments_of: Callable[[list[Any]], list[bytes]]) -> Dictionary:
    """Encode a column of repeating values.

    Args:
        values: The column.
        fragments_of: Encodes its distinct values.
    """
    if pa.types.is_dictionary(values.type):
        known = values.dictionary
        # The dictionary may be that of a larger table, of which this is a slice.
        if known.null_count or len(known) > len(values):
            values = values.dictionary_decode()
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    fragments = fragments_of(values.dictionary.to_pylist())
    return Dictionary([b"", *fragments], codes_of(values.indices))


def dictionaries(codec: Codec, fields: Iterable[Field], table: pa.Table) -> list[Dictionary]:
    """Encode the columns of `fields` that have values as dictionary columns."""
    columns = ((field, table[field.name]) for field in fields)
    return [
        dictionary(values.chunk(0), partial(codec.fragments, field))
        for field, values in columns
        if values.null_count < len(table)
    ]


def _plain_column(codec: Codec, field: Field, values: pa.Array) -> Parts:
    """Encode a column of mostly distinct values, one fragment per row."""
    if values.null_count == len(values):
        return []
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if len(values) >= BULK_MIN_VALUES and (
        field.type is FieldType.INT
        or (field.type in TEXT_TYPES and lengths(values).max() <= VALUE_LIMIT_BYTES)
    ):
        bulk_fragments = codec.bulk_fragments(field, values)
        if bulk_fragments is not None:
            return bulk_fragments
    return [dictionary(values, partial(codec.fragments, field)).array()]


def _concatenated(columns: Sequence[Dictionary], rows: Any, count: int) -> list[bytes]:
    """Return the concatenated fragments of all columns for each of `rows` (`count` of them)."""
    if not columns:
        return [b""] * count
    return list(map(b"".join, zip(*(one.take(rows) for one in columns), strict=True)))


def rows_of_fields(
    codec: Codec, fields: Sequence[Field], rows: SpanRows, indices: Any
) -> list[bytes]:
    """Return the concatenated encoded fields of each of the rows at `indices`."""
    table = rows.table.select([field.name for field in fields]).take(pa.array(indices))
    return _concatenated(dictionaries(codec, fields, table), slice(None), len(table))


def _build_column(rows: SpanRows, codec: Codec, before: Sequence[bytes]) -> Dictionary:
    """Return what each span has of its build, each after its `before`; roots have more."""
    builds = rows_of_fields(codec, BUILD_FIELDS, rows, rows.first_rows)
    builds = list(map(bytes.__add__, before, builds))
    roots = np.flatnonzero(np.asarray(pc.equal(rows.column("name"), SpanKind.BUILD)))
    codes = rows.build_of_row.copy()
    root_fragments = rows_of_fields(codec, ROOT_FIELDS, rows, roots)
    root_and_build = map(bytes.__add__, take(builds, codes[roots]), root_fragments)
    codes[roots] = np.arange(len(roots)) + len(builds)
    return Dictionary([*builds, *root_and_build], codes)


def _combined(columns: list[Dictionary]) -> list[Dictionary]:
    """Merge columns into one that has a fragment for each combination of values.

    Stays with several columns if there are too many combinations.
    """
    if not columns:
        return []
    codes, count = _combinations(columns)
    if len(columns) > 1 and count > max(MIN_COMBINATIONS, len(codes) // ROWS_PER_COMBINATION):
        middle = len(columns) // 2
        return _combined(columns[:middle]) + _combined(columns[middle:])
    examples = np.empty(count, np.int64)
    examples[codes] = np.arange(len(codes))
    return [Dictionary(_concatenated(columns, examples, count), codes)]


def _combinations(columns: Sequence[Dictionary]) -> tuple[Any, int]:
    """Return the combination number of each row, and the number of combinations."""
    codes, count = np.zeros(len(columns[0].codes), np.int64), 1
    for column in columns:
        if count * len(column.fragments) > MAX_CODES:
            codes, count = _renumbered(codes)
        codes = codes * len(column.fragments) + column.codes
        count *= len(column.fragments)
    return _renumbered(codes)


def _renumbered(codes: Any) -> tuple[Any, int]:
    encoded = pa.array(codes).dictionary_encode()
    return np.asarray(encoded.indices, np.int64), len(encoded.dictionary)


Key = TypeVar("Key", str, int)
# Strings are not truncated below this, because a few words are still useful.
SHORTEST_BYTES = 64

# Our own attribute: the item has less than the span.
TRIMMED = "bk_pipeline.trimmed"
MAPS = tuple(field.name for field in FIELDS if field.type is FieldType.MAP)
# The prefixes of map keys; all other columns are declared.
MAP_PREFIXES = tuple(name.removesuffix("*") for name in MAPS)


def map_key_bounds(rows: SpanRows) -> Any:
    """Return an upper bound of the number of map keys in each row, by counting colons."""
    counts = np.zeros(len(rows), np.int64)
    for name in MAPS:
        values = rows.column(name)
        colons = pc.count_substring(values.dictionary, ":").take(values.indices)
        counts += np.asarray(pc.fill_null(colons, 0))
    return counts


def shorten(sizes: Mapping[Key, int], excess: int, truncate: Callable[[Key, int], int]) -> None:
    """Truncate strings to save `excess` bytes, the longest first.

    A string is truncated to no less than half of the longest one at that time, so that strings of
    similar length are truncated alike.

    Args:
        sizes: The size of each string in bytes, by a key.
        excess: The number of bytes to save.
        truncate: Truncates the string of a key to at most this many bytes and returns its size.
    """
    heap: list[tuple[int, Any]] = [(-size, key) for key, size in sizes.items()]
    heapify(heap)
    while excess > 0 and heap and -heap[0][0] > SHORTEST_BYTES:
        size, key = -heap[0][0], heap[0][1]
        left = truncate(key, max(size - excess, size // 2, SHORTEST_BYTES))
        excess -= size - left
        heapreplace(heap, (-left, key))

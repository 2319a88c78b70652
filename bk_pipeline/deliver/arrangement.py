"""In which order a span's fields are written: by what is written only once.

What all spans of a build have is encoded once a build. Of the rest, what nearly every span
has for itself stands together, and what several spans have in common stands beside that
with which it hangs together. That is what makes encoding fast; right it is in any order. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.deliver.pieces import NOTHING, Column, Own, Shared, parts_of, rows_of
from bk_pipeline.deliver.selection import Builds, column
from bk_pipeline.spans.fields import ALL, FIELDS, Field
from bk_pipeline.spans.model import SpanKind

# What has a value of its own on nearly every span that has it, besides what is declared so.
VARIED = frozenset({"buildkite.step.id", "buildkite.job.wait_time_ms"})

RESOURCE_FIELDS = tuple(field for field in FIELDS if field.per_build and field.resource)
# The same on all spans of a build; then what only its root has.
BUILD_FIELDS = tuple(
    field for field in FIELDS if field.per_build and field.kinds == ALL and not field.resource
)
ROOT_FIELDS = tuple(
    field for field in FIELDS if field.per_build and field.kinds == {SpanKind.BUILD}
)
# Of one span; then of several. An agent's values come last: its id says all of them.
OWN_FIELDS = tuple(field for field in FIELDS if field.distinct or field.name in VARIED)
COMMON_FIELDS = tuple(
    sorted(
        set(FIELDS).difference(RESOURCE_FIELDS, BUILD_FIELDS, ROOT_FIELDS, OWN_FIELDS),
        key=lambda field: (field.owner == "job.agent", FIELDS.index(field)),
    )
)


class Encode(Protocol):
    """What encodes a field's values; `own` as `column_of` has it."""

    def __call__(self, field: Field, values: pa.Array, *, own: bool) -> Column | None: ...


def columns_of(
    table: pa.Table, fields: Iterable[Field], encode: Encode, *, own: bool = False
) -> Iterator[Column | None]:
    """What `encode` makes of each of `fields`."""
    return (encode(field, column(table, field.name), own=own) for field in fields)


def rows_together(
    table: pa.Table, fields: Iterable[Field], rows: Any, encode: Encode
) -> list[bytes]:
    """For each of `rows` what `encode` makes of all `fields`, as one."""
    some = pa.array(rows)
    parts = parts_of(
        encode(field, column(table, field.name).take(some), own=True) for field in fields
    )
    return rows_of(Own(parts)) if parts else [NOTHING] * len(rows)


def of_builds(
    table: pa.Table, builds: Builds, encode: Encode, before: Sequence[bytes] | None = None
) -> Shared:
    """What each span has of its build; the root has more of it.

    Args:
        table: The spans.
        builds: Its builds.
        encode: What encodes a field.
        before: What comes first, for each build.
    """
    its = rows_together(table, BUILD_FIELDS, builds.first_rows, encode)
    pieces = [one + other for one, other in zip(before, its, strict=True)] if before else its
    roots = np.flatnonzero(np.asarray(pc.equal(column(table, "name"), SpanKind.BUILD)))
    places = builds.of_row.copy()
    more = rows_together(table, ROOT_FIELDS, roots, encode)
    whole = [pieces[at] + one for at, one in zip(places[roots].tolist(), more, strict=True)]
    places[roots] = np.arange(len(whole)) + len(pieces)
    return Shared(pieces + whole, places)

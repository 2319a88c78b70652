"""What the modules of this package find inside of a job, and the rows of the span table for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
import pyarrow as pa

from bk_pipeline.spans.columns import MOMENT, to_array
from bk_pipeline.spans.fields import DETAIL_FIELDS, FIELDS, INSIDE
from bk_pipeline.spans.ids import derived_span_id
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import DETAIL_SCHEMA, LINKS

ERROR_TYPE, GUESSED = "error.type", "bk_pipeline.time_guessed"
OWN_FIELDS = tuple(field for field in FIELDS if field in DETAIL_FIELDS or field.name == ERROR_TYPE)
_OWN = frozenset(field.name for field in OWN_FIELDS)
# What a span inside of a job has in common with the job's span.
INHERITED = (
    "trace_id",
    *(field.name for field in FIELDS if field.kinds >= INSIDE and field.name not in _OWN),
)
# The columns of job spans that `detail_rows` needs.
JOB_COLUMNS = ("span_id", *INHERITED)


class JobTimes(msgspec.Struct, frozen=True):
    """When a job ran, in Unix nanoseconds: the times of its span, which those inside keep to."""

    job_id: str
    start_ns: int
    end_ns: int


class DetailSpan(msgspec.Struct, gc=False):
    """A span inside of a job.

    Attributes:
        kind: Its kind.
        identity: Identifies it permanently among the spans of its kind in the job.
        parent: The index of its parent among the spans found with it; None for the job.
        start_ns: Unix nanoseconds, within the job.
        end_ns: Not before `start_ns`, within the job.
        status: ERROR if it failed.
        error_type: With ERROR, the value of `error.type`.
        guessed: Whether its times were not in the data, or did not fit into the job.
        attributes: Values by the names of `fields.DETAIL_FIELDS`.
    """

    kind: SpanKind
    identity: tuple[str, ...]
    parent: int | None
    start_ns: int
    end_ns: int
    status: SpanStatus = SpanStatus.UNSET
    error_type: str | None = None
    guessed: bool = False
    attributes: dict[str, str | int | float | bool] = {}


def detail_rows(
    jobs: pa.Table, found: Sequence[tuple[int, Sequence[DetailSpan]]], privacy: Privacy
) -> pa.Table:
    """Return the rows of the span table for what was found, with `DETAIL_SCHEMA`.

    Args:
        jobs: Spans of jobs, with at least `JOB_COLUMNS`.
        found: Rows of `jobs`, each with the spans of one source inside of that job. The jobs of a
            build must be adjacent.
        privacy: Applied to what the sources say; `jobs` have been through it already.
    """
    spans = list(chain.from_iterable(of_job for _, of_job in found))
    of_jobs = jobs.take(pa.array([row for row, of_job in found for _ in of_job], pa.int64()))
    ids_of_jobs = zip(jobs["trace_id"].to_pylist(), jobs["span_id"].to_pylist(), strict=True)
    columns: dict[str, Any] = {name: of_jobs[name] for name in INHERITED}
    columns["span_id"], columns["parent_span_id"] = _ids(list(ids_of_jobs), found)
    columns["name"] = pa.array([str(span.kind) for span in spans], pa.string())
    columns["start"] = pa.array([span.start_ns for span in spans], pa.int64()).cast(MOMENT)
    columns["end"] = pa.array([span.end_ns for span in spans], pa.int64()).cast(MOMENT)
    columns["status"] = pa.array([str(span.status) for span in spans], pa.string())
    columns["links"] = pa.array([[] for _ in spans], LINKS)
    own = privacy.apply(_own_columns(spans))
    columns |= {name: own[name] for name in own.column_names}
    arrays = [_as(columns[field.name], field.type) for field in DETAIL_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=DETAIL_SCHEMA)


def _ids(
    jobs: Sequence[tuple[str, str]],
    found: Sequence[tuple[int, Sequence[DetailSpan]]],
) -> tuple[pa.Array, pa.Array]:
    ids: list[str] = []
    parents: list[str] = []
    for row, spans in found:
        trace_id, job_span_id = jobs[row]
        # Not the job's id, which privacy settings may have removed.
        own = [derived_span_id(one.kind, trace_id, job_span_id, *one.identity) for one in spans]
        ids += own
        parents += [job_span_id if one.parent is None else own[one.parent] for one in spans]
    return pa.array(ids, pa.string()), pa.array(parents, pa.string())


def _own_columns(spans: Sequence[DetailSpan]) -> pa.Table:
    arrays = {}
    for field in OWN_FIELDS:
        if field.name == ERROR_TYPE:
            values: list[Any] = [span.error_type for span in spans]
        elif field.name == GUESSED:
            values = [True if span.guessed else None for span in spans]
        else:
            values = [span.attributes.get(field.name) for span in spans]
        arrays[field.name] = to_array(field, values)
    return pa.table(arrays)


def _as(column: Any, type_: pa.DataType) -> Any:
    if column.type == type_:
        return column
    return (
        column.dictionary_encode().cast(type_)
        if pa.types.is_dictionary(type_)
        else column.cast(type_)
    )

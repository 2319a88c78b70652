"""Match columns of the span table with the conditions of rules. Pure.

Works on whole columns, so that a day's hundreds of thousands of spans cost little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import Globs
from bk_pipeline.units import MS_PER_S, NS_PER_MS

RUN_MS = "buildkite.build.run_ms"
QUEUE_MS = "buildkite.build.queue_ms"
WAIT_MS = "buildkite.job.wait_time_ms"
STARTED = "buildkite.job.started"


def matches_globs(column: Any, globs: Sequence[str]) -> Any:
    """Return a boolean for each value of a column of strings: whether `globs` match it."""
    texts, patterns = column.cast(pa.string()), Globs(tuple(globs))
    matching = [one for one in pc.unique(texts.drop_null()).to_pylist() if one in patterns]
    return pc.is_in(texts, value_set=pa.array(matching, pa.string()))


def meets(
    spans: pa.Table,
    kind: SpanKind,
    globs: Mapping[str, Sequence[str]],
    *,
    min_duration_s: float | None,
    min_wait_s: float | None,
) -> pa.ChunkedArray:
    """Return a boolean for each span: whether it meets all conditions.

    Args:
        spans: Spans of one kind.
        kind: The kind.
        globs: The globs by the column that they match.
        min_duration_s: The least time that it ran; None for any.
        min_wait_s: The least time that it waited for an agent; None for any.
    """
    found = pa.chunked_array([pa.array([True] * spans.num_rows, pa.bool_())])
    for column, patterns in globs.items():
        found = pc.and_(found, matches_globs(spans[column], patterns))
    if min_duration_s is not None:
        found = pc.and_(found, at_least(run_ms(spans, kind), min_duration_s))
    if min_wait_s is not None:
        found = pc.and_(found, at_least(wait_ms(spans, kind), min_wait_s))
    return found


def at_least(column: Any, seconds: float) -> Any:
    """Return a boolean for each value in ms: whether it is present and at least `seconds`."""
    return pc.fill_null(pc.greater_equal(column, seconds * MS_PER_S), False)  # noqa: FBT003  # Arrow's way


def run_ms(spans: pa.Table, kind: SpanKind) -> Any:
    """Return run times; for a build those of its stages without pauses, null if never started."""
    if kind is SpanKind.BUILD:
        return spans[RUN_MS]
    return pc.if_else(_never_started(spans), None, _length_ms(spans))


def wait_ms(spans: pa.Table, kind: SpanKind) -> Any:
    """Return waits for an agent; for a job that never got one, the whole of its span."""
    if kind is SpanKind.BUILD:
        return spans[QUEUE_MS]
    never = pc.if_else(_never_started(spans), _length_ms(spans), None)
    return pc.coalesce(spans[WAIT_MS], never)


def _never_started(spans: pa.Table) -> Any:
    return pc.equal(spans[STARTED], False)  # noqa: FBT003  # Arrow's way


def _length_ms(spans: pa.Table) -> Any:
    length = pc.subtract(spans["end"].cast(pa.int64()), spans["start"].cast(pa.int64()))
    return pc.divide(length, NS_PER_MS)

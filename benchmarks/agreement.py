"""Checks that the routes of `transform` produce the same values."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import pyarrow as pa

from benchmarks.routes.columns import COLUMNS
from bk_pipeline.spans.fields import CRITICAL_PATH
from bk_pipeline.spans.model import SpanKind

MS = pd.Timedelta(milliseconds=1)
JOB_ID = "buildkite.job.id"
# Columns that a route does not fill; its module says so.
LEFT_OUT = {"links", "bk_pipeline.time_adjusted", *CRITICAL_PATH}
COMPARED = (
    "trace_id",
    "span_id",
    "parent_span_id",
    "status",
    "buildkite.pipeline.slug",
    "buildkite.build.number",
    "buildkite.job.state",
    "buildkite.job.exit_status",
    "buildkite.job.wait_time_ms",
    "buildkite.agent.name",
    "buildkite.agent.meta_data.*",
)


def require_same(ours: pa.Table, theirs: pd.DataFrame, route: str) -> str:
    """Compare every value of every row, and return a sentence that says so.

    Raises:
        ValueError: They are not.
    """
    _require_columns(ours, theirs, route)
    mine, other = (frame.set_index("span_id") for frame in (ours.to_pandas(), theirs))
    compared = [column for column in COLUMNS if column not in CRITICAL_PATH]
    for column in compared:
        if column not in {"span_id", "links"}:
            _require_equal(mine[column], other[column], f"{route}: {column}")
    _require_equal(mine["links"].map(list), other["links"], f"{route}: links")
    return f"{route}: {len(mine):,} spans with {len(compared)} columns are the same as ours."


def require_agreement(ours: pa.Table, theirs: pd.DataFrame, route: str) -> str:
    """Return a sentence on how far the two tables agree.

    Spans are compared in builds of one stage, the only ones that the route knows; values in
    jobs that ran, whose times were not clamped, and that are not block steps (theirs have no
    length). Parents are compared where the build has one stage.

    Raises:
        ValueError: They do not do the same work.
    """
    _require_columns(ours, theirs, route)
    mine = ours.to_pandas()
    stages = mine[mine["name"] == SpanKind.STAGE]["trace_id"].value_counts()
    plain = stages[stages == 1].index
    _require_equal(
        _counts(mine, plain), _counts(theirs, plain), f"{route}: spans by build and kind"
    )
    left, right = _jobs(mine), _jobs(theirs)
    left = left[left["bk_pipeline.time_adjusted"].isna()]
    right = right.reindex(left.index)
    for column in COMPARED:
        rows = left["trace_id"].isin(plain) if column == "parent_span_id" else slice(None)
        _require_equal(left.loc[rows, column], right.loc[rows, column], f"{route}: {column}")
    _require_equal(_duration_ms(left), _duration_ms(right), f"{route}: durations")
    return (
        f"{route}: {len(plain):,} builds of one stage have the same spans, "
        f"{len(left):,} jobs the same duration and {len(COMPARED)} columns."
    )


def _require_columns(ours: pa.Table, theirs: pd.DataFrame, route: str) -> None:
    if ours.column_names != COLUMNS or list(theirs.columns) != COLUMNS:
        raise ValueError(f"{route}: other columns than ours")
    filled = [name for name in COLUMNS if ours[name].null_count < len(ours)]
    empty = {name for name in filled if theirs[name].isna().all()}
    if not LEFT_OUT.issuperset(empty):
        raise ValueError(f"{route}: has nothing in {sorted(empty - LEFT_OUT)}")


def _counts(spans: pd.DataFrame, traces: Iterable[str]) -> pd.Series[int]:
    chosen = spans[spans["trace_id"].isin(traces)]
    return chosen.astype({"trace_id": str, "name": str}).groupby(["trace_id", "name"]).size()


def _jobs(spans: pd.DataFrame) -> pd.DataFrame:
    ran = (spans["name"] == SpanKind.JOB) & (spans["buildkite.job.type"] != "manual")
    return spans[ran].set_index(JOB_ID)


def _duration_ms(spans: pd.DataFrame) -> pd.Series[int]:
    lengths: pd.Series[int] = (spans["end"] - spans["start"]) // MS  # type: ignore[operator]  # pandas-stubs know no such division
    return lengths


def _require_equal(mine: pd.Series, theirs: pd.Series, what: str) -> None:
    # As text: the other routes' integers with gaps are floats, ours are dictionaries.
    left, right = (one.map(_text).sort_index() for one in (mine, theirs))
    if not left.index.equals(right.index):
        raise ValueError(f"{what}: {len(left)} rows, and {len(right)} others")
    different = left[left != right]
    if len(different):
        at = different.index[0]
        raise ValueError(f"{what}: {len(different)} differ, first {at}: {left[at]}, {right[at]}")


def _text(value: object) -> str:
    if value is None or value is pd.NA or value != value:  # noqa: PLR0124  # NaN and NaT
        return ""
    return str(int(value)) if isinstance(value, float) else str(value)

"""Statistics and their report accept every span table that the transform can write."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bk_pipeline.analysis.frames import COLUMNS
from bk_pipeline.analysis.summary import DayStats, summarize
from bk_pipeline.defs.metadata import of_stats
from bk_pipeline.report.html import html
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import SCHEMA, table_of
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline_tests.builders import make_build, make_job
from bk_pipeline_tests.deliver.honeycomb.odd_tables import large_table
from bk_pipeline_tests.deliver.honeycomb.odd_tables import tables as odd_tables
from bk_pipeline_tests.report.made import day_of, report_of, stats_of

DAY = "2025-10-09"


def summarized(*tables) -> DayStats:
    """Return the statistics of tables, after converting them to Arrow and to a report."""
    found = summarize(DAY, [table.select(list(COLUMNS)) for table in tables])
    for table, written in found.tables().items():
        assert written.schema == table.schema
    period = day_of(DAY)
    stats = stats_of({DAY: list(tables)} if tables else {}, period)
    blocks = report_of(stats, tables)
    assert html("odd", "", blocks)
    if len(tables) == 1 and stats.total:
        assert stats.total["builds"] == found.totals["builds"]
    shown = of_stats(found, blocks)
    # What Dagster refuses, it refuses here.
    dg.AssetMaterialization("build_stats", metadata=shown)
    return found


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.lists(odd_tables(), max_size=3))
def test_odd_values_nulls_and_no_rows(tables):
    found = summarized(*tables)
    names = [name for table in tables for name in table["name"].to_pylist()]
    assert len(found.builds) == names.count("buildkite.build")


@pytest.mark.parametrize("words", [127, 128, 129, 400, 33_000])
def test_columns_with_many_distinct_values(words):
    table = large_table(3 * min(words, 700), distinct=words)
    found = summarized(table)
    assert len(found.pipelines) > 100
    assert found.pipelines["builds"].sum() == table["name"].to_pylist().count("buildkite.build")


@pytest.mark.parametrize("steps", [126, 127, 128, 33_000])
def test_many_steps_none_of_which_is_flaky(steps):
    """Two indexes of very different numbers of steps are aligned."""
    jobs = [make_job(f"step {number}") for number in range(steps)]
    payload = msgspec.json.encode(make_build(jobs))
    found = summarized(table_of([spans_for_build(decode_build(payload))]))
    assert len(found.steps) == steps
    assert not found.steps["flaky_commits"].any()


def test_a_table_without_rows():
    assert summarized(SCHEMA.empty_table()).builds.empty


def test_spans_that_last_for_years():
    table = large_table(40, distinct=5)
    for length in (timedelta(days=1_200), timedelta(days=30_000)):
        ends = [start + length for start in table["start"].to_pylist()]
        at = table.schema.get_field_index("end")
        field = table.schema.field(at)
        longer = table.set_column(at, field, pa.array(ends, field.type))
        found = summarized(longer)
        assert found.steps["duration_p50_s"].dropna().eq(length.total_seconds()).all()

"""Rows of the span table for what was found inside of jobs: ids, parents, columns, privacy."""

from __future__ import annotations

import pytest

from bk_pipeline.sources.model import JOB_COLUMNS, DetailSpan, detail_rows
from bk_pipeline.spans.fields import FIELDS, INSIDE
from bk_pipeline.spans.ids import derived_span_id
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import DETAIL_SCHEMA
from bk_pipeline_tests.worlds import span_table

NAME, MESSAGE = "buildkite.job.section.name", "bk_pipeline.failure.message"


@pytest.fixture(scope="module")
def jobs():
    table = span_table(seed=1, builds=3)
    kinds = table["name"].to_pylist()
    return table.take([at for at, kind in enumerate(kinds) if kind == SpanKind.JOB])


def section(index, *, parent=None, kind=SpanKind.SECTION, **attributes):
    return DetailSpan(
        kind, (str(index),), parent, 1_000 + index, 2_000 + index,
        attributes={NAME: f"section {index}", "buildkite.job.section.index": index, **attributes},
    )  # fmt: skip


def test_ids_follow_from_the_job_and_parents_from_the_list(jobs):
    found = [section(0), section(1, parent=0, kind=SpanKind.COMMAND), section(2)]
    rows = detail_rows(jobs.select(JOB_COLUMNS), [(1, found)], Privacy()).to_pylist()
    job = jobs.slice(1, 1).to_pylist()[0]
    ids = [
        derived_span_id(one.kind, job["trace_id"], job["span_id"], *one.identity) for one in found
    ]
    assert [row["span_id"] for row in rows] == ids
    assert [row["parent_span_id"] for row in rows] == [job["span_id"], ids[0], job["span_id"]]
    assert [row["name"] for row in rows] == [str(one.kind) for one in found]
    assert {row["trace_id"] for row in rows} == {job["trace_id"]}


def test_same_section_of_two_jobs_has_two_ids(jobs):
    table = detail_rows(jobs, [(0, [section(0)]), (1, [section(0)])], Privacy())
    assert len(set(table["span_id"].to_pylist())) == 2


def test_rows_have_what_all_spans_of_the_job_have(jobs):
    table = detail_rows(jobs, [(2, [section(0)])], Privacy())
    assert table.schema == DETAIL_SCHEMA
    [row], job = table.to_pylist(), jobs.slice(2, 1).to_pylist()[0]
    inherited = [one.name for one in FIELDS if one.kinds > INSIDE and one.name != "error.type"]
    assert {name: row[name] for name in inherited} == {name: job[name] for name in inherited}
    assert None not in {
        row[name] for name in ("buildkite.job.id", "buildkite.pipeline.slug", "vcs.repository.name")
    }


def test_own_columns_are_those_of_the_source(jobs):
    failed = DetailSpan(
        SpanKind.CASE, ("a",), None, 5, 6, SpanStatus.ERROR, "failed", guessed=True,
        attributes={"test.case.name": "adds", "bk_pipeline.test.result": "failed"},
    )  # fmt: skip
    [first, second] = detail_rows(jobs, [(0, [failed, section(4)])], Privacy()).to_pylist()
    assert (first["status"], first["error.type"]) == ("error", "failed")
    assert (first["test.case.name"], first["bk_pipeline.time_guessed"]) == ("adds", True)
    assert (second["status"], second["error.type"], second["bk_pipeline.time_guessed"]) == (
        "unset",
        None,
        None,
    )
    assert second["buildkite.job.section.index"] == 4
    assert second["test.case.name"] is None
    assert second["links"] == []


def test_privacy_applies_to_what_a_source_says(jobs):
    token = "bkua_" + "0123456789abcdef" * 2 + "01234567"
    spans = [section(0, **{MESSAGE: f"refused {token}"}), section(1, **{MESSAGE: "customer 4711"})]
    masked = detail_rows(jobs, [(0, spans)], Privacy(mask=r"customer \d+"))
    assert masked[MESSAGE].to_pylist() == ["refused [masked]", "[masked]"]
    dropped = detail_rows(
        jobs, [(0, spans)], Privacy(drop=("buildkite.job.section.*",), hash=(MESSAGE,))
    )
    assert dropped[NAME].to_pylist() == [None, None]
    assert dropped["buildkite.job.section.index"].to_pylist() == [None, None]
    assert all(len(one) == 16 for one in dropped[MESSAGE].to_pylist())


def test_what_privacy_removed_from_the_job_is_not_hashed_again(jobs):
    hashing = Privacy(hash=("buildkite.build.branch", "buildkite.job.label"))
    hidden = hashing.apply(jobs)
    [row] = detail_rows(hidden, [(0, [section(0)])], hashing).to_pylist()
    assert row["buildkite.build.branch"] == hidden["buildkite.build.branch"][0].as_py()
    assert row["buildkite.job.label"] == hidden["buildkite.job.label"][0].as_py()


def test_nothing_found_is_an_empty_table(jobs):
    table = detail_rows(jobs, [], Privacy())
    assert (table.schema, len(table)) == (DETAIL_SCHEMA, 0)

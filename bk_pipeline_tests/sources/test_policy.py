"""The policy of job details: which jobs are read, by which rule, and errors in the file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bk_pipeline.errors import ConfigError
from bk_pipeline.sources.policy import (
    COLUMNS,
    PROFILES,
    TESTS,
    Policy,
    Rule,
    choose,
    load_policy,
    require_visible,
)
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline_tests.worlds import span_table


@pytest.fixture(scope="module")
def spans():
    return span_table(seed=3, builds=120).select(COLUMNS)


def policy(tmp_path, text):
    path = tmp_path / "job-details.toml"
    path.write_text(text)
    return load_policy(path)


def chosen(policy, spans, usual=None):
    """Return the rows of the chosen jobs by the id of their rule, in the order of reading."""
    rows = spans.to_pylist()
    found = {}
    for one in choose(policy, spans, usual or {}):
        found.setdefault(policy.rule[one.rule].id, []).append(rows[one.row])
    return found


def rule(id_="one", **values):
    return f'[[rule]]\nid = "{id_}"\n' + "".join(f"{k} = {v}\n" for k, v in values.items())


def ran(spans):
    return [
        row
        for row in spans.to_pylist()
        if row["name"] == "buildkite.job"
        and row["buildkite.job.type"] == "script"
        and row["buildkite.job.started"]
    ]


def test_rule_without_conditions_chooses_every_job_that_ran(tmp_path, spans):
    found = chosen(policy(tmp_path, rule()), spans)
    assert found == {"one": ran(spans)}
    assert len(found["one"]) > 300


def test_failed_includes_soft_failures_and_its_opposite_has_the_rest(tmp_path, spans):
    failed = chosen(policy(tmp_path, rule(failed="true")), spans)["one"]
    passed = chosen(policy(tmp_path, rule(failed="false")), spans)["one"]
    assert {row["status"] for row in failed if not row["buildkite.job.soft_failed"]} == {"error"}
    assert any(row["buildkite.job.soft_failed"] for row in failed)
    assert all(
        row["buildkite.job.exit_status"] in {0, None} for row in passed if row["status"] == "ok"
    )
    assert len(failed) + len(passed) == len(ran(spans))


@pytest.mark.parametrize(
    ("name", "column"),
    [("retried", "buildkite.job.retried"), ("critical_path", "bk_pipeline.critical_path")],
)
def test_flags_are_columns_of_the_span(tmp_path, spans, name, column):
    found = chosen(policy(tmp_path, rule(**{name: "true"})), spans)["one"]
    assert found == [row for row in ran(spans) if row[column]]
    assert found


def test_conditions_hold_together(tmp_path, spans):
    some = ran(spans)[0]
    text = rule(pipeline=f'"{some["buildkite.pipeline.slug"]}"', min_duration_s="60.0")
    for row in chosen(policy(tmp_path, text), spans)["one"]:
        assert row["buildkite.pipeline.slug"] == some["buildkite.pipeline.slug"]
        assert (row["end"] - row["start"]).total_seconds() >= 60


def test_slow_jobs_are_those_beyond_what_is_usual_for_their_step(tmp_path, spans):
    jobs = [row for row in ran(spans) if row["buildkite.step.key"]]
    key = (jobs[0]["buildkite.pipeline.slug"], jobs[0]["buildkite.step.key"])
    same = [r for r in jobs if (r["buildkite.pipeline.slug"], r["buildkite.step.key"]) == key]
    lengths = sorted((row["end"] - row["start"]).total_seconds() for row in same)
    limit = lengths[len(lengths) // 2]
    slow = chosen(policy(tmp_path, rule(slow="true")), spans, {key: limit})["one"]
    assert len(slow) == sum(one > limit for one in lengths) > 0
    assert {(row["buildkite.pipeline.slug"], row["buildkite.step.key"]) for row in slow} == {key}
    assert chosen(policy(tmp_path, rule(slow="true")), spans) == {}  # nothing is known to be usual


def test_step_without_key_is_known_by_its_label(tmp_path, spans):
    rows = [row for row in ran(spans) if not row["buildkite.step.key"]]
    assert rows, "the world has steps without keys"
    row = rows[0]
    usual = {(row["buildkite.pipeline.slug"], row["buildkite.step.label"]): 0.0}
    assert row in chosen(policy(tmp_path, rule(slow="true")), spans, usual)["one"]


def test_share_is_a_share_and_the_same_each_time(tmp_path, spans):
    tenth = policy(tmp_path, rule(one_in=10))
    found = chosen(tenth, spans)["one"]
    assert 0.05 * len(ran(spans)) < len(found) < 0.16 * len(ran(spans))
    assert found == chosen(tenth, spans)["one"]
    half = chosen(policy(tmp_path, rule(one_in=2)), spans)["one"]
    assert [row for row in found if row not in half] == []  # a larger share has the smaller one's


def test_first_matching_rule_decides_and_comes_first(tmp_path, spans):
    text = (
        rule("path", critical_path="true") + rule("failed", failed="true") + rule("rest", one_in=3)
    )
    found = chosen(policy(tmp_path, text), spans)
    assert list(found) == ["path", "failed", "rest"]
    assert not any(row["bk_pipeline.critical_path"] for row in found["failed"] + found["rest"])
    assert all(
        row["status"] == "error" or row["buildkite.job.soft_failed"] for row in found["failed"]
    )


def test_skipped_jobs_are_not_read(tmp_path, spans):
    text = rule("not-these", skip="true", failed="true") + rule("others")
    found = chosen(policy(tmp_path, text), spans)
    assert list(found) == ["others"]
    assert not any(row["status"] == "error" for row in found["others"])


def test_table_without_rows_gives_none(tmp_path, spans):
    assert (
        chosen(policy(tmp_path, rule(slow="true", one_in=2, failed="true")), spans.slice(0, 0))
        == {}
    )


def test_null_columns_match_no_glob(tmp_path, spans):
    nulls = pa.nulls(len(spans), pa.string())
    at = spans.schema.get_field_index("buildkite.pipeline.slug")
    hidden = spans.set_column(at, "buildkite.pipeline.slug", nulls)
    assert chosen(policy(tmp_path, rule(pipeline='"*"')), hidden) == {}
    assert pc.count(hidden["buildkite.pipeline.slug"]).as_py() == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "without a [[rule]] no job would be read"),
        (rule(read='["logs"]'), 'expected a list of "log", "tests", "test_engine" and "profiles"'),
        (rule(read="[]"), 'expected a list of "log", "tests", "test_engine" and "profiles"'),
        (rule(failed='"yes"'), "expected true or false"),
        (rule(one_in=0), "greater than or equal to 1"),
        (rule(one_in="1.5"), "valid integer"),
        (rule(cases='"some"'), "'failed', 'slow', 'all' or 'none'"),
        (rule(min_event_ms="nan"), "finite number"),
        (rule(faild="true"), "did you mean failed?"),
        ("share = 1.5\n" + rule(), "less than or equal to 1"),
        ("share = 0\n" + rule(), "greater than 0"),
        ("mib_per_day = 0\n" + rule(), "greater than or equal to 1"),
        ("minutes_per_run = -1\n" + rule(), "greater than 0"),
        ("tests = []\n" + rule(), "expected a text, or a list of texts"),
        (rule() + rule(), 'has the same id "one"'),
        (rule("a", read='["log"]') + rule("b", read='["tests"]'), 'rule "a" has the same conditions'),
    ],
)  # fmt: skip
def test_errors_in_the_file_are_told(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        policy(tmp_path, text)
    assert message in str(error.value)


@pytest.mark.parametrize("hide", ["drop", "hash"])
@pytest.mark.parametrize(
    "name",
    ["buildkite.job.id", "buildkite.build.id", "buildkite.build.number", "buildkite.pipeline.*"],
)
def test_what_requests_need_must_not_be_hidden(hide, name):
    with pytest.raises(ConfigError, match="BK_PIPELINE_JOB_DETAILS"):
        require_visible(Privacy(**{hide: (name,)}))
    require_visible(Privacy(**{hide: ("buildkite.job.label",)}))


def test_page_names_every_key_and_default():
    page = (Path(__file__).parents[2] / "docs" / "inside-jobs.md").read_text()
    for name in (*Policy.model_fields, *Rule.model_fields):
        assert f"`{name}`" in page or name == "rule"
    for glob in (*TESTS, *PROFILES):
        assert f"`{glob}`" in page
    load_policy(Path(__file__).parents[2] / "examples" / "job-details.toml")

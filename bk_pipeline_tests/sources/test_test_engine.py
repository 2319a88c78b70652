"""Tests of a build as Test Engine lists them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.sources.results import CasePolicy
from bk_pipeline.sources.test_engine import tests_from_engine as read_tests
from bk_pipeline_tests.sources.artifact_goldens import ALL_CASES, JOB, SECOND_NS
from bk_pipeline_tests.sources.found import check, unhurried

URL = "https://api.buildkite.com/v2/analytics/organizations/acme/suites/{}/tests/{}"


def record(number, suite="rspec", **fields):
    return {
        "id": f"id-{number}",
        "url": URL.format(suite, f"id-{number}"),
        "web_url": "https://buildkite.com/organizations/acme/analytics/suites/x/tests/y",
        "scope": "User#email",
        "name": f"works {number}",
        "location": "./spec/user_spec.rb:42",
        "file_name": "./spec/user_spec.rb",
        "labels": ["flaky"],
        "reliability": 0.98,
        "duration_avg": 0.25,
        "duration_sum": 23.856,
        "executions_count": 3,
        "executions_count_by_result": {"passed": 1, "failed": 0},
    } | fields


def test_record_of_the_documentation():
    tests = read_tests(
        [record(1, executions_count_by_result={"passed": 110, "failed": 2, "skipped": 1})],
        JOB,
        cases=ALL_CASES,
    )
    suite, case = tests.spans
    assert suite.attributes["test.suite.name"] == "rspec"
    assert "bk_pipeline.artifact.path" not in suite.attributes
    assert case.attributes == {
        "test.case.name": "works 1",
        "test.suite.name": "rspec",
        "bk_pipeline.test.class": "User#email",
        "bk_pipeline.test.file": "./spec/user_spec.rb",
        "bk_pipeline.test.result": "passed",
        "bk_pipeline.test.failed_before": 2,
        "test.case.result.status": "pass",
    }
    assert (case.end_ns - case.start_ns, case.guessed) == (SECOND_NS // 4, True)
    assert (tests.results[0].failed_before, tests.results[0].duration_ns) == (2, SECOND_NS // 4)


def test_result_follows_the_executions():
    counts = [
        {"passed": 0, "failed": 2},
        {"passed": 0, "failed": 0, "skipped": 1},
        {"passed": 3, "failed": 0},
        {},
    ]
    tests = read_tests(
        [record(number, executions_count_by_result=one) for number, one in enumerate(counts)],
        JOB,
        cases=ALL_CASES,
    )
    assert [one.result for one in tests.results] == ["failed", "skipped", "passed", "passed"]
    assert [one.failed_before for one in tests.results] == [1, 0, 0, 0]


def test_pages_that_moved_and_their_order_do_not_matter():
    records = [record(2, "jest"), record(1), record(3), record(1, name="again")]
    tests = read_tests(records, JOB, cases=ALL_CASES)
    assert tests == read_tests([*records[:3], records[1]][::-1], JOB, cases=ALL_CASES)
    assert tests.suites == 2
    assert [one.name for one in tests.results] == ["works 2", "works 1", "works 3"]


def test_unknown_shapes_are_skipped():
    odd = [
        None,
        3,
        "x",
        [],
        {},
        {"name": 7},
        {"id": "only"},
        {"name": "bare", "duration_avg": float("nan")},
    ]
    odd += [
        record(9, url=None, web_url=4, scope=[], duration_avg=-1, executions_count_by_result=[1])
    ]
    odd += [
        record(
            8,
            duration_avg=True,
            executions_count_by_result={"failed": "2", "passed": 1e9, "skipped": -1},
        )
    ]
    tests = read_tests(odd, JOB, cases=ALL_CASES)
    check(tests.spans, JOB)
    assert sorted(one.name for one in tests.results) == ["bare", "only", "works 8", "works 9"]
    assert {one.duration_ns for one in tests.results} == {None}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


@unhurried
@given(
    records=st.lists(
        VALUES | st.fixed_dictionaries({}, optional=dict.fromkeys(record(1), VALUES)), max_size=6
    ),
    most=st.integers(0, 5),
)
def test_any_records_give_spans_that_hold_together(records, most):
    policy = CasePolicy(which="all", max_spans=most)
    tests = read_tests(records, JOB, cases=policy)
    check(tests.spans, JOB)
    assert len(tests.spans) <= most

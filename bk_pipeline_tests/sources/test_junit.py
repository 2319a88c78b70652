"""Reading JUnit XML: times, identities, results, and what is refused."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.sources import streams
from bk_pipeline.sources.junit import read_junit
from bk_pipeline.sources.model import JobTimes
from bk_pipeline.sources.results import CasePolicy
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline_tests.sources.artifact_goldens import ALL_CASES, JOB, NOON_NS, SECOND_NS, samples
from bk_pipeline_tests.sources.found import check, cuts, split, unhurried

PIECE = 1 << 16


def read(content, policy=ALL_CASES, job=JOB):
    content = content.encode() if isinstance(content, str) else content
    tests = read_junit([content], job, path="report.xml", cases=policy)
    check(tests.spans, job)
    return tests


def suite_of(cases, attributes=""):
    return f"<testsuite name='s' {attributes}>{cases}</testsuite>"


GOOD = suite_of("<testcase name='c'/>")


def start_s(span):
    return (span.start_ns - JOB.start_ns) / SECOND_NS


def length_s(span):
    return (span.end_ns - span.start_ns) / SECOND_NS


# Times


@pytest.mark.parametrize(
    ("timestamp", "seconds", "guessed"),
    [
        ("2026-11-20T12:01:00", 60, False),
        ("2026-11-20T12:01:00.123456789", 60.123456789, False),
        ("2026-11-20T12:01:00.1234567Z", 60.1234567, False),
        ("2026-11-20T12:01:00,5Z", 60.5, False),
        ("2026-11-20 12:01:00 UTC", 60, False),
        ("2026-11-20T13:01:00+01:00", 60, False),
        ("2026-11-20T13:01:00+0100", 60, False),
        ("2026-11-20T08:31:00-03:30", 60, False),
        ("Fri Nov 20 2026 13:01:00 GMT+0100 (CET)", 60, False),
        ("Fri Nov 20 12:01:00 UTC 2026", 60, False),
        ("Fri, 20 Nov 2026 12:01:00 GMT", 50, False),  # the end, by Mocha
        ("1795176060", 60, False),
        ("1795176060500", 60.5, False),
        ("1795176060.25", 60.25, False),
        # local times: a zone in which they fit is taken
        ("2026-11-20T14:01:00", 60, True),
        ("2026-11-20T17:31:00", 60, True),
        ("2026-11-20T00:01:00", 60, True),
        # of another day, of no zone, no time at all
        ("2026-11-19T11:01:00", 0, True),
        ("2026-11-20T14:01:00Z", 0, True),
        ("2026-11-20T12:44:00", 0, True),
        ("2026-02-31T12:01:00Z", 0, True),
        ("2026-11-20", 0, True),
        ("99999999-11-20T12:01:00Z", 0, True),
        ("\u0661\u0662", 0, True),
        ("", 0, True),
    ],
)
def test_timestamp_of_a_suite(timestamp, seconds, guessed):
    suite, case = read(
        suite_of("<testcase name='c' time='2'/>", f"timestamp='{timestamp}' time='10'")
    ).spans
    assert (start_s(suite), length_s(suite), suite.guessed) == (pytest.approx(seconds), 10, guessed)
    assert (start_s(case), length_s(case), case.guessed) == (pytest.approx(seconds), 2, True)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("1.5", 1.5), ("0,25", 0.25), ("1,034.5", 1034.5), ("1.034,5", 1034.5), ("1,234", 1234),
        ("1,234,567", 1234567), ("1.2e-3", 0.0012), (".5", 0.5), ("5.", 5), (" 3 s", 3), ("0", 0),
        ("", None), ("NaN", None), ("inf", None), ("-1", None), ("1e99", None), ("1_000", None),
        ("abc", None), ("1,2,3", None), ("9" * 60, None),
    ],
)  # fmt: skip
def test_time_of_a_case(time, seconds):
    long = JobTimes("j", NOON_NS, NOON_NS + 2_000_000 * SECOND_NS)
    tests = read(suite_of(f"<testcase name='c' time='{time}'/>"), job=long)
    duration_ns = tests.results[0].duration_ns
    assert duration_ns == (None if seconds is None else pytest.approx(seconds * SECOND_NS))
    assert tests.spans[1].end_ns - tests.spans[1].start_ns == (duration_ns or 0)
    assert tests.spans[1].guessed


def test_comma_is_a_decimal_point_if_the_job_was_too_short_for_thousands():
    assert (
        read(suite_of("<testcase name='c' time='1,234'/>")).results[0].duration_ns == 1_234_000_000
    )


def test_case_longer_than_the_job_is_truncated_and_marked():
    suite, case = read(
        suite_of("<testcase name='c' time='900'/>", "timestamp='2026-11-20T12:00:00Z' time='900'")
    ).spans
    assert (suite.start_ns, suite.end_ns, suite.guessed) == (JOB.start_ns, JOB.end_ns, True)
    assert (case.start_ns, case.end_ns, case.guessed) == (JOB.start_ns, JOB.end_ns, True)


def test_clock_that_is_seconds_off_keeps_lengths():
    early = suite_of("<testcase name='c' time='2'/>", "timestamp='2026-11-20T11:59:57Z' time='4'")
    late = suite_of("<testcase name='c' time='2'/>", "timestamp='2026-11-20T12:04:58Z' time='4'")
    (suite, _), (other, _) = read(early).spans, read(late).spans
    assert (start_s(suite), length_s(suite), suite.guessed) == (0, 4, True)
    assert (start_s(other), length_s(other), other.guessed) == (296, 4, True)


def test_suites_without_times_are_laid_end_to_end():
    suites = "".join(
        suite_of("<testcase name='a' time='1'/><testcase name='b' time='2'/>") for _ in range(3)
    )
    spans = read(f"<testsuites>{suites}</testsuites>").spans
    assert [(start_s(one), length_s(one)) for one in spans if one.kind == SpanKind.SUITE] == [
        (0, 3),
        (3, 3),
        (6, 3),
    ]
    assert [start_s(one) for one in spans if one.kind == SpanKind.CASE] == [0, 1, 3, 4, 6, 7]
    assert all(one.guessed for one in spans)


def test_more_tests_than_fit_one_after_another_overlap_with_their_lengths():
    cases = "".join(f"<testcase name='{number}' time='40'/>" for number in range(20))
    spans = read(suite_of(cases, "timestamp='2026-11-20T12:01:00Z' time='100'")).spans
    assert [start_s(one) for one in spans[1:5]] == [60, 100, 60, 100]
    assert {length_s(one) for one in spans[1:]} == {40}
    assert (start_s(spans[0]), length_s(spans[0]), spans[0].guessed) == (60, 100, False)


def test_times_of_cases_give_those_of_their_suite():
    cases = (
        "<testcase name='a' time='1' timestamp='2026-11-20T12:00:20Z'/>"
        "<testcase name='b' time='5' timestamp='2026-11-20T12:00:10Z'/>"
    )
    suite, *_ = spans = read(suite_of(cases)).spans
    assert (start_s(suite), length_s(suite)) == (10, 11)
    assert not any(one.guessed for one in spans)


def test_job_without_a_length():
    job = JobTimes("j", NOON_NS, NOON_NS)
    spans = read(suite_of("<testcase name='c' time='3'/>" * 3), job=job).spans
    assert len(spans) == 4
    assert all(one.guessed for one in spans)


# Results


def test_retries_and_parametrized_cases_of_the_same_name_are_distinct():
    tests = read(
        suite_of("<testcase name='c' classname='k'/>" * 3 + "<testcase name='d' classname='k'/>")
    )
    assert len({span.identity for span in tests.spans}) == 5
    assert [result.name for result in tests.results] == ["c", "c", "c", "d"]


def test_identities_do_not_depend_on_the_policy():
    report = suite_of("<testcase name='a'/><testcase name='b'><failure/></testcase>" * 3)
    every = {span.identity for span in read(report).spans}
    failed = read(report, CasePolicy(which="failed")).spans
    assert len(failed) == 4
    assert {span.identity for span in failed} < every


@pytest.mark.parametrize(
    ("content", "result", "failed_before"),
    [
        ("", "passed", 0),
        ("<skipped/>", "skipped", 0),
        ("<disabled/>", "skipped", 0),
        ("<failure/>", "failed", 0),
        ("<failure/><error/>", "error", 0),
        ("<error/><failure/>", "error", 0),
        ("<skipped/><failure/>", "failed", 0),
        ("<flakyFailure/><flakyError/>", "passed", 2),
        ("<failure/><rerunFailure/>", "failed", 1),
        ("<system-out><failure/></system-out>", "passed", 0),
        ("<properties><property name='error'/></properties>", "passed", 0),
        ("<x:failure xmlns:x='urn:x'/>", "failed", 0),
    ],
)
def test_result_of_a_case(content, result, failed_before):
    tests = read(suite_of(f"<testcase name='c'>{content}</testcase>"))
    found = tests.results[0]
    assert (found.result, found.failed_before) == (result, failed_before)
    assert tests.cases[result] == 1
    suite, case = tests.spans
    failed = result in {"failed", "error"}
    assert (case.status is SpanStatus.ERROR) == failed
    assert (suite.status is SpanStatus.ERROR) == failed
    assert case.attributes.get("test.case.result.status") == {
        "passed": "pass",
        "skipped": None,
    }.get(result, "fail")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ('<failure message="a &#10; b">trace</failure>', "a b"),
        (
            "<failure message='Failed'><![CDATA[=== RUN x\n\n  x.go:3: broken\n]]></failure>",
            "x.go:3: broken",
        ),
        ("<failure>Error: one\n  at two</failure>", "Error: one"),
        ("<failure type='Timeout'/>", "Timeout"),
        ("<failure/>", "failed: c"),
        ("<failure message='Failed' type=''>--- FAIL: c (0.00s)\n</failure>", "Failed: c"),
        ("<error message='exited with error code 1'></error>", "exited with error code 1: c"),
        ("<failure message='AssertionError: #x1B[31mred#x1B[0m'/>", "AssertionError: red"),
        ("<failure message='\x1b[31mred\x1b[0m'/>", "red"),
        ("<failure message='&#27;[1;31mred&#x1b;[0m &#0; end'/>", "red � end"),
        ("<failure message='token=ghp_abcdefghijABCDEFGHIJ0123456789abcdef'/>", "token=[masked]"),
        ("<failure><b>in</b>ner</failure>", "inner"),
        (
            "<failure message='login with password: hunter2hunter2'/>",
            "login with password: [masked]",
        ),
        ("<flakyFailure message='first'/><failure message='second'/>", "first"),
        (f"<failure message='{'x' * 3000}'/>", "x" * 999 + "…"),
    ],
)
def test_failure_message(failure, message):
    attributes = read(suite_of(f"<testcase name='c'>{failure}</testcase>")).spans[1].attributes
    assert attributes["bk_pipeline.failure.message"] == message
    assert len(attributes["bk_pipeline.failure.signature"]) == 16


def test_names_are_masked_and_truncated():
    secret = "ghp_abcdefghijABCDEFGHIJ0123456789abcdef"
    report = suite_of(f"<testcase name='has[{secret}]' classname='{secret}' file='{secret}.py'/>")
    tests = read(report.replace("'s'", f"'{secret}\n\t{'y' * 900}'"))
    shown = f"{tests.spans} {tests.results}"
    assert secret not in shown
    assert tests.results[0].name == "has[[masked]]"
    assert len(tests.results[0].suite) <= 501


# Which cases become spans


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        (CasePolicy(which="none", max_results=9), []),
        (CasePolicy(which="failed", max_results=9), ["bad", "flaky"]),
        (CasePolicy(which="slow", slow_s=5, max_results=9), ["bad", "slow", "flaky"]),
        (CasePolicy(which="all", max_results=9), ["good", "bad", "slow", "flaky"]),
    ],
)
def test_policy_chooses_cases(policy, names):
    tests = read(
        suite_of(
            "<testcase name='good' time='1'/><testcase name='bad' time='1'><failure/></testcase>"
            "<testcase name='slow' time='6'/><testcase name='flaky'><flakyFailure/></testcase>"
        ),
        policy,
    )
    assert [one.attributes.get("test.case.name") for one in tests.spans[1:]] == names
    assert len(tests.results) == 4
    assert tests.spans_left_out == 0


def test_failed_cases_take_precedence_if_there_are_too_many():
    report = suite_of(
        "<testcase name='good'/>" * 10 + "<testcase name='bad'><failure/></testcase>" * 3
    )
    tests = read(report, CasePolicy(which="all", max_spans=6, max_results=12))
    assert [one.attributes.get("test.case.name") for one in tests.spans] == [
        None,
        "good",
        "good",
        "bad",
        "bad",
        "bad",
    ]
    assert (tests.spans_left_out, tests.results_left_out) == (8, 1)
    assert sum(tests.cases.values()) == 13


def test_no_text_leaves_if_it_may_not():
    marked = "hidden"
    report = (
        f"<testsuite name='{marked}' file='{marked}'><testcase name='{marked}' classname='{marked}'>"
        f"<failure message='{marked}' type='{marked}'>{marked}</failure></testcase></testsuite>"
    )
    tests = read_junit([report.encode()], JOB, path="a.xml", cases=ALL_CASES, text=False)
    assert marked not in str(tests)
    suite, case = tests.spans
    assert suite.attributes["bk_pipeline.test.failures"] == 1
    assert case.attributes == {
        "bk_pipeline.test.result": "failed",
        "test.case.result.status": "fail",
    }
    assert tests.results_left_out == 1


def test_results_take_no_memory_if_they_are_not_asked_for():
    tests = read(GOOD, CasePolicy())
    assert (tests.results, tests.results_left_out, tests.cases) == ([], 1, {"passed": 1})


def test_two_artifacts_of_the_same_path_have_different_spans():
    one, two = (
        read_junit([GOOD.encode()], JOB, path="a.xml", cases=ALL_CASES, artifact_id=artifact)
        for artifact in ("id-1", "id-2")
    )
    assert {span.identity for span in one.spans}.isdisjoint(span.identity for span in two.spans)
    assert one.spans[0].attributes["bk_pipeline.artifact.path"] == "a.xml"


def test_too_many_suites_are_counted_with_their_cases():
    report = f"<testsuites>{suite_of(GOOD) * 5}</testsuites>"
    tests = read(report, CasePolicy(which="all", max_spans=4))
    assert len(tests.spans) == 4
    assert (tests.suites, tests.cases["passed"], tests.spans_left_out) == (10, 5, 11)


# What cannot be read


BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<testsuite name='&b;'><testcase name='c'/></testsuite>"
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no element found"),
        (b"   \n", "no element found"),
        (b"{}", "not well-formed"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not well-formed"),
        (b"PK\x03\x04" + bytes(200), "not well-formed"),
        (b"\xff\xfe\xff\xfe", "not well-formed"),
        (b"<html><body/></html>", "its root is html"),
        (b"<testcase name='c'/>", "its root is testcase"),
        (b"<a" + b"b" * 100 + b"/>", "its root is another element"),
        (BOMB.encode(), "DOCTYPE"),
        (BOMB.encode("utf-16"), "DOCTYPE"),
        (b'<!DOCTYPE t SYSTEM "file:///etc/passwd"><testsuite/>', "DOCTYPE"),
        (b'<!DOCTYPE t PUBLIC "-//x" "http://127.0.0.1:9/x.dtd"><testsuite/>', "DOCTYPE"),
        (b"<testsuite name='&external;'/>", "undefined entity"),
        (b"<testsuite name='a' name='b'/>", "duplicate attribute"),
        (b"\x1f\x8bnot gzip", "its gzip is damaged"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-9], "its gzip ends early"),
    ],
)  # fmt: skip
def test_file_that_is_refused(content, problem):
    tests = read(content)
    assert tests.problem
    assert problem in tests.problem
    assert sum(tests.cases.values()) == (problem == "its gzip ends early")


def test_what_comes_before_a_problem_counts():
    report = (
        f"<testsuites>{GOOD}<testsuite name='s'><testcase name='a'/><testcase name='b'><failure"
    )
    tests = read(report)
    assert "no element found" in tests.problem or "unclosed token" in tests.problem
    assert [result.name for result in tests.results] == ["c", "a"]
    first, _, cut, *_ = tests.spans
    assert first.attributes["test.suite.run.status"] == "success"
    assert "test.suite.run.status" not in cut.attributes


def test_nesting_is_bounded():
    tests = read("<testsuite name='s'>" * 100_000)
    assert tests.problem == "its elements are nested more than 100 deep"
    assert len(tests.spans) == 100
    deep = f"<testcase name='c'>{'<a>' * 5_000}"
    assert "nested" in read(suite_of(deep)).problem


@pytest.mark.parametrize(
    "start", ["<testsuite name='", "<testsuite ", "<testsuite><!--", "<?pi ", "<!DOCTYPE t "]
)
def test_memory_and_time_of_an_endless_tag_are_bounded(start):
    chunks = (start.encode() if number == 0 else b"a='b' " * 10_000 for number in range(1_000))
    tracemalloc.start()
    try:
        began = time.process_time()
        tests = read_junit(chunks, JOB, path="a.xml", cases=ALL_CASES)
        seconds = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tests.problem
    assert peak < 40 << 20
    assert seconds < 20


def test_memory_does_not_grow_with_output_of_tests():
    def chunks():
        yield b"<testsuite name='s'><testcase name='c'><failure message='m'>"
        for _ in range(100):
            yield b"line of a trace \xff\xfe \x00 &#27;\n" * 3_000
        yield b"</failure><system-out><![CDATA["
        for _ in range(60):
            yield b"<failure> of no case ]] \n" * 3_000
        yield b"]]></system-out></testcase></testsuite>"

    tracemalloc.start()
    try:
        tests = read_junit(chunks(), JOB, path="a.xml", cases=ALL_CASES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tests.problem, tests.cases["failed"]) == (None, 1)
    assert peak < 4 << 20


def test_packed_file_is_unpacked_in_bounded_memory(monkeypatch):
    packed = gzip.compress(b" " * (12 << 20) + GOOD.encode())
    assert len(packed) < 100_000
    tracemalloc.start()
    try:
        tests = read_junit([packed], JOB, path="a.xml.gz", cases=ALL_CASES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tests.problem, tests.cases["passed"]) == (None, 1)
    assert peak < 4 << 20
    monkeypatch.setattr("bk_pipeline.sources.junit.LIMIT_BYTES", 10 << 20)
    assert read(packed).problem == "it has more than 10,485,760 bytes"


def test_packed_file_of_several_members():
    half = len(GOOD) // 2
    parts = [gzip.compress(GOOD[:half].encode()), gzip.compress(GOOD[half:].encode()), b"\0" * 9]
    assert read(b"".join(parts)).cases["passed"] == 1


@pytest.mark.parametrize(
    "encoding",
    [
        "utf-8",
        "utf-8-sig",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "iso-8859-1",
        "windows-1252",
        "koi8-r",
        "shift_jis",
        "gb18030",
    ],
)
def test_encodings(encoding):
    name = {"koi8-r": "тест", "shift_jis": "試験", "gb18030": "测试"}.get(encoding, "prüft")
    declared = encoding.removesuffix("-sig").removesuffix("-le").removesuffix("-be")
    report = f"<?xml version='1.0' encoding='{declared}'?>{suite_of(f'<testcase name={quoteattr(name)}/>')}"
    tests = read(report.encode(encoding))
    assert (tests.problem, tests.results[0].name) == (None, name)


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-16", "rot13", "unicode_escape", "idna", "no-such", "UTF-7"],
)
def test_wrong_and_odd_declarations_of_encodings(encoding):
    report = f"<?xml version='1.0' encoding='{encoding}'?>".encode() + suite_of(
        "<testcase name='pr\xfcft'/>"
    ).encode("latin-1")
    tests = read(report)
    assert (tests.problem, tests.results[0].name) == (None, "pr\ufffdft")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_blank_lines_before_the_declaration(encoding):
    report = f"\n \r\n<?xml version='1.0'?>{GOOD}".encode(encoding)
    assert (read(report).problem, read(report).cases) == (None, {"passed": 1})


def test_second_document_in_the_same_file_is_a_problem():
    tests = read(GOOD + "<?xml version='1.0'?>" + GOOD)
    assert "not well-formed" in tests.problem
    assert tests.cases == {"passed": 1}


def test_characters_that_xml_cannot_have_are_replaced():
    name = "a&#x0;b&#31;c&#xD83D;&#xDE00;d&#55357;e\x01f\ufffeg"
    tests = read(suite_of(f"<testcase name='{name}'/>"))
    assert (tests.problem, tests.results[0].name) == (None, "a�b�c��d�e f�g")


# Properties

NAMES = st.text("abcé<>&'\"[] \u2028😀", max_size=8)
NUMBERS = st.one_of(
    st.floats(0, 400).map(str), st.sampled_from(["", "NaN", "-1", "1,5", "1,234.5", "x", "1e400"])
)
MOMENTS = st.one_of(
    st.integers(-7_200, 7_200).map(
        lambda s: f"2026-11-20T{12 + s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}"
    ),
    st.sampled_from(
        ["", "Z", "2026-11-20T12:00:10Z", "2026-11-20T12:04:59.9Z", "2026-11-20T11:59:58Z"]
    ),
)
OUTCOMES = st.sampled_from(
    ["", "<failure message='m'>t</failure>", "<error/>", "<skipped/>", "<flakyFailure/>", "<x/>"]
)


@st.composite
def case_elements(draw):
    attributes = "".join(
        f" {name}={quoteattr(draw(values))}"
        for name, values in (
            ("name", NAMES),
            ("classname", NAMES),
            ("time", NUMBERS),
            ("timestamp", MOMENTS),
        )
        if draw(st.booleans())
    )
    return f"<testcase{attributes}>{draw(OUTCOMES)}</testcase>"


def suite_elements(children):
    return st.builds(
        lambda name, time_, moment, inside: (
            f"<testsuite name={quoteattr(name)} time={quoteattr(time_)} timestamp={quoteattr(moment)}>"
            f"{''.join(inside)}</testsuite>"
        ),
        NAMES, NUMBERS, MOMENTS, st.lists(children, max_size=4),
    )  # fmt: skip


REPORTS = st.lists(
    st.recursive(suite_elements(case_elements()), suite_elements, max_leaves=6), max_size=4
).map(lambda suites: f"<testsuites>{''.join(suites)}</testsuites>")
POLICIES = st.builds(
    CasePolicy,
    which=st.sampled_from(["failed", "slow", "all", "none"]),
    max_spans=st.integers(0, 12),
    max_results=st.just(1_000),
)


@unhurried
@given(report=REPORTS, policy=POLICIES, cut=cuts, length_s=st.integers(0, 400))
def test_spans_hold_together_however_a_report_is_split(report, policy, cut, length_s):
    job = JobTimes("j", NOON_NS, NOON_NS + length_s * SECOND_NS)
    content = report.encode()
    whole = read(content, policy, job)
    assert whole == read_junit(split(content, cut), job, path="report.xml", cases=policy)
    assert whole.problem is None
    assert sum(whole.cases.values()) == len(whole.results) == report.count("<testcase")
    assert len(whole.spans) <= policy.max_spans


@unhurried
@given(
    sample=st.sampled_from([one for one in samples() if one.suffix == ".xml"]),
    damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=4)), max_size=4),
    end=st.integers(0, 1 << 16),
    cut=cuts,
)
def test_damaged_reports_give_spans_that_hold_together(sample, damage, end, cut):
    content = bytearray(sample.read_bytes())
    for place, piece in damage:
        at = place % len(content)
        content[at : at + len(piece)] = piece
    content = bytes(content[: end % (2 * len(content))])
    whole = read(content)
    assert whole == read_junit(split(content, cut), JOB, path="report.xml", cases=ALL_CASES)


@unhurried
@given(content=st.binary(max_size=200), packed=st.booleans())
def test_any_bytes_are_refused_quietly(content, packed):
    tests = read(gzip.compress(content) if packed else content)
    assert tests.problem
    assert not tests.spans


def test_results_do_not_depend_on_where_a_large_report_is_split(monkeypatch):
    cases = "".join(
        f"<testcase name='&lt;{number}&#x1b;é&gt;' time='0.01'>{'<failure/>' * (number % 7 == 0)}</testcase>"
        for number in range(3_000)
    )
    content = suite_of(cases, "timestamp='2026-11-20T12:00:10Z'").encode()
    whole = read(content)
    for size in (1_000, 4_093, PIECE - 1, PIECE + 1):
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        assert read_junit(pieces, JOB, path="report.xml", cases=ALL_CASES) == whole
    monkeypatch.setattr(streams, "BLOCK_BYTES", 61)
    assert read(content) == whole

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest

from bk_pipeline_tests.analysis.test_flaky import FIRST, Store, build, job
from bk_pipeline_tests.builders import DAY_S, make_retry, uid
from bk_pipeline_tests.insides import case, suite

LAST = FIRST + timedelta(days=10)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    return Store(tmp_path)


def add(store, day, *, failures=0):
    """A day with a build of a step `unit` that fails first, and a step `lint` that does not."""
    after_s = (day - FIRST).days * DAY_S
    attempts = [job("unit", f"{day}", state="failed" if failures else "passed", runnable_s=after_s)]
    for n in range(failures):
        again = "failed" if n + 1 < failures else "passed"
        attempts.append(make_retry(attempts[-1], made_s=after_s + 600 * (n + 1), state=again))
    jobs = [*attempts, job("lint", f"{day}", runnable_s=after_s)]
    store.add(day, [build(f"{day}", jobs, commit=f"commit {day}")])


def lines(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_sentence_comes_first_and_then_the_flaky_steps(store, call):
    add(store, FIRST, failures=12)
    add(store, LAST)
    first, _, head, only = lines(call("flaky"))
    assert first == (
        "1 of 2 steps was flaky from 2026-02-11 to 2026-03-12 and cost 2 agent minutes; the worst: "
        "shop / unit, which failed 12 times on 1 commit and then passed."
    )
    assert head.split()[:4] == ["pipeline", "step", "flaky", "rate"]
    assert "cost" not in head
    assert only.split()[:6] == ["shop", "unit", "12/14", "85.7%", "92.3%", "0.0%"]
    assert only.split()[-1] == "2"
    assert max(map(len, (head, only))) <= 120


def test_history_says_how_the_worst_step_changed(store, call):
    add(store, FIRST, failures=1)
    add(store, LAST)
    first, _, _, *rows = lines(call("flaky", "--by", "week"))
    assert first.endswith(
        "shop / unit, which failed 1 time and then passed: 50.0% of the attempts from 2026-03-02, "
        "0.0% from 2026-03-09."
    )
    assert [row.split()[:6] for row in rows] == [
        ["shop", "unit", "2026-03-02", "2", "1", "50.0%"],
        ["shop", "unit", "2026-03-09", "1", "0", "0.0%"],
    ]


def test_json_has_every_field_and_only_flaky_steps(store, call):
    add(store, FIRST, failures=1)
    [row] = json.loads(call("flaky", "--format", "json").stdout)
    assert (row["pipeline"], row["step"], row["flaky_attempts"]) == ("shop", "unit", 1)
    assert {"last_seen_url", "delay_p50_s", "cost", "currency", "attempts_since"} <= row.keys()


def test_nothing_flaky_and_nothing_at_all_are_sentences(store, call):
    assert "no stored spans" in call("flaky").stderr
    add(store, FIRST)
    assert lines(call("flaky")) == [
        "None of 2 steps was flaky from 2026-02-01 to 2026-03-02.",
    ]
    assert lines(call("flaky", "--pipeline", "web"))[0].startswith("No step passed or failed")
    assert json.loads(call("flaky", "--format", "json").stdout) == []


def test_the_period_is_that_of_the_options(store, call):
    add(store, FIRST, failures=1)
    add(store, LAST, failures=1)
    of_first = call("flaky", "--until", str(FIRST), "--format", "json").stdout
    assert json.loads(of_first)[0]["attempts"] == 2
    of_last = call("flaky", "--since", str(LAST), "--format", "json").stdout
    assert json.loads(of_last)[0]["attempts"] == 2
    wrong = call("flaky", "--since", str(LAST), "--until", str(date(2026, 3, 1)))
    assert (wrong.returncode, "ends before it begins" in wrong.stderr) == (2, True)


def failed_tests(*names):
    """A suite whose tests of these names failed."""
    return [suite("cart", 0, 9, failures=len(names)), *(case(n, 0, 1, parent=0) for n in names)]


def test_flaky_tests_are_those_that_failed_in_flaky_attempts(store, call):
    add(store, FIRST, failures=2)
    first = job("unit", f"{FIRST}")["id"]
    second = uid(f"{first} attempt 1")
    store.add_insides(FIRST, {first: failed_tests("a", "b"), second: failed_tests("b")})
    broken = [job("unit", "broken", state="failed", runnable_s=10 * DAY_S)]
    store.add(LAST, [build("broken", broken, commit="c")])
    store.add_insides(LAST, {broken[0]["id"]: failed_tests("b", "c")})
    told, _, head, *found = lines(call("flaky", "--tests"))
    assert told == (
        "2 tests were flaky from 2026-02-11 to 2026-03-12; the worst: tests.cart / b of shop / "
        "unit, which failed 2 times on 1 commit in jobs that then passed."
    )
    assert head.split() == ["pipeline", "step", "test", "flaky", "commits", "other", "last", "seen"]
    assert [row.split() for row in found] == [
        ["shop", "unit", "tests.cart", "/", "b", "2", "1", "1", "2026-03-02"],
        ["shop", "unit", "tests.cart", "/", "a", "1", "1", "0", "2026-03-02"],
    ]
    row, _ = json.loads(call("flaky", "--tests", "--format", "json").stdout)
    assert row["last_seen_url"].endswith(second)
    assert (row["suite"], row["message"]) == ("cart", "expected 3, got 4")
    assert lines(call("flaky", "--tests", "--step", "lint"))[0].startswith("No test was flaky")


def test_names_of_flaky_tests_fit(store, call):
    add(store, FIRST, failures=1)
    long = "統合 " * 20 + "end"
    store.add_insides(FIRST, {job("unit", f"{FIRST}")["id"]: failed_tests(long, "\x1b[31m red")})
    done = call("flaky", "--tests")
    assert "\x1b" not in done.stdout
    assert any("end" in line for line in lines(done)[3:])


def test_without_test_results_it_says_how_to_have_them(store, call):
    add(store, FIRST, failures=1)
    [told] = lines(call("flaky", "--tests"))
    assert told.startswith("No test results are stored from 2026-02-01 to 2026-03-02.")
    assert "BK_PIPELINE_JOB_DETAILS" in told
    both = call("flaky", "--tests", "--by", "week")
    assert (both.returncode, "leave out --by" in both.stderr) == (2, True)

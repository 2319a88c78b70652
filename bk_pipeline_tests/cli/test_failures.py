from __future__ import annotations

import json
from datetime import timedelta

import pytest

from bk_pipeline_tests.analysis.test_flaky import FIRST, Store, build, job
from bk_pipeline_tests.builders import DAY_S
from bk_pipeline_tests.insides import case, section, sections, suite

LAST = FIRST + timedelta(days=10)
KNOWN, NEW = "0" * 15 + "1", "0" * 15 + "2"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    return Store(tmp_path)


def broken(kind, message, signature):
    return [
        *sections(("Install", 5)),
        section("T", 5, 9, index=1, failure=(kind, message, signature)),
    ]


def add(store, day, found, **fields):
    """A day with a build of a failed job for each item, which has that inside; None: nothing."""
    at_s = (day - FIRST).days * DAY_S
    jobs = [
        job(f"step {n % 2}", f"{day} {n}", state="failed", runnable_s=at_s + n)
        for n in range(len(found))
    ]
    store.add(day, [build(f"{day}", jobs, state="failed", **fields)])
    inside = {one["id"]: parts for one, parts in zip(jobs, found, strict=True) if parts}
    if inside:
        store.add_insides(day, inside)


def lines(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def objects(call, *options):
    done = call("failures", "--format", "json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_new_failures_come_first_and_known_ones_by_how_often(store, call):
    known = broken("test", "expected 3", KNOWN)
    add(store, FIRST, [known])
    add(store, LAST, [known, known, broken("infrastructure", "no space left", NEW), None])
    told, coverage, new, _, head, first, second = lines(call("failures"))
    assert told == (
        "3 failures with 2 messages from 2026-03-06 to 2026-03-12; 1 is new, not seen in the "
        "stored days before (at most 30), and failed jobs 1 time."
    )
    assert coverage == "Job details were read of 3 of 4 failed jobs."
    assert new.startswith("New: no space left  https://buildkite.com/acme/shop/builds/7#")
    assert head.split() == ["kind", "failures", "first", "last", "where", "message"]
    assert first.split()[:5] == ["new", "infrastructure", "1", "03-12", "03-12"]
    assert second.split() == [
        "test",
        "2",
        "03-02",
        "03-12",
        "shop",
        "/",
        "2",
        "steps",
        "expected",
        "3",
    ]
    assert max(map(len, (head, first, second))) <= 120


def test_known_failures_alone_are_not_called_new(store, call):
    known = broken("test", "expected 3", KNOWN)
    for day in (FIRST, LAST):
        add(store, day, [known])
    told = lines(call("failures"))[0]
    assert told.endswith("none is new: all were seen in the stored days before (at most 30).")


def test_json_has_every_field(store, call):
    add(store, FIRST, [broken("test", "expected 3", KNOWN)])
    add(store, LAST, [broken("test", "expected 7", KNOWN), broken("build", "undefined: x", NEW)])
    new, known = objects(call)
    assert (new["signature"], new["is_new"], new["failures_before"]) == (NEW, True, 0)
    assert (known["signature"], known["is_new"], known["failures_before"]) == (KNOWN, False, 1)
    assert (known["message"], known["pipelines"], known["steps"]) == (
        "expected 7",
        ["shop"],
        ["step 0"],
    )
    assert known["first_seen"] == "2026-03-02T09:00:11.000000Z"
    assert known["last_seen"] == "2026-03-12T09:00:11.000000Z"
    assert known["url"].startswith("https://buildkite.com/acme/shop/builds/7#")
    assert (known["failures"], known["builds"]) == (1, 1)


def test_nothing_is_called_new_without_anything_before(store, call):
    add(store, LAST, [broken("test", "expected 3", KNOWN)])
    assert lines(call("failures"))[0].endswith("No earlier job details tell which of them are new.")
    [row] = objects(call)
    assert row["is_new"] is None


def test_failures_without_text_are_counted_by_kind(store, call):
    add(store, FIRST, [broken("test", None, None)])
    add(store, LAST, [broken("test", None, None), broken("timeout", None, None)])
    assert {(row["kind"], row["failures"], row["is_new"]) for row in objects(call)} == {
        ("test", 1, None),
        ("timeout", 1, None),
    }
    assert len(lines(call("failures"))) == 5


def test_tests_count_if_the_log_was_not_read(store, call):
    tests = [
        suite("cart", 0, 9, failures=2),
        case("a", 0, 1, parent=0, signature=KNOWN),
        case("b", 0, 1, parent=0, signature=KNOWN),
        case("good", 0, 1, parent=0, failed=False),
    ]
    add(store, LAST, [tests, [*tests, *broken("build", "no compiler", NEW)]])
    assert [(row["signature"], row["kind"], row["failures"]) for row in objects(call)] == [
        (NEW, "build", 1),
        (KNOWN, "test", 1),
    ]


def test_canceled_jobs_did_not_fail(store, call):
    canceled = job("unit", "canceled", state="canceled")
    store.add(LAST, [build("canceled", [canceled], state="canceled")])
    store.add_insides(LAST, {canceled["id"]: broken("unknown", "The job was canceled", NEW)})
    assert objects(call) == []


def test_filters_choose_failures_and_not_what_is_known(store, call):
    known = broken("test", "expected 3", KNOWN)
    add(store, FIRST, [known], branch="feature/x")
    add(store, LAST, [known, broken("timeout", "too long", NEW)], branch="main")
    assert [row["is_new"] for row in objects(call, "--branch", "main")] == [True, False]
    assert objects(call, "--branch", "feature/*") == []
    assert objects(call, "--pipeline", "web") == []
    assert [row["kind"] for row in objects(call, "--kind", "timeout")] == ["timeout"]
    assert call("failures", "--kind", "weather").returncode == 2
    of_first = objects(call, "--since", str(FIRST), "--until", str(FIRST))
    assert [row["failures"] for row in of_first] == [1]
    assert "have no failure that matches" in lines(call("failures", "--pipeline", "web"))[0]


def test_without_job_details_it_says_how_to_have_them(store, call):
    assert "no stored spans" in call("failures").stderr
    add(store, LAST, [None])
    [told] = lines(call("failures"))
    assert told.startswith("No job details are stored from 2026-03-06 to 2026-03-12")
    assert "set BK_PIPELINE_JOB_DETAILS" in told
    assert objects(call) == []


def test_messages_cannot_write_to_the_terminal(store, call):
    add(store, FIRST, [broken("test", "x", KNOWN)])
    add(store, LAST, [broken("test", "red \x1b[31m\nand \u202eright", NEW)])
    shown = call("failures").stdout
    assert not {"\x1b", "\u202e"} & set(shown)
    assert "New: red [31m and right" in shown

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from bk_pipeline.cli.trace import describe, waterfall
from bk_pipeline.text import duration
from bk_pipeline.trace.labels import of_all_jobs, readable
from bk_pipeline.trace.waterfall import Timescale, longest_on_path, outline
from bk_pipeline_tests.builders import (
    at,
    make_block,
    make_build,
    make_job,
    make_retry,
    make_spans,
)
from bk_pipeline_tests.insides import (
    case,
    command,
    section,
    sections,
    spans_with_insides,
    suite,
)


def spans_of(*jobs, **fields):
    return make_spans(make_build(list(jobs), **fields))


def drawn(spans, width=100, **options):
    out = io.StringIO()
    Console(file=out, width=width).print(waterfall(spans, width=width, **options))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("length_ms", "text"),
    [
        (0, "0 ms"),
        (840, "840 ms"),
        (12_300, "12.3 s"),
        (245_000, "4 m 05 s"),
        (7_800_000, "2 h 10 m"),
        (788_400_000, "9 d 3 h"),
    ],
)
def test_durations_have_at_most_two_units(length_ms, text):
    assert duration(length_ms) == text


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (":rocket: Deploy", "🚀 Deploy"),
        (":jest: Unit tests", "Unit tests"),
        (":pipeline:", "pipeline"),
        (":docker: :buildkite:", "docker buildkite"),
        ("12:30:00 backup", "12:30:00 backup"),
        ("two\nlines\tand \x1b[2J\x07", "two lines and [2J"),
        ("left\u202eright", "left right"),
        ("", ""),
    ],
)
def test_labels_are_printable_on_one_line(label, text):
    assert readable(label) == text


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("Unit tests %n", "Unit tests"),
        ("Unit tests (%n of %t)", "Unit tests"),
        ("%N of %t", "%N of %t"),
        ("Build {{matrix.os}} {{ matrix }}", "Build"),
        ("{{matrix}}", "{{matrix}}"),
        ("100% new", "100% new"),
    ],
)
def test_step_label_omits_placeholders_of_its_jobs(label, text):
    assert of_all_jobs(label) == text


def test_each_span_has_a_line_and_single_job_steps_are_merged():
    lines = drawn(spans_of(make_job("lint"), make_job("test", run_s=30)))
    assert [line.split("█")[0].split("░")[0].strip() for line in lines] == [
        "shop #7 (passed)",
        "stage 1",
        "lint",
        "test",
    ]
    assert "░" in lines[2]
    assert lines[3].endswith("30.0 s")


def test_outcomes_are_described_in_text():
    lost = make_job("lost", state="failed", exit_status=-1)
    late = make_job("late", state="timed_out", run_s=60)
    never = make_job("never", state="expired", run_s=None, finished_at="2026-03-02T09:01:00.000Z")
    soft = make_job("soft", state="failed", soft_failed=True)
    hard = make_job("hard", state="failed", exit_status=2)
    text = "\n".join(drawn(spans_of(lost, late, never, soft, hard, state="failed")))
    for words in (
        "✗ shop #7 (failed)",
        "✗ lost (agent lost)",
        "✗ late (timed out)",
        "✗ never (expired, never started)",
        "  soft (soft failed, exit 1)",
        "✗ hard (exit 2)",
    ):
        assert words in text
    assert "✗ soft" not in text


@pytest.mark.parametrize("width", [12, 20, 40, 60, 100, 250])
def test_lines_fit_the_terminal(width):
    name = "統合テスト :rocket: " * 9
    lines = drawn(spans_of(make_job(name), make_job("b")), width=width)
    assert len(lines) == 4
    assert max(map(cell_len, lines)) <= max(width, 20)


def test_narrow_terminal_has_no_bars():
    lines = drawn(spans_of(make_job("lint"), make_job("test")), width=26)
    assert not any(bar in line for line in lines for bar in "█░")
    assert lines[2].strip().startswith("lint")
    assert lines[2].endswith("10.0 s")


def test_many_jobs_are_folded_into_a_line_with_counts():
    jobs = [make_job(f"test {n}", run_s=n % 50, state="passed") for n in range(2_000)]
    jobs[1_234] = make_job("the bad one", state="failed", run_s=1)
    spans = spans_of(*jobs, state="failed")
    lines = drawn(spans, most_lines=150)
    assert len(lines) <= 150
    assert any("the bad one" in line for line in lines)
    assert any("… 1,901 more: 1,901 passed" in line for line in lines)
    assert len(outline(spans)) == 2_002


def test_parallel_jobs_are_folded_below_their_step():
    step = {"id": "0192aaaa-0000-4000-8000-000000000001"}
    jobs = [
        make_job(f"unit {n}", step=step, parallel_group_index=n, parallel_group_total=400)
        for n in range(400)
    ]
    lines = drawn(spans_of(*jobs), most_lines=60)
    assert len(lines) <= 60
    assert "… 351 more: 351 passed" in "\n".join(lines)


def test_span_without_its_parent_is_shown():
    spans = [one for one in spans_of(make_job("lint")) if one["name"] != "buildkite.build.stage"]
    assert any("lint" in line for line in drawn(spans))


def test_long_pause_is_shortened_and_activity_keeps_its_proportions():
    scale = Timescale(0, 1_000_000, [(0, 100), (999_700, 1_000_000)], columns=104)
    assert scale.shortened
    assert scale.column(0) == 0
    assert scale.column(100) == 20
    assert scale.column(999_700) == 44
    assert scale.column(1_000_000) == 104


def test_time_scale_is_linear_without_long_pauses():
    scale = Timescale(0, 100, [(0, 30), (60, 100), (10, 20)], columns=100)
    assert not scale.shortened
    assert [scale.column(moment) for moment in (-5, 0, 45, 99, 100, 200)] == [
        0,
        0,
        45,
        99,
        100,
        100,
    ]


def test_time_scale_without_any_activity():
    scale = Timescale(5, 5, [], columns=10)
    assert scale.column(5) in range(11)
    assert not scale.shortened


@pytest.mark.parametrize(
    ("label", "matrix", "shown"),
    [
        ("test {{matrix}}", "linux", "test linux"),
        ("test {{matrix}}", {"": "linux"}, "test linux"),
        ("test {{matrix}}", {"os": "linux"}, "test linux"),
        ("test {{ matrix.os }} {{matrix.go}}", {"os": "linux", "go": 1.25}, "test linux 1.25"),
        ("test {{matrix.arch}}", {"os": "linux"}, "test {{matrix.arch}}"),
        ("test {{matrix}}", ["a", "b"], 'test ["a","b"]'),
        ("test {{matrix}}", None, "test {{matrix}}"),
    ],
)
def test_matrix_job_is_labeled_with_its_values(label, matrix, shown):
    spans = spans_of(make_job("a", label=label, matrix=matrix))
    assert any(shown in line for line in drawn(spans))
    [job] = [one["attributes"] for one in spans if one["name"] == "buildkite.job"]
    assert job["buildkite.job.label"] == job["cicd.pipeline.task.name"] == shown


@pytest.mark.parametrize(
    ("label", "shown"),
    [("{{matrix}}", "linux/mac"), ("test {{ matrix }}", "test"), ("{{matrix.go}}", None)],
)
def test_matrix_step_has_a_label_without_placeholders_if_it_can(label, shown):
    fields = {"label": label, "step": {"id": "1", "key": "m"}}
    spans = spans_of(*(make_job(one, matrix=one, **fields) for one in ("linux", "mac")))
    [step] = [one for one in outline(spans) if one.span["name"] == "buildkite.step"]
    assert step.name == (shown or label)
    assert any(step.name in line for line in drawn(spans))


@pytest.mark.parametrize(
    ("jobs", "advice"),
    [
        ([make_job("lint", run_s=30)], "30.0 s of 33.2 s: running lint"),
        (
            [make_job("a", wait_s=192, agent_query_rules=["queue=large"], agent=None)],
            "3 m 12 s of 3 m 23 s: waiting for agents of queue large",
        ),
        (
            [make_job("a"), make_block(unblocked_s=60), make_job("b", runnable_s=61)],
            "47.0 s of 1 m 13 s: waiting for a person at Release?",
        ),
        (
            [make_job("a", run_s=None, state="expired", expired_at=at(90))],
            "1 m 29 s of 1 m 30 s: waiting for agents of queue default",
        ),
    ],
)
def test_longest_part_of_the_critical_path_is_named(jobs, advice):
    assert longest_on_path(spans_of(*jobs)) == advice


def test_build_without_critical_path_has_no_advice():
    assert longest_on_path(make_spans(make_build(), critical_path=False)) is None


def test_jobs_off_the_critical_path_have_other_bars():
    lines = drawn(spans_of(make_job("lint", run_s=5), make_job("test", run_s=30)))
    assert ["▓" in line for line in lines] == [False, False, True, False]


def steps_in(spans, **options):
    """The lines below the stage, without bars and lengths."""
    lines = [re.split("[█▓░▄▒╌]", line)[0].rstrip() for line in drawn(spans, **options)]
    return [line[4:] for line in lines[2:]]


def test_what_is_inside_of_a_job_is_below_it():
    job = make_job("unit", run_s=60)
    inside = [
        section(None, 0, 1),
        section(":npm: Install", 1, 40, index=1),
        command("npm ci", 2, 40, parent=1),
        section("Tests", 40, 60, index=2),
        suite("cart", 41, 50),
        case("test_total", 41, 42, parent=4, failed=False),
    ]
    shown = steps_in(spans_with_insides(make_build([job]), {job["id"]: inside}), most_lines=None)
    assert shown == [
        "unit",
        "  log",
        "  Install",
        "    npm ci",
        "  Tests",
        "  cart (10 tests)",
        "    test_total",
    ]


def test_failed_section_and_tests_of_a_failed_job_are_shown_and_others_folded():
    failed, passed = make_job("unit", state="failed", run_s=60), make_job("lint", run_s=90)
    inside = [
        *sections(*((f"part {n}", 2) for n in range(20))),
        section("Tests", 40, 60, index=20, failure=("test", "expected 3", "0" * 16)),
        suite("cart", 41, 50, failures=4),
        *(case(f"test_{n}", 41 + n, 42 + n, parent=21) for n in range(4)),
        *(case(f"good_{n}", 45, 46, parent=21, failed=False) for n in range(3)),
    ]
    found = {failed["id"]: inside, passed["id"]: sections(*((f"s{n}", 0) for n in range(8)))}
    spans = spans_with_insides(make_build([passed, failed], state="failed"), found)
    shown = steps_in(spans, most_lines=150)
    assert shown[: shown.index("lint")] == [
        "✗ unit (exit 1)",
        "  ✗ Tests (test failure)",
        "  ✗ cart (4 of 10 tests failed)",
        "    ✗ test_0",
        "    ✗ test_1",
        "    ✗ test_2",
        "    … 4 more tests, 1 of them failed",
        "  … 20 more sections",
    ]


def test_many_jobs_with_many_sections_stay_readable():
    """Only the longest of the critical path are shown, and how many there are."""
    jobs = [make_job(f"job {n}", run_s=100 + n) for n in range(50)]
    found = {job["id"]: sections(*((f"section {n}", n % 7 / 2) for n in range(20))) for job in jobs}
    spans = spans_with_insides(make_build(jobs), found)
    lines = drawn(spans, most_lines=150)
    assert len(lines) == 57
    assert lines[-1].strip() == "3 of 1,000 spans inside of jobs are shown: --all shows all"
    assert steps_in(spans, most_lines=150)[-6:-1] == [
        "job 49",
        "  section 5",
        "  section 6",
        "  section 13",
        "  … 17 more sections",
    ]
    assert len(drawn(spans, most_lines=None)) == 1_052


def test_bars_inside_are_within_the_bar_of_the_job():
    job = make_job("unit", run_s=60)
    inside = sections(("a", 10), ("b", 20), ("c", 30))
    _, _, bar, *parts = drawn(spans_with_insides(make_build([job]), {job["id"]: inside}))
    places = [[at for at, c in enumerate(line) if c in "█▄"] for line in (bar, *parts[:3])]
    whole, *inner = places
    assert min(inner[0]) == whole[0]
    assert max(inner[2]) == whole[-1]
    assert [len(one) / len(whole) for one in inner] == pytest.approx(
        [1 / 6, 1 / 3, 1 / 2], abs=0.05
    )


def test_retried_and_soft_failed_attempts_show_where_they_failed():
    first = make_job("unit", state="failed")
    again = make_retry(first, made_s=30, state="failed", soft_failed=True)
    broken = section("Tests", 0, 10, failure=("infrastructure", "no disk", "1" * 16))
    found = {one["id"]: [broken] for one in (first, again)}
    shown = steps_in(spans_with_insides(make_build([first, again]), found), most_lines=150)
    assert sum("✗ Tests (infrastructure failure)" in line for line in shown) == 2


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ([], ""),
        (sections(("Install", 40), ("Tests", 20)), ", most of it in `Install` (40.0 s)"),
        (
            sections(("a", 25), ("b", 18), ("c", 17)),
            ", the longest part of it `a` (25.0 s)",
        ),
        (
            [*sections(("Running commands", 55)), command("npm ci", 1, 50, parent=0)],
            ", most of it in `npm ci` (49.0 s)",
        ),
        (
            [*sections(("Running commands", 55)), command("npm ci", 1, 20, parent=0)],
            ", most of it in `Running commands` (55.0 s)",
        ),
        ([section(None, 0, 60)], ""),
    ],
)
def test_longest_section_of_the_critical_path_is_named(inside, told):
    job = make_job("unit", run_s=60)
    found = {job["id"]: inside} if inside else {}
    spans = spans_with_insides(make_build([job, make_job("lint")]), found)
    assert longest_on_path(spans) == f"1 m 00 s of 1 m 03 s: running unit{told}"


def failures_in(payload, found):
    out = io.StringIO()
    console = Console(file=out, width=100)
    describe(spans_with_insides(payload, found), console, {"buildkite.com"})
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return lines[next(at for at, line in enumerate(lines) if re.match("✗ .*: failed", line)) :]


def test_failures_have_their_reason_and_failed_tests():
    jobs = [make_job(name, state="failed") for name in ("unit", "deploy", "odd", "dark")]
    message = "E   assert 3 == 4" + " and more" * 100
    tests = [
        section("Tests", 0, 9, failure=("test", message, "0" * 16)),
        suite("cart", 1, 5, failures=5),
        *(case(f"test_{n}", 1, 2, parent=1) for n in range(5)),
        case("good", 1, 2, parent=1, failed=False),
    ]
    down = section(None, 0, 9, failure=("infrastructure", "connection\nreset\x1b[2J", "1" * 16))
    odd = section(None, 0, 9, failure=("unknown", None, None))
    found = dict(zip((job["id"] for job in jobs), (tests, [down], [odd]), strict=False))
    unit, *told, deploy, reason, odd_one, dark = failures_in(
        make_build(jobs, state="failed"), found
    )
    assert unit.startswith("✗ unit: failed after 10.0 s  https://buildkite.com/acme/shop/builds/7#")
    assert told[0].startswith("    test failure: E assert 3 == 4 and more")
    assert len(told[0]) < 230
    assert told[1:] == [
        "    ✗ tests.cart / test_0: expected 3, got 4",
        "    ✗ tests.cart / test_1: expected 3, got 4",
        "    ✗ tests.cart / test_2: expected 3, got 4",
        "    and 2 more failed tests",
    ]
    assert deploy.startswith("✗ deploy: failed")
    assert reason == "    infrastructure failure: connection reset [2J"
    assert odd_one.startswith("✗ odd: failed")
    assert dark.startswith("✗ dark: failed")

"""The spans that rules match, and their markers."""

from __future__ import annotations

import pytest

from bk_pipeline.honeycomb.matching import columns_for, markers_in
from bk_pipeline.honeycomb.rules import REGRESSION_FIELDS, Regression
from bk_pipeline_tests.builders import (
    BEGAN,
    at,
    make_agent,
    make_block,
    make_build,
    make_job,
    make_pipeline,
    make_retry,
    uid,
)

START = int(BEGAN.timestamp())


@pytest.fixture
def markers_of(rules_of, spans):
    """Returns the markers that one rule makes of payloads, by message."""

    def markers_of(rule, *payloads):
        rules = rules_of(rule).rules
        table = spans(*payloads).select(columns_for(rules))
        markers, _ = markers_in([table], rules)
        return {marker.message: marker for marker in markers.values()}

    return markers_of


def builds(**values):
    """Return a build for each value of a field, numbered from 1."""
    [(name, each)] = values.items()
    return [
        make_build([], id=uid(f"build {number}"), number=number, **{name: value})
        for number, value in enumerate(each, 1)
    ]


@pytest.mark.parametrize(
    ("rule", "payloads", "expected"),
    [
        ("", builds(branch=["main", "x"]), "12"),
        ('branch = "main"', builds(branch=["main", "maine", None]), "1"),
        ('branch = ["main", "rel/*"]', builds(branch=["main", "rel/1", "x"]), "12"),
        ('branch = "!main"', builds(branch=["main", "rel/1", None]), "2"),
        ('branch = ["rel/*", "!rel/2"]', builds(branch=["rel/1", "rel/2", "x"]), "1"),
        ('branch = "Main"', builds(branch=["main"]), ""),
        ('pipeline = "we*"', builds(pipeline=[make_pipeline("web"), make_pipeline("api")]), "1"),
        ('state = "failed"', builds(state=["passed", "failed", "canceled"]), "2"),
        ('source = "schedule"', builds(source=["webhook", "schedule"]), "2"),
        ('source = "ui"\nbranch = "main"', builds(source=["ui", "webhook"]), "1"),
    ],
    ids=[
        "all", "branch", "one of several", "all but", "several but", "case", "pipeline", "state",
        "source", "two conditions",
    ],
)  # fmt: skip
def test_builds_match_if_they_fulfil_every_condition(markers_of, rule, payloads, expected):
    assert sorted(markers_of(rule, *payloads)) == [f"#{number}" for number in expected]


def regression(build, name):
    values = dict.fromkeys(REGRESSION_FIELDS) | {"regression.subject": f"web / {name}"}
    return Regression(build_id=uid(build), name=name, values=values)


def test_regression_rule_marks_each_change_at_its_first_build(rules_of, spans):
    rules = rules_of(
        'regression = true\nbranch = "main"\n'
        'message = "{regression.subject}{regression.step} #{buildkite.build.number}"',
        'state = "passed"',
    ).rules
    changes = [regression("build 1", "a"), regression("build 1", "b"), regression("build 2", "c")]
    table = spans(*builds(branch=["main", "x", "main"])).select(columns_for(rules))

    found, _ = markers_in([table], rules, regressions=changes)

    marked = {(subject.rule, marker.message) for subject, marker in found.items()}
    ordinary = {("r2", f"#{number}") for number in (1, 2, 3)}
    assert marked == {("r1/a", "web / a- #1"), ("r1/b", "web / b- #1")} | ordinary
    assert {subject.rule_id for subject in found} == {"r1", "r2"}
    without, _ = markers_in([table], rules)
    assert {subject.rule for subject in without} == {"r2"}


def test_first_build_that_no_longer_matches_has_no_marker(rules_of, spans):
    rules = rules_of('regression = true\nstate = "failed"').rules
    tables = [
        spans(*builds(state=[state])).select(columns_for(rules)) for state in ("failed", "passed")
    ]
    changes = [regression("build 1", "a")]

    assert len(markers_in(tables[:1], rules, regressions=changes)[0]) == 1
    assert markers_in(tables, rules, regressions=changes)[0] == {}


def job_build():
    return make_build(
        [
            make_job("test", run_s=5),
            make_job("deploy-web", run_s=100, step={"id": uid("s"), "label": "Deploy"}),
            make_job("late", wait_s=700, agent=make_agent(meta_data=["queue=big"])),
            make_job("flaky", state="failed"),
            make_job("never", run_s=None, state="expired", expired_at=at(900), runnable_s=100),
        ]
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", "deploy-web flaky late never test"),
        ('step_key = "deploy*"', "deploy-web"),
        ('job_name = "*late*"', "late"),
        ('state = ["failed", "expired"]', "flaky never"),
        ('queue = "big"', "late"),
        ('branch = "main"\nstep_key = "test"', "test"),
        ("min_duration_s = 60", "deploy-web"),
        ("min_wait_s = 700", "late never"),
        ("min_wait_s = 700.5", "never"),
        ("min_wait_s = 801", ""),
    ],
    ids=[
        "all", "step key", "name", "state", "queue", "of the build and its own", "duration", "wait",
        "a longer wait", "too long a wait",
    ],
)  # fmt: skip
def test_jobs_match_if_they_fulfil_every_condition(markers_of, rule, expected):
    found = markers_of(f'on = "job"\nmessage = "{{buildkite.step.key}}"\n{rule}', job_build())

    assert " ".join(sorted(found)) == expected


def test_build_durations_exclude_pauses_and_waits_are_their_queue(markers_of):
    old = make_job("a", wait_s=30, run_s=10)
    new = make_retry(old, made_s=50_000, run_s=10, wait_s=0)
    build = make_build([old, new])

    assert markers_of("min_duration_s = 40", build)
    assert not markers_of("min_duration_s = 60", build)
    assert markers_of("min_wait_s = 31", build)
    assert not markers_of("min_wait_s = 32", build)


@pytest.mark.parametrize(
    ("rule", "time_range"),
    [
        ('at = "start"', (0, None)),
        ('at = "finish"', (1_712, None)),
        ('at = "start-to-finish"', (0, 1_712)),
        ('at = "wait"', (0, 711)),
        ('on = "job"\nat = "start"', (711, None)),
        ('on = "job"\nat = "finish"', (1_711, None)),
        ('on = "job"\nat = "start-to-finish"', (711, 1_711)),
        ('on = "job"\nat = "wait"', (11, 711)),
    ],
    ids=lambda value: value.replace("\n", " ") if isinstance(value, str) else "",
)
def test_marker_is_a_point_or_a_range_in_whole_seconds(markers_of, rule, time_range):
    build = make_build([make_job(runnable_s=11.4, wait_s=700, run_s=1_000.5)])

    [marker] = markers_of(rule, build).values()

    end = marker.end_time and marker.end_time - START
    assert (marker.start_time - START, end) == time_range


def test_job_without_an_agent_waited_until_it_ended(markers_of):
    build = make_build([make_job(run_s=None, state="expired", expired_at=at(900), runnable_s=100)])
    rule = 'on = "job"\nat = "wait"\nmessage = "waited {buildkite.job.wait_time_ms}"'

    [marker] = markers_of(rule, build).values()

    assert (marker.start_time - START, marker.end_time - START) == (100, 900)
    assert marker.message == "waited 13 m 20 s"


def test_no_wait_range_without_a_wait(markers_of):
    assert not markers_of(
        'on = "job"\nat = "wait"', make_build([make_job(runnable_s=None, run_s=1)])
    )


def test_marker_url_is_the_build_the_job_or_that_of_the_rule(markers_of):
    build = make_build([make_job()])

    [of_build] = markers_of("", build).values()
    [of_job] = markers_of('on = "job"', build).values()
    [elsewhere] = markers_of('url = "https://d.example/{buildkite.build.branch}"', build).values()

    assert of_build.url == "https://buildkite.com/acme/shop/builds/7"
    assert of_job.url == f"https://buildkite.com/acme/shop/builds/7#{uid('job test')}"
    assert elsewhere.url == "https://d.example/main"


def test_block_step_links_to_its_build(markers_of):
    build = make_build([make_job(), make_block(unblocked_s=60)])

    [marker] = markers_of('on = "job"\nstate = "unblocked"', build).values()

    assert marker.url == "https://buildkite.com/acme/shop/builds/7"


def test_last_span_of_a_build_wins(rules_of, spans):
    rules = rules_of('state = "failed"', 'state = "passed"').rules
    failed, passed = (spans(make_build(state=state)) for state in ("failed", "passed"))

    first, _ = markers_in([failed], rules)
    both, _ = markers_in([failed, passed], rules)
    back, _ = markers_in([failed, passed, failed], rules)

    assert [subject.rule for subject in first] == ["r1"]
    assert [subject.rule for subject in both] == ["r2"]
    assert list(back) == list(first)


def test_held_spans_in_the_tables_are_returned(rules_of, spans):
    rules = rules_of('state = "canceled"').rules
    here = spans(make_build())
    key = (bytes.fromhex(here["trace_id"][0].as_py()), bytes.fromhex(here["span_id"][0].as_py()))
    other = (key[0], b"12345678")

    assert markers_in([here], rules, held={key, other}) == ({}, {key})


def test_empty_tables_and_no_rules_make_no_markers(rules_of, spans):
    rules = rules_of('on = "job"\nmin_wait_s = 1', "").rules

    assert markers_in([spans()], rules) == ({}, set())
    assert markers_in([spans(make_build())], ()) == ({}, set())
